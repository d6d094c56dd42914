"""CVAT's XML file and masks: every kind of shape, z_order, subsets, and invalid files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.datasets._cvat_xml import drawn
from pipeline.datasets.cvat import Cvat
from pipeline.errors import UserError

SIZE = (12, 16)


@pytest.fixture
def root(tmp_path: Path, makers: dict[str, Callable[[Path], dict[str, Any]]]) -> Path:
    makers["cvat"](tmp_path)
    return tmp_path


def change(root: Path, old: str, new: str, *, file: str = "annotations.xml") -> None:
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new))


def pixels(kind: str, line: float | None = None, **values: str) -> list[tuple[int, int]]:
    return [(int(y), int(x)) for y, x in np.argwhere(drawn(kind, values, SIZE, line_width=line))]


def test_a_small_root_to_the_pixel(root: Path) -> None:
    """The road has the lowest z_order, so it is at the bottom; the colours are CVAT's."""
    dataset = Cvat(root=str(root))
    expected = np.zeros(SIZE)
    expected[2:6, 2:6] = 1
    rows, columns = np.indices(SIZE) + 0.5
    expected[((columns - 10) / 3) ** 2 + ((rows - 8) / 2) ** 2 <= 1] = 1
    expected[0, 15] = expected[1, 14] = 1
    assert dataset.problems() == () and dataset.splits() == {"train": ["a", "b"], "val": ["c"]}
    assert dataset.labels.names == ("road", "car") and dataset.labels.palette == ((128, 64, 128), (0, 0, 142))
    for split, names in dataset.splits().items():
        for name in names:
            assert np.array_equal(dataset.read(split, name)[1], expected)


def test_shapes_of_the_same_z_order_are_painted_in_the_order_of_the_file(root: Path) -> None:
    change(root, ' z_order="1"', "")
    label = Cvat(root=str(root)).read("train", "a")[1]
    assert label[3, 3] == 0 and label[7, 9] == 1  # in the file, the box is before the polygon, the ellipse after it


def test_run_lengths_of_a_mask_follow_the_rows_of_its_box() -> None:
    assert pixels("mask", rle="1, 3, 2", left="4", top="2", width="3", height="2") == [(2, 5), (2, 6), (3, 4)]


def test_rotated_boxes_and_lines() -> None:
    rotated = pixels("box", xtl="2", ytl="4", xbr="8", ybr="6", rotation="90")
    assert rotated == [(row, column) for row in range(2, 8) for column in (4, 5)]
    assert len(pixels("points", line=2, points="4,4;9,9")) == 8
    with pytest.raises(UserError, match=r"a points shape has no area; set datasets\.cvat\.line_width"):
        pixels("points", points="4,4")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('rle="1, 2, 1"', 'rle="1, 2"', "the run lengths sum to 3"),
        ('left="14"', 'left="15"', r"columns 15\.\.16"),
        ('width="2" height="2"', 'width="99999" height="99999"', "a mask of 99999x99999"),
        ('xtl="2"', 'xtl="nan"', "finite"),
        ('xtl="2"', "", "damaged"),
        ('points="0,0;16,0;16,12;0,12"', 'points="0,0;16"', "points must be pairs|damaged"),
        ("<box ", "<cuboid ", "a cuboid has no area"),
    ],
)
def test_shapes_that_cannot_be_drawn(root: Path, old: str, new: str, message: str) -> None:
    change(root, old, new)
    if new == "<cuboid ":
        change(root, "</box>", "</cuboid>")
    with pytest.raises(UserError, match=rf"annotations\.xml: a\.jpg: shape \d \(\w+\): .*({message})"):
        Cvat(root=str(root)).read("train", "a")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<annotations>", '<!DOCTYPE x [<!ENTITY a "b">]><annotations>', "has a document type"),
        ("<annotations>", '<annotations><track id="0" label="car"></track>', "has tracks of a video; export"),
        ("</annotations>", "", "not an XML file of CVAT"),
        ('name="a.jpg"', 'name="../../a.jpg"', "points outside"),
        ('name="b.jpg"', 'name="a.jpg"', "another image has this name"),
        ('label="road" ', "", "image 'a.jpg': 'label'"),
        (' width="16" height="12"', "", "image 'a.jpg': 'height'"),
        ('z_order="2"', 'z_order="x"', "image 'a.jpg': invalid literal"),
        ('label="road"', 'label="mud"', "label 'mud' belongs to no class (3 shapes"),
    ],
)
def test_errors_of_the_file_are_reported(root: Path, old: str, new: str, message: str) -> None:
    change(root, old, new)
    try:
        errors = "; ".join(Cvat(root=str(root)).problems())
    except UserError as error:
        errors = str(error)
    assert message in errors


