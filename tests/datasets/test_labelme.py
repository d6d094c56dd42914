"""labelme's JSON: every kind of shape, compared with masks that were written by hand; and damaged files."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.labelme import Labelme, drawn
from pipeline.errors import UserError

SIZE = (12, 16)


def pixels(shape: dict[str, Any], **options: Any) -> list[tuple[int, int]]:
    """Rows and columns of a shape."""
    return [(int(y), int(x)) for y, x in np.argwhere(drawn(shape, SIZE, **{"line_width": None, **options}))]


def png(mask: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(np.asarray(mask, np.uint8) * 255).convert("1").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_polygons_with_and_without_a_kind() -> None:
    expected = [(row, column) for row in (3, 4) for column in (2, 3, 4)]
    points = [[2, 3], [5, 3], [5, 5], [2, 5]]
    for kind in ("polygon", None):
        assert pixels({"points": points, "shape_type": kind}) == expected
    assert pixels({"points": points}) == expected  # files of version 3


def test_rectangles_of_two_or_four_points() -> None:
    expected = [(row, column) for row in (3, 4) for column in (2, 3, 4)]
    assert pixels({"points": [[5, 5], [2, 3]], "shape_type": "rectangle"}) == expected
    assert pixels({"points": [[2, 3], [5, 3], [5, 5], [2, 5]], "shape_type": "rectangle"}) == expected


def test_a_circle_is_given_by_its_centre_and_a_point_on_it() -> None:
    disc = pixels({"points": [[8, 6], [8, 8]], "shape_type": "circle"})
    assert disc == [(4, 7), (4, 8), *((row, x) for row in (5, 6) for x in (6, 7, 8, 9)), (7, 7), (7, 8)]


def test_a_mask_is_placed_at_its_corner() -> None:
    shape = {"points": [[4, 2], [6, 3]], "shape_type": "mask", "mask": png([[1, 0, 1], [0, 1, 0]])}
    assert pixels(shape) == [(2, 4), (2, 6), (3, 5)]


def test_lines_and_points_need_a_width() -> None:
    line = {"points": [[2, 3], [6, 3]], "shape_type": "linestrip"}
    assert pixels(line, line_width=2) == [(row, column) for row in (2, 3) for column in range(1, 7)]
    assert len(pixels({"points": [[4, 4]], "shape_type": "point"}, line_width=2)) == 4
    assert len(pixels({"points": [[4, 4], [9, 9]], "shape_type": "points"}, line_width=2)) == 8
    with pytest.raises(UserError, match=r"a linestrip has no area; set datasets\.labelme\.line_width"):
        pixels(line)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"points": [[0, 0], [4, 4]], "shape_type": "polygon"}, "a polygon of 2 points"),
        ({"points": [[0, 0]], "shape_type": "circle"}, "a circle of 1 points"),
        ({"points": [[0, 0], [4, 4]], "shape_type": "cuboid"}, "a cuboid of 2 points; allowed: polygon"),
        ({"points": [[0, 0], [4, 4]], "shape_type": "mask", "mask": "AAAA"}, "not a PNG in base64"),
        ({"points": [[0, 0], [4, 4]], "shape_type": "mask", "mask": None}, "not a PNG in base64"),
        (
            {"points": [[0, 0], [4, 4]], "shape_type": "mask", "mask": png(np.ones((13, 2)))},
            "a mask of 13x2 in an image",
        ),
        ({"points": [[15, 0], [16, 0]], "shape_type": "mask", "mask": png(np.ones((2, 2)))}, r"columns 15\.\.16"),
        ({"points": "x"}, "points must be pairs"),
        ({}, "point"),
    ],
)
def test_shapes_that_cannot_be_drawn(shape: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pixels(shape)


def test_a_small_root_to_the_pixel(tmp_path: Path, makers: dict[str, Callable[[Path], dict[str, Any]]]) -> None:
    """Images next to the JSON file and, by a path with a backslash, in a folder below it; label __ignore__."""
    dataset = Labelme(**makers["labelme"](tmp_path))
    expected = np.full(SIZE, 255)
    expected[6:] = 0
    expected[4:8, 3:9] = 1
    rows, columns = np.indices(SIZE) + 0.5
    expected[(rows - 4) ** 2 + (columns - 12) ** 2 <= 9] = 1
    expected[0, 1] = expected[1, 2] = 2
    expected[11, :3] = 255
    assert sorted(name for names in dataset.splits().values() for name in names) == [
        f"{drive}__1" for drive in "abcdef"
    ]
    for split, names in dataset.splits().items():
        for name in names:
            assert np.array_equal(dataset.read(split, name)[1], expected)


def test_background_is_a_label_of_labelme(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    write_image(tmp_path / "a.png", np.zeros((*SIZE, 3), np.uint8))
    shapes = [
        {"label": label, "points": [[0, 0], [size, size]], "shape_type": "rectangle"}
        for label, size in (("car", 8), ("_background_", 4))
    ]
    (tmp_path / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": shapes, "imageHeight": None}))
    options: dict[str, Any] = {"root": str(tmp_path), "classes": ["car"], "sequence": ".+", "shares": {"val": 0.999}}
    ignored = Labelme(**options).read("val", "a")[1]
    assert ignored[0, 0] == 255 and ignored[7, 7] == 0
    painted = Labelme(**options, background="other").read("val", "a")[1]
    assert painted[0, 0] == 0 and painted[7, 7] == 1 and painted[11, 11] == 0


def test_an_image_that_is_only_in_the_json_file(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    image = np.arange(576, dtype=np.uint16).reshape(*SIZE, 3).astype(np.uint8)
    data = base64.b64encode(write_image(tmp_path / "x.png", image).read_bytes()).decode()
    shape = {"label": "car", "points": [[0, 0], [8, 8]], "shape_type": "rectangle"}
    for name, text in (("a", data), ("b", data[:100]), ("c", "?")):
        document = {"imagePath": f"{name}.png", "imageData": text, "shapes": [shape]}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    dataset = Labelme(root=str(tmp_path), classes=["car"], sequence=".+", shares={"val": 0.999})
    assert np.array_equal(dataset.read("val", "a")[0][..., ::-1], image)
    for name in "bc":
        with pytest.raises(UserError, match=rf"{name}\.json: imageData: (not a readable image|Only base64|Incorrect)"):
            dataset.read("val", name)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"imagePath": 1, "shapes": []}', '{"imagePath": "a.png", "shapes": [1]}']
)
def test_damaged_files_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    problems = Labelme(root=str(tmp_path), classes=["car"]).problems()
    assert any(str(tmp_path / "a.json") in problem for problem in problems)


def test_no_file_is_an_error(tmp_path: Path) -> None:
    assert "no file matches '**/*.json'" in Labelme(root=str(tmp_path), classes=["car"]).problems()[0]
