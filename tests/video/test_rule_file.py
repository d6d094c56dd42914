"""The file of rules: its content, and all of its problems in one error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.rule_file import read_rules
from pipeline.video.rules import Rule, Span
from pipeline.video.zone_file import Zone

CORNERS = ((0.0, 0.0), (9.0, 0.0), (9.0, 9.0))
ZONES = [Zone("lane", CORNERS), Zone("bonnet", CORNERS, ignored=True)]
GOOD = {"name": "obstacle", "class": "car", "above": 0.05}


def read(path: Path, *entries: Any, labels: LabelSpec, zones: list[Zone] = ZONES) -> list[Rule]:
    file = path / "rules.json"
    file.write_text(json.dumps({"events": entries}))
    return read_rules(file, labels=labels, zones=zones)


def test_rules(tmp_path: Path, labels: LabelSpec) -> None:
    whole = {
        **{"name": "no road", "class": ["road", "sky"], "zone": "lane", "below": 0.5, "until": 0.6, "seconds": 0},
        **{"pause": 2.5, "clip": {"before": 3, "longest": 60}, "url": "http://user:pw@[::1]:8080/hook?key=1"},
    }
    first, second, third = read(tmp_path, GOOD, whole, {**GOOD, "name": "b", "clip": False}, labels=labels)
    assert first == Rule("obstacle", ("car",), (1,), None, 0.05, above=True, until=0.05, seconds=1.0, pause=1.0)
    assert first.clip == Span(before=5.0, after=5.0, longest=600.0)
    assert second == Rule(
        name="no road",
        classes=("road", "sky"),
        ids=(0, 2),
        zone="lane",
        share=0.5,
        above=False,
        until=0.6,
        seconds=0.0,
        pause=2.5,
        clip=Span(before=3.0, after=5.0, longest=60.0),
        url="http://user:pw@[::1]:8080/hook?key=1",
    )
    assert third.clip is None


def test_the_same_in_yaml(tmp_path: Path, labels: LabelSpec) -> None:
    pytest.importorskip("yaml")
    file = tmp_path / "rules.yml"
    file.write_text("events:\n  - name: obstacle\n    class: car\n    above: 0.05\n")
    assert read_rules(file, labels=labels) == read(tmp_path, GOOD, labels=labels)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, r"events\[0\]: got 3; needed: name, class, and above or below"),
        ({**GOOD, "abvoe": 1}, r"events\[0\].abvoe: unknown key; did you mean 'above'"),
        ({**GOOD, "name": ""}, r"events\[0\].name: got ''; needed: text"),
        ({**GOOD, "name": "a\nb"}, r"events\[0\].name: got 'a\\nb'; needed: text, in one line"),
        ({"name": "a", "above": 0.1}, r"events\[0\].class: got None; needed: the name of a class"),
        ({**GOOD, "class": []}, r"events\[0\].class: got \[\]; needed: the name of a class"),
        ({**GOOD, "class": "carr"}, r"events\[0\].class: 'carr' is no class of this engine; did you mean 'car'\?"),
        ({**GOOD, "class": ["car", "truck"]}, r"class: 'truck' is no class .*; allowed: car, road, sky, tree"),
        ({**GOOD, "class": ["car", "car"]}, "name each class once"),
        ({**GOOD, "zone": "lame"}, r"events\[0\].zone: 'lame' is no zone; did you mean 'lane'\?"),
        ({**GOOD, "zone": "bonnet"}, r"'bonnet' is an ignored zone, in which nothing is counted; allowed: lane"),
        ({**GOOD, "zone": 1}, "for the whole frame leave zone out"),
        ({**GOOD, "below": 0.5}, r"events\[0\]: got above and below; needed: one of above and below"),
        ({"name": "a", "class": "car"}, r"events\[0\]: got neither above nor below; needed"),
        ({**GOOD, "above": 5}, r"events\[0\].above: got 5; allowed: a share, 0 to 1"),
        ({**GOOD, "above": True}, "above: got True; allowed: a share"),
        ({**GOOD, "above": 1}, "above: got 1, and no share is above that; allowed: less than 1"),
        ({"name": "a", "class": "car", "below": 0}, "below: got 0, and no share is below that; allowed: above 0"),
        ({**GOOD, "until": 0.06}, r"until: got 0.06; allowed: at most 0.05, which is above"),
        ({"name": "a", "class": "car", "below": 0.5, "until": 0.4}, "until: got 0.4; allowed: at least 0.5"),
        ({**GOOD, "seconds": -1}, r"events\[0\].seconds: got -1; allowed: seconds, 0 to 3600"),
        ({**GOOD, "seconds": float("nan")}, "seconds: got nan; allowed"),
        ({**GOOD, "pause": "1"}, r"pause: got '1'; allowed: seconds, 0 to 3600"),
        ({**GOOD, "clip": 5}, r"clip: got 5; allowed: true, false, or before, after and longest"),
        ({**GOOD, "clip": {"befor": 5}}, r"clip.befor: unknown key; did you mean 'before'"),
        ({**GOOD, "clip": {"before": 61}}, r"clip.before: got 61; allowed: seconds, 0 to 60"),
        ({**GOOD, "url": "ftp://host/x"}, r"url: got the scheme 'ftp'; allowed: http, https"),
        ({**GOOD, "url": "file:///etc/passwd"}, r"url: got the scheme 'file'; allowed: http, https"),
        ({**GOOD, "url": "host:8080"}, r"url: got the scheme 'host'; allowed: http, https"),
        ({**GOOD, "url": "http:///path"}, "url: no host that can be called"),
        ({**GOOD, "url": "http://host:99999/"}, "url: not an address"),
        ({**GOOD, "url": "http://host/a b"}, "url: got 'http://host/a b'; needed: an address"),
        ({**GOOD, "url": "http://host/\r\nX: y"}, "needed: an address"),
        ({**GOOD, "url": 8080}, "url: got 8080; needed: an address"),
    ],
)
def test_problems_of_an_entry(tmp_path: Path, labels: LabelSpec, entry: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, entry, labels=labels)


def test_all_problems_at_once(tmp_path: Path, labels: LabelSpec) -> None:
    with pytest.raises(UserError) as raised:
        read(
            tmp_path, {"name": "a", "class": "carr", "zone": "lame", "above": 2, "pause": -1}, GOOD, GOOD, labels=labels
        )
    text = str(raised.value)
    assert text.startswith(f"{tmp_path / 'rules.json'}: 5 problems\n")
    for place in ("[0].class: ", "[0].zone: ", "[0].above: ", "[0].pause: ", "[2].name: 'obstacle' names two events"):
        assert f"events{place}" in text


def test_a_zone_without_a_file_of_zones(tmp_path: Path, labels: LabelSpec) -> None:
    with pytest.raises(UserError, match=r"zone: 'lane': there are no zones; name their file: --zones FILE"):
        read(tmp_path, {**GOOD, "zone": "lane"}, labels=labels, zones=[])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"rules.json:1:2: not valid JSON: .*; needed: \{"),
        ("[]", "no list of events; needed: "),
        ('{"events": []}', "no list of events; needed: "),
        (json.dumps({"events": [GOOD], "evnts": []}), "evnts: unknown key; did you mean 'events'"),
    ],
)
def test_problems_of_a_file(tmp_path: Path, labels: LabelSpec, text: str, message: str) -> None:
    file = tmp_path / "rules.json"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_rules(file, labels=labels)
    with pytest.raises(UserError, match=r"none.json: cannot be read \(No such file"):
        read_rules(tmp_path / "none.json", labels=labels)


@pytest.mark.parametrize(
    "text",
    [
        '{"events": [{"name": "a", "class": "car", "above": 0.1, "seconds": 1, "above": 0.2}]}',
        "events:\n  - name: a\n    class: car\n    above: 0.1\n    above: 0.2\n",
    ],
)
def test_a_key_that_occurs_twice(tmp_path: Path, labels: LabelSpec, text: str) -> None:
    pytest.importorskip("yaml")
    file = tmp_path / "rules.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"rules.yaml: the key 'above' occurs twice in one object; remove one"):
        read_rules(file, labels=labels)


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/video.md").read_text()
    example = text.partition('{"events": [')
    file = tmp_path / "rules.json"
    file.write_text("".join(example[1:]).partition("```")[0])
    labels = LabelSpec(names=("road", "car", "pedestrian"), palette=((0, 0, 0),) * 3)
    rules = read_rules(file, labels=labels, zones=ZONES)
    assert [rule.name for rule in rules] == ["obstacle", "no road"]
    assert (rules[0].clip, rules[1].clip) == (Span(), None), "they are the defaults"