def test_without_subsets_the_options_divide(root: Path, write_image: Callable[..., Path]) -> None:
    for subset in ("Train", "Validation"):
        change(root, f'subset="{subset}" ', "")
    for index, name in enumerate("abc"):
        write_image(root / "images" / f"{name}.jpg", np.full((*SIZE, 3), 50 * index, np.uint8))
    assert "set sequence: '.+'" in Cvat(root=str(root)).problems()[0]
    (root / "t.txt").write_text("a.jpg\nimages/b.jpg\n")
    (root / "v.txt").write_text("c\n")
    dataset = Cvat(root=str(root), lists={"train": "t.txt", "val": "v.txt"})
    assert dataset.problems() == () and dataset.splits() == {"train": ["a", "b"], "val": ["c"]}


def test_labels_may_be_declared_or_only_used(root: Path) -> None:
    text = (root / "annotations.xml").read_text()
    start, end = text.index("<meta>"), text.index("</meta>")
    (root / "annotations.xml").write_text(text[:start] + "<meta>" + text[end:])
    with pytest.raises(UserError, match=r"classes: not set; labels in the files: \['car', 'road'\]"):
        Cvat(root=str(root))
    assert Cvat(root=str(root), classes=["road", "car"]).problems() == ()


def test_masks_are_read_by_the_colours_of_the_label_map(cvat_masks: dict[str, Any]) -> None:
    dataset = Cvat(**cvat_masks)
    assert dataset.problems() == () and dataset.splits() == {"train": ["a", "b"], "val": ["c"]}
    assert dataset.labels.names == ("road", "car") and dataset.labels.palette == ((128, 64, 128), (0, 0, 142))
    assert dataset.read("train", "a")[1][0, :3].tolist() == [255, 0, 1]
    with_background = Cvat(**cvat_masks, background="background")
    assert with_background.labels.names == ("background", "road", "car")
    assert with_background.read("train", "a")[1][0, :3].tolist() == [0, 1, 2]
    merged = Cvat(**cvat_masks, classes={"all": ["road", "car"]}, background="rest")
    assert merged.read("val", "c")[1][0, :3].tolist() == [0, 1, 1]


def test_errors_of_masks_are_reported(cvat_masks: dict[str, Any], write_image: Callable[..., Path]) -> None:
    root = Path(cvat_masks["root"])
    assert (
        Cvat(**cvat_masks, classes=["road"])
        .problems()[0]
        .startswith("label 'car' belongs to no class (in labelmap.txt)")
    )
    write_image(root / "SegmentationClass/a.png", np.full((*SIZE, 3), 9, np.uint8))
    with pytest.raises(UserError, match=r"a\.png: unknown colours \[\(9, 9, 9\)\]; allowed: the colours of labelmap"):
        Cvat(**cvat_masks).read("train", "a")
    (root / "SegmentationClass/b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png: no such file"):
        Cvat(**cvat_masks).read("train", "b")
    change(root, "road:128,64,128::", "road:128,64::\ncar:1,1,1::", file="labelmap.txt")
    errors = "; ".join(Cvat(**cvat_masks).problems())
    assert "labelmap.txt:3: got 'road:128,64::'; allowed: 'label:r,g,b:parts:actions'" in errors
    assert "labelmap.txt:5: another line has the same label or colour: 'car:0,0,142::'" in errors


def test_a_folder_without_an_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no annotations\.xml and no labelmap\.txt; export the task as"):
        Cvat(root=str(tmp_path))
