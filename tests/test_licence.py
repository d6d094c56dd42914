"""Licences of the sources of a network, and what follows from them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import licence
from pipeline.evaluation.assembly import describe_imported, describe_student

FREE = {"name": "Apache-2.0", "url": "u", "commercial": True, "note": ""}
FORBIDS = {"name": "CC BY-NC 4.0", "url": "", "commercial": False, "note": "n"}


@pytest.mark.parametrize(
    ("licences", "allowed"),
    [
        ([FREE], True),
        ([FREE, FREE], True),
        ([FREE, FORBIDS], False),
        ([None, FORBIDS], False),
        ([FREE, None], None),
        ([None], None),
        ([], None),
    ],
)
def test_the_strictest_source_decides(licences: list[Any], allowed: bool | None) -> None:
    assert licence.commercial([licence.source("data", "x", each) for each in licences]) is allowed


def test_a_teacher_adds_only_what_its_student_lacks() -> None:
    own = licence.data({"dataset": "streets", "licence": FREE})
    teacher = {"licences": [own, *licence.weights({"source": "w.pth", "sha256": "0"})]}
    sources = licence.distinct([own, *licence.of_teacher(teacher)])
    assert [(each["role"], each["of"], each["name"]) for each in sources] == [
        ("data", "streets", "Apache-2.0"), ("teacher's initial weights", "w.pth", None),
    ]  # fmt: skip
    other = {"licences": [licence.data({"dataset": "streets", "licence": FORBIDS})]}
    sources = licence.distinct([own, *licence.of_teacher(other)])
    assert [each["commercial"] for each in sources] == [True, False], "the same name, another licence"
    assert licence.weights({}) == [], "random weights have no licence"


def test_networks_and_data_of_an_earlier_version_are_not_stated() -> None:
    (source,) = licence.recorded({"parameters": 1})
    assert source["name"] is None and licence.commercial([source]) is None
    (source,) = licence.of_teacher({})
    assert source["role"] == "teacher's data" and source["commercial"] is None
    assert licence.data({"dataset": "old"}) == {"role": "data", "of": "old", **licence.NOT_STATED}


def network(**facts: Any) -> Any:
    model = {"name": "smp", "options": {"architecture": "unet"}}
    return SimpleNamespace(meta={"model": model, "loss": {"name": "kd"}, "parameters": 12, **facts})


@pytest.mark.parametrize(("stated", "allowed"), [(FORBIDS, False), (FREE, True), (None, None)])
def test_results_have_the_sources_and_what_follows(stated: dict[str, Any] | None, allowed: bool | None) -> None:
    sources = [licence.data({"dataset": "d", "licence": stated})]
    about = describe_student(network(licences=sources), name="s", exported="best", split="val")
    assert about["licences"] == sources and about["commercial"] is allowed
    old = describe_student(network(), name="s", exported="best", split="val")
    assert old["commercial"] is None and [each["name"] for each in old["licences"]] == [None]


@pytest.mark.parametrize(("stated", "allowed"), [(FORBIDS, False), (FREE, None), (None, None)])
def test_an_imported_network_has_unknown_weights_and_the_data_of_its_calibration(
    stated: dict[str, Any] | None, allowed: bool | None
) -> None:
    prepared: Any = SimpleNamespace(artifact=SimpleNamespace(meta={"dataset": "d", "licence": stated}))
    about = describe_imported(network(), name="own", prepared=prepared)
    assert [each["role"] for each in about["licences"]] == ["weights", "calibration data"]
    assert about["licences"][0]["name"] is None and about["commercial"] is allowed


def test_what_a_checkpoint_states() -> None:
    assert licence.of_checkpoint({"license": "MIT"}) == {"name": "MIT", "url": "", "commercial": True, "note": ""}
    assert licence.of_checkpoint({"license": "cc-by-nc-4.0"})["commercial"] is False
    assert licence.of_checkpoint({"license": "OpenRAIL"})["commercial"] is None
    assert (
        licence.of_checkpoint({"license": 3})
        == licence.of_checkpoint(None)
        == licence.of_checkpoint({"licences": ["MIT"]})
        == {}
    )
    ours = [licence.data({"dataset": "d", "licence": FORBIDS}), licence.data({"dataset": "e"})]
    stated = licence.of_checkpoint({"licences": ours})
    assert (stated["name"], stated["commercial"]) == ("CC BY-NC 4.0, not stated", False)
