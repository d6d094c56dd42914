"""Masks of shapes and run lengths, compared with masks that were written by hand and with COCO's own encoder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from pipeline.datasets._runs import brush, expanded, runs
from pipeline.datasets._shapes import box, ellipse, placed, points, polygon, stroke
from pipeline.errors import UserError

SIZE = (6, 8)


def mask(*rows: str) -> npt.NDArray[np.bool_]:
    return np.array([[cell == "#" for cell in row] for row in rows])


def test_a_rectangle_of_whole_coordinates_covers_the_pixels_between_them() -> None:
    expected = mask("........", "..###...", "..###...", "..###...", "..###...", "........")
    outline = points([2, 1, 5, 1, 5, 5, 2, 5], least=3)
    assert np.array_equal(polygon(outline, SIZE), expected)
    assert np.array_equal(polygon(outline[::-1], SIZE), expected)
    assert np.array_equal(box(points([[5, 5], [2, 1]], least=2), SIZE), expected)


def test_polygons_of_the_whole_image_and_beyond_its_edge() -> None:
    assert polygon(points([0, 0, 8, 0, 8, 6, 0, 6], least=3), SIZE).all()
    over = polygon(points([-3, -3, 3, -3, 3, 2, -3, 2], least=3), SIZE)
    assert np.array_equal(over, mask("###.....", "###.....", *["........"] * 4))


def test_a_polygon_that_crosses_itself_has_a_hole() -> None:
    star = polygon(points([0, 0, 8, 0, 8, 6, 0, 6, 0, 0, 2, 2, 6, 2, 6, 4, 2, 4, 2, 2], least=3), SIZE)
    assert np.array_equal(star, mask("########", "########", "##....##", "##....##", "########", "########"))


def test_polygons_agree_with_centres_inside_up_to_their_border() -> None:
    """Even-odd rule at pixel centres, and Pillow, which draws the border too."""
    generator = np.random.default_rng(0)
    rows, columns = np.indices((60, 80)) + 0.5
    for _ in range(20):
        outline = generator.uniform([0, 0], [80, 60], (6, 2))
        inside = np.zeros((60, 80), bool)
        near, wide = np.zeros((60, 80), bool), np.zeros((60, 80), bool)
        for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
            crosses = (y0 > rows) != (y1 > rows)
            inside ^= crosses & (columns < x0 + (rows - y0) * (x1 - x0) / (y1 - y0))
            near |= stroke(np.array([[x0, y0], [x1, y1]]), (60, 80), width=1)
            wide |= stroke(np.array([[x0, y0], [x1, y1]]), (60, 80), width=4)
        filled = polygon(outline, (60, 80))
        assert not ((filled != inside) & ~near).any()
        drawn = Image.new("1", (80, 60))
        ImageDraw.Draw(drawn).polygon([(x - 0.5, y - 0.5) for x, y in outline.tolist()], fill=1, outline=1)
        assert not ((filled != np.asarray(drawn)) & ~wide).any()


def test_a_box_is_rotated_clockwise_about_its_centre_or_a_corner() -> None:
    upright = box(points([[1, 2], [7, 4]], least=2), SIZE, degrees=90)
    assert np.array_equal(upright, mask(*["...##..."] * 6))
    corner = points([3, 1], least=1)[0]
    about = box(points([[3, 1], [5, 2]], least=2), SIZE, degrees=90, pivot=corner)
    assert np.array_equal(about, mask("........", "..#.....", "..#.....", *["........"] * 3))


def test_an_ellipse_and_a_rotated_one() -> None:
    centre, radii = points([4, 3, 3, 1], least=2)
    expected = mask("........", "........", ".######.", ".######.", "........", "........")
    assert np.array_equal(ellipse(centre, radii, SIZE), expected)
    assert np.array_equal(ellipse(centre, radii[::-1], SIZE, degrees=90), expected)


def test_strokes_have_a_width_and_round_ends() -> None:
    line = stroke(points([[2, 3], [6, 3]], least=2), SIZE, width=2)
    assert np.array_equal(line, mask("........", "........", ".######.", ".######.", "........", "........"))
    assert stroke(points([[4, 3]], least=1), SIZE, width=2).sum() == 4


@pytest.mark.parametrize(
    "wrong",
    [
        [[0, 0], [1, 1]], [[0, 0], [1, float("nan")], [2, 2]], [[0, 0], [float("inf"), 0], [2, 2]],
        [[0, 0], [1e30, 0], [2, 2]], [[0, 0], [100, 0], [2, 2]], "abc", None, [[0, 1], [2]], [],
        [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]],
    ],
)  # fmt: skip
def test_invalid_polygons_are_refused(wrong: object) -> None:
    with pytest.raises(UserError, match="point"):
        polygon(points(wrong, least=3), SIZE)


def test_run_lengths_follow_the_columns_or_the_rows() -> None:
    assert np.array_equal(runs([1, 2, 3], (3, 2), by_column=True), mask("..", "#.", "#."))
    assert np.array_equal(runs(["1", " 2", "3"], (3, 2), by_column=False), mask(".#", "#.", ".."))


@pytest.mark.parametrize("wrong", [[1, 2], [1, 2, 4], [-1, 7], [1.5, "x"], None, [1 << 70], "ab"])
def test_run_lengths_that_do_not_fill_the_mask_are_refused(wrong: object) -> None:
    with pytest.raises(UserError, match="run lengths"):
        runs(wrong, (3, 2), by_column=True)


def test_compressed_run_lengths_are_those_of_coco() -> None:
    generator = np.random.default_rng(1)
    for share in (0.02, 0.5, 0.98, 0.0, 1.0):
        expected = generator.random((37, 53)) < share
        text = coco.encode(np.asfortranarray(expected, np.uint8))["counts"].decode()
        assert np.array_equal(runs(expanded(text), (37, 53), by_column=True), expected)


@pytest.mark.parametrize("wrong", ["", "\x00", "0P", "é€", "oooooooooooooooooooooooooo0", "~"])
def test_damaged_compressed_run_lengths_are_refused(wrong: str) -> None:
    with pytest.raises(UserError, match="run length"):
        runs(expanded(wrong), (3, 2), by_column=True)


def test_brushes_are_read_back(pack_brush: Callable[[npt.NDArray[np.bool_]], list[int]]) -> None:
    generator = np.random.default_rng(2)
    for expected in (generator.random((11, 7)) < 0.4, np.zeros((90, 150), bool), np.ones((3, 3), bool)):
        assert np.array_equal(brush(pack_brush(expected), expected.shape), expected)


def test_a_brush_counts_by_its_opacity() -> None:
    """Blocks of 4 values without repetition, written by hand: red 255, opacity 64; then red 0, opacity 200."""
    head = f"{8:032b}{7:05b}" + f"{2:04b}" * 4
    body = "".join(
        f"0{0:02b}{4 - 1:03b}" + "".join(f"{value:08b}" for value in pixel)
        for pixel in ([255, 0, 0, 64], [0, 0, 0, 200])
    )
    bits = head + body
    bits += "0" * (-len(bits) % 8)
    data = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
    assert brush(data, (1, 2)).tolist() == [[False, True]]


def test_damaged_brushes_are_refused(pack_brush: Callable[[npt.NDArray[np.bool_]], list[int]]) -> None:
    valid = pack_brush(np.eye(5, dtype=bool))
    for wrong in (None, [], [256], ["a"], valid[: len(valid) // 2], pack_brush(np.eye(6, dtype=bool))):
        with pytest.raises(UserError, match="brush"):
            brush(wrong, (5, 5))


def test_a_part_is_placed_inside_only() -> None:
    assert placed(mask("#"), top=5, left=7, size=SIZE).sum() == 1
    with pytest.raises(UserError, match=r"columns 7\.\.8"):
        placed(mask("##"), top=5, left=7, size=SIZE)
