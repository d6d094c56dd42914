"""Weights of terms: forms in params.yaml, schedules, and the convention that links options and terms."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline import losses, option_values, plugins
from pipeline.errors import UserError
from pipeline.losses._weights import FORMS, TermWeight, Weight, merged, options_of, term_of
from pipeline.settings import plugin_options

#: Every option that is a weight, with its loss.
WEIGHTS = [
    (name, key) for name in losses.available() for key in plugins.keys(plugins.load("losses", name)) if "weight" in key
]


def terms(name: str, options: dict[str, Any], bench: Any) -> dict[str, float]:
    """Values of all terms, with auxiliary logits in both networks and the same random masks."""
    loss = bench.build(name, **options)
    student, teacher = bench.student(), bench.teacher()
    outputs = ({**vars(output), "aux": output.logits.flip(0)} for output in (student, teacher))
    torch.manual_seed(1)
    return {term: float(v.detach()) for term, v in loss(*(type(student)(**o) for o in outputs), bench.labels()).items()}


def test_every_weight_has_the_type_of_a_weight() -> None:
    assert len(WEIGHTS) == 23
    for name, key in WEIGHTS:
        assert plugins.keys(plugins.load("losses", name))[key].annotation == Weight, (name, key)


@pytest.mark.parametrize(("name", "key"), WEIGHTS)
def test_a_weight_multiplies_the_term_of_its_name_alone(name: str, key: str, bench: Any) -> None:
    base = terms(name, {key: 1.0}, bench)
    doubled = terms(name, {key: 2.0}, bench)
    own = term_of(name, key)
    shared = {"dist_aux"} if key in ("inter_weight", "intra_weight") else set()  # the same sum on auxiliary logits
    assert own in base and base.keys() == doubled.keys()
    for term, value in base.items():
        if term not in shared:
            assert doubled[term] == pytest.approx((2 if term == own else 1) * value, rel=1e-9, abs=1e-12), term


@pytest.mark.parametrize(("name", "key"), WEIGHTS)
def test_every_weight_may_be_auto(name: str, key: str, bench: Any) -> None:
    loss = bench.build(name, **{key: {"auto": 0.3, "decay": 0.5}})
    default = options_of(plugins.keys(plugins.load("losses", name)))[key]
    expected = TermWeight(default or 1.0, share=0.3, decay=0.5)
    assert loss.term_weights[term_of(name, key)] == expected and expected.changes
    assert bench.build(name, **{key: "auto"}).term_weights[term_of(name, key)].share == 0.5


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("automatic", f"allowed: {FORMS}"),
        ({}, f"it needs either auto or constant; allowed: {FORMS}"),
        ({"auto": 0.5, "constant": 1.0}, f"it needs either auto or constant; allowed: {FORMS}"),
        ({"auto": 0}, "auto: got 0; allowed: above 0"),
        ({"auto": True}, "auto: got True; allowed: above 0"),
        ({"constant": -1.0}, "constant: got -1.0; allowed: 0 or more"),
        ({"auto": 0.5, "warmup": 1.5}, "warmup: got 1.5; allowed: 0 or more, at most 1"),
        ({"auto": 0.5, "until": 0}, "until: got 0; allowed: above 0, at most 1"),
        ({"auto": 0.5, "decay": 0.5, "until": 0.4}, "decay: got 0.5; allowed: at most until, which is 0.4"),
        ({"auto": 0.5, "warmup": 0.5, "until": 0.4}, "warmup: got 0.5; allowed: at most until, which is 0.4"),
        ({"auto": 0.5, "decay": "1"}, "decay: got '1'; allowed: 0 or more, at most 1"),
        ({"auto": 0.5, "warm_up": 1}, "warm_up: unknown key; allowed: auto, constant, warmup, decay, until"),
    ],
)
def test_an_invalid_form_is_one_clear_message(form: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        losses.build("kd", {"weight": form})
    assert str(caught.value) == f"losses.kd: 1 problem\n  weight: got {form!r}; {message}"
    shown = list(plugin_options.problems({"losses": {"kd": {"weight": form}}}, ["losses"]))
    assert shown == [f"losses.kd.weight: got {form!r}; {message}"]


@pytest.mark.parametrize("form", [0, 2.5, "auto", {"auto": 3}, {"constant": 0.0, "warmup": 1, "decay": 1, "until": 1}])
def test_valid_forms(form: Any) -> None:
    assert option_values.problem(form, Weight) == ""


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (TermWeight(1.0), [1, 1, 1, 1, 1]),
        (TermWeight(1.0, warmup=0.5), [0, 0.5, 1, 1, 1]),
        (TermWeight(1.0, decay=1.0), [1, 0.75, 0.5, 0.25, 0]),
        (TermWeight(1.0, until=0.5), [1, 1, 0, 0, 0]),
        (TermWeight(1.0, warmup=0.25, decay=0.5, until=0.75), [0, 1, 0.5, 0, 0]),
    ],
)
def test_schedules(weight: TermWeight, expected: list[float]) -> None:
    assert [weight.factor(done) for done in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx(expected)


def test_schedules_of_a_loss_hold_where_params_yaml_sets_none() -> None:
    """Also for a term that no option multiplies."""
    own = {"a": TermWeight(1.0, warmup=0.5), "b": TermWeight(1.0, decay=0.5), "fixed": TermWeight(1.0, until=0.5)}
    asked = {"a": TermWeight(3.0, share=0.2), "b": TermWeight(2.0, until=0.9)}
    assert merged(own, asked) == {
        "a": TermWeight(3.0, share=0.2, warmup=0.5), "b": TermWeight(2.0, until=0.9), "fixed": own["fixed"],
    }  # fmt: skip


def test_a_loss_ends_when_its_last_term_ends(bench: Any) -> None:
    ending = {"constant": 1.0, "until": 0.5}
    assert bench.build("kd", weight=ending).until == 0.5 and bench.build("kd").until == 1.0
    assert bench.build("cirkd", batch_weight=ending).until == 1.0
    assert bench.build("cwd", logit_weight=ending).until == 0.5  # the feature term is left out
    mixture = {"kd": {"weight": ending}, "at": {"weight": {"auto": 0.5, "until": 0.7}}}
    assert losses.build_all(mixture).until == 0.7
    assert sorted(losses.build_all(mixture).term_weights) == ["at", "kd"]
