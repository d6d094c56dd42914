"""Zones: pixels inside, counts, ignored zones, outlines, invalid files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.drawing.overlay import Overlay
from pipeline.video.drawing.picture import BT709, Box, Picture, Yuv
from pipeline.video.loop import segment
from pipeline.video.pixels import count_ids
from pipeline.video.sinks.lines import line_of
from pipeline.video.view import Looking, Region
from pipeline.video.zone_file import Zone, read_zones
from pipeline.video.zones import Zones, contains
from tests.video.fakes import SIZE, Bars, BrightnessEngine, Kept, quarters

LEFT = Zone("left", ((0, 0), (0.25, 0), (0.25, 1), (0, 1)), unit="shares")
#: Pixels of a 48x64 frame: the two bars on the right.
RIGHT = Zone("right", ((32, 0), (64, 0), (64, 48), (32, 48)))
BONNET = Zone("bonnet", ((0, 0.5), (1, 0.5), (1, 1), (0, 1)), unit="shares", ignored=True)


def one(zones: list[Zone], engine: BrightnessEngine, labels: LabelSpec, **options: Any) -> Any:
    """The result of one frame of bars: ids 0, 1, 2 and 3 in columns of a quarter of the width."""
    kept = Kept()
    counted = Zones(zones, ignore_index=labels.ignore_index)
    summary = segment(
        Bars(1, image=lambda _: quarters()), [engine], labels=labels, sinks=[kept], zones=counted, **options
    )
    return kept.results[0], summary


@pytest.mark.parametrize("seed", range(20))
def test_inside_agrees_with_opencv_for_each_point(seed: int) -> None:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 100, (random.integers(3, 8), 2)).astype(np.float32)
    if seed % 2:  # a polygon whose edges do not cross: corners by their angle
        middle = corners.mean(axis=0)
        corners = corners[np.argsort(np.arctan2(*(corners - middle).T))]
    x, y = np.arange(0.5, 100), np.arange(0.5, 80)
    inside = contains(corners.astype(np.float64), x, y)
    for row, column in zip(random.integers(0, 80, 300), random.integers(0, 100, 300), strict=True):
        side = cv2.pointPolygonTest(corners[:, np.newaxis], (float(x[column]), float(y[row])), measureDist=False)
        assert inside[row, column] == (side > 0)


def test_classes_of_each_zone(engine: BrightnessEngine, labels: LabelSpec) -> None:
    result, summary = one([LEFT, RIGHT], engine, labels)
    assert {name: pixels[:4].tolist() for name, pixels in result.zone_pixels.items()} == {
        "left": [48, 0, 0, 0],
        "right": [0, 0, 48, 48],
    }
    line = json.loads(line_of(result, labels))
    assert line["zones"]["left"] == {"shares": {"road": 1.0, "car": 0.0, "sky": 0.0, "tree": 0.0}, "other": 0.0}
    assert line["zones"]["right"]["shares"] == {"road": 0.0, "car": 0.0, "sky": 0.5, "tree": 0.5}
    assert line["shares"] == {"road": 0.25, "car": 0.25, "sky": 0.25, "tree": 0.25}
    assert summary.to_meta()["zones"] == line["zones"]
    assert "zone right: sky 50.00 %, tree 50.00 %" in summary.describe()


def test_without_zones_results_have_none(engine: BrightnessEngine, labels: LabelSpec) -> None:
    kept = Kept()
    summary = segment(Bars(1), [engine], labels=labels, sinks=[kept])
    assert "zones" not in json.loads(line_of(kept.results[0], labels))
    assert "zones" not in summary.to_meta()


def test_an_ignored_zone_counts_nowhere(engine: BrightnessEngine, labels: LabelSpec) -> None:
    corner = Zone("corner", ((0, 0), (0.25, 0), (0.25, 0.5), (0, 0.5)), unit="shares", ignored=True)
    result, summary = one([LEFT, corner], engine, labels)
    assert (result.label_map[:6, :4] == 255).all() and (result.label_map[6:, :4] == 0).all()
    assert result.pixels[:4].tolist() == [24, 48, 48, 48] and result.pixels[255] == 0
    assert result.zone_pixels["left"][:4].tolist() == [24, 0, 0, 0] and result.zone_pixels["left"][255] == 0
    assert list(result.zone_pixels) == ["left"]
    assert sum(summary.shares.values()) == pytest.approx(1.0)
    assert (result.full_label_map(9)[:24, :16] == 255).all()


def test_ids_that_the_network_ignores_count_as_other(labels: LabelSpec) -> None:
    zones = Zones([BONNET], ignore_index=255)
    label_map = np.array([[0, 255], [1, 1]], np.uint8)
    changed = zones.exclude(label_map, box=Box(0, 0, 2, 2), size=(2, 2))
    assert changed.tolist() == [[0, 255], [255, 255]] and zones.excluded == 2
    assert label_map.tolist() == [[0, 255], [1, 1]]


def test_zones_are_places_of_the_frame_for_any_region(engine: BrightnessEngine, labels: LabelSpec) -> None:
    looking = Looking(region=Region.parse("50%,0%,50%,100%"))
    result, _ = one([RIGHT], engine, labels, looking=looking)
    assert result.zone_pixels["right"][:4].tolist() == [0, 0, 96, 96]
    with pytest.raises(UserError, match=r"zone 'left': no pixel of the label map .* check --region"):
        one([LEFT], engine, labels, looking=looking)


@pytest.mark.parametrize(
    ("zone", "message"),
    [
        (Zone("wide", ((0, 0), (65, 0), (0, 48))), r"zone 'wide': point \[65.0, 0.0\] is outside .* 64x48"),
        (Zone("dot", ((1, 1), (1.2, 1), (1, 1.2))), r"zone 'dot': no pixel of the label map \(16x12\) is inside"),
        (Zone("all", ((0, 0), (64, 0), (64, 48), (0, 48)), ignored=True), "cover the whole part that the engine"),
    ],
)
def test_zones_that_do_not_fit(engine: BrightnessEngine, labels: LabelSpec, zone: Zone, message: str) -> None:
    with pytest.raises(UserError, match=message):
        one([zone], engine, labels)


@pytest.mark.parametrize("yuv", [None, Yuv(matrix=BT709)])
@pytest.mark.parametrize("side_by_side", [False, True])
def test_outlines_are_drawn(labels: LabelSpec, yuv: Yuv | None, side_by_side: bool) -> None:
    size = (240, 320)
    planes = ((np.full((*size, 3), 128, np.uint8),) if yuv is None else
              (np.full(size, 128, np.uint8), *(np.full((120, 160), 128, np.uint8) for _ in range(2))))  # fmt: skip
    frame = Picture(planes, yuv)
    zones = Zones([Zone("box", ((80, 60), (240, 60), (240, 180), (80, 180)))], ignore_index=255)
    label_map = np.full((60, 80), 255, np.uint8)
    overlay = Overlay(labels, zones=zones, side_by_side=side_by_side)
    drawn = overlay.draw(frame, label_map, box=Box(0, 0, *size), pixels=count_ids(label_map)).bgr().astype(int)
    right = drawn[:, -320:]
    limit = 12 if yuv is None else 80  # for BGR from YUV, chroma is interpolated with its neighbours
    assert abs(right[120, 80] - (0, 255, 255)).max() < limit and abs(right[120, 240] - (0, 255, 255)).max() < limit
    inside, outside = right[80:170, 90:230], right[200:]
    assert np.ptp(inside) <= 3 and np.ptp(outside) <= 3
    if side_by_side:
        assert np.ptp(drawn[:, :320]) <= 3
    assert all((plane == 128).all() for plane in frame.planes)


GOOD = {"name": "lane", "points": [[0, 0], [10, 0], [10, 10]]}


def test_a_file_of_zones(tmp_path: Path) -> None:
    entries = [GOOD, {"name": "bonnet", "unit": "shares", "ignore": True, "points": [[0, 0.8], [1, 0.8], [0.5, 1]]}]
    file = tmp_path / "zones.json"
    file.write_text(json.dumps({"zones": entries}))
    lane, bonnet = read_zones(file)
    assert lane == Zone("lane", ((0.0, 0.0), (10.0, 0.0), (10.0, 10.0)))
    assert bonnet == Zone("bonnet", ((0.0, 0.8), (1.0, 0.8), (0.5, 1.0)), unit="shares", ignored=True)


def test_the_same_in_yaml(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    file = tmp_path / "zones.yaml"
    file.write_text("zones:\n  - name: lane\n    points: [[0, 0], [10, 0], [10, 10]]\n")
    assert read_zones(file) == [Zone("lane", ((0.0, 0.0), (10.0, 0.0), (10.0, 10.0)))]
    file.write_text("zones: [\n")
    with pytest.raises(UserError, match=r"zones.yaml: not valid YAML: "):
        read_zones(file)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, r"zones\[0\]: got 3; needed: name and points"),
        ({**GOOD, "colour": 1}, r"zones\[0\].colour: unknown key; "),
        ({**GOOD, "pointz": 1}, r"zones\[0\].pointz: unknown key; did you mean 'points'"),
        ({**GOOD, "name": " "}, r"zones\[0\].name: got ' '; needed: text"),
        ({**GOOD, "unit": "percent"}, r"zones\[0\].unit: got 'percent'; allowed: pixels or shares"),
        ({**GOOD, "ignore": 1}, r"zones\[0\].ignore: got 1; allowed: true or false"),
        ({"name": "a"}, r"zones\[0\].points: got None; needed: three or more points"),
        ({**GOOD, "points": [[0, 0], [1, 1]]}, "needed: three or more points"),
        ({**GOOD, "points": [[0, 0], [1, 1, 1], [2, 2]]}, "needed: three or more points"),
        ({**GOOD, "points": [[0, 0], [True, 1], [2, 2]]}, "needed: three or more points"),
        ({**GOOD, "points": [[0, -1], [10, 0], [10, 10]]}, "got -1; the smallest number allowed is 0"),
        ({**GOOD, "unit": "shares"}, "got 10 with unit shares; allowed: 0 to 1"),
        ({**GOOD, "points": [[0, 0], [1, 0], [1, 0.5]]}, 'for shares of the frame add "unit": "shares"'),
        ({**GOOD, "points": [[0, 0], [10, 10], [20, 20]]}, "the polygon has no area"),
    ],
)
def test_problems_of_an_entry(tmp_path: Path, entry: Any, message: str) -> None:
    file = tmp_path / "zones.json"
    file.write_text(json.dumps({"zones": [entry]}))
    with pytest.raises(UserError, match=message):
        read_zones(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"zones.json:1:2: not valid JSON: .*; needed: \{"),
        ("[]", "no list of zones; needed: "),
        ('{"zones": []}', "no list of zones; needed: "),
        (json.dumps({"zones": [GOOD, GOOD]}), r"zones\[1\].name: 'lane' names two zones"),
        (json.dumps({"zones": [1, 2]}), "zones.json: 2 problems"),
        (
            json.dumps({"zones": [GOOD], "zonse": []}),
            "zones.json: 1 problem\n  zonse: unknown key; did you mean 'zones'",
        ),
        (
            json.dumps({"zones": [1], "size": 2, "zone": 3}),
            "zones.json: 3 problems\n  size: unknown key; allowed: zones",
        ),
    ],
)
def test_problems_of_a_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "zones.json"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_zones(file)
    with pytest.raises(UserError, match=r"none.json: cannot be read \(No such file"):
        read_zones(tmp_path / "none.json")
    assert SIZE == (48, 64)  # the size for which the zones above are defined
