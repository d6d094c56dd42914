"""VOC 2012 and PASCAL Context: lists, the colour map, the augmented set, two numberings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import datasets
from pipeline.datasets._voc import colour_map
from pipeline.datasets.pascal_context import CLASSES, PascalContext
from pipeline.datasets.voc2012 import VOC2012
from pipeline.errors import UserError

#: The 59 classes in the order of their ids among the 459 original labels, as users of the Detail API sort them.
ALPHABETICAL = (
    "aeroplane bag bed bedclothes bench bicycle bird boat book bottle building bus cabinet car cat ceiling chair cloth "
    "computer cow cup curtain dog door fence floor flower food grass ground horse keyboard light motorbike mountain "
    "mouse person plate platform pottedplant road rock sheep shelves sidewalk sign sky snow sofa table track train "
    "tree truck tvmonitor wall water window wood"
)
Makers = dict[str, Callable[[Path], dict[str, Any]]]
Write = Callable[..., Path]


@pytest.fixture
def kit(makers: Makers, tmp_path: Path) -> Path:
    makers["voc2012"](tmp_path)
    return tmp_path / "VOCdevkit" / "VOC2012"


@pytest.fixture
def context(makers: Makers, tmp_path: Path) -> Path:
    makers["pascal_context"](tmp_path)
    return tmp_path / "VOCdevkit" / "VOC2010"


def stored(path: Path) -> Any:
    return np.asarray(Image.open(path))


def test_the_colour_map_is_that_of_real_masks(real_data: Path) -> None:
    files = list((real_data / "samples/voc2012/VOCdevkit/VOC2012/SegmentationClass").iterdir())
    assert files
    for file in files:
        palette = Image.open(file).getpalette()
        assert palette is not None
        assert [tuple(palette[3 * i : 3 * i + 3]) for i in range(256)] == list(colour_map(256))


def test_masks_are_the_entries_of_their_palette(kit: Path) -> None:
    dataset = VOC2012(root=str(kit))
    assert dataset.splits() == {"train": ["2007_000032", "2007_000039"], "val": ["2008_000008"]}
    mask = stored(kit / "SegmentationClass" / "2007_000032.png")
    assert np.array_equal(dataset.read("train", "2007_000032")[1], mask) and 255 in mask
    assert dataset.labels.names[15] == "person" and dataset.labels.palette[15] == (192, 128, 128)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_root_may_be_any_of_the_folders(kit: Path, depth: int) -> None:
    assert VOC2012(root=str([kit, *kit.parents][depth])).splits()["val"] == ["2008_000008"]


def test_masks_as_ids_and_as_colours_are_read_alike(kit: Path, write_image: Write) -> None:
    path = kit / "SegmentationClass" / "2007_000032.png"
    ids = stored(path)
    write_image(path, np.array(colour_map(256), np.uint8)[ids])
    write_image(kit / "SegmentationClass" / "2007_000039.png", ids)
    dataset = VOC2012(root=str(kit))
    assert all(np.array_equal(dataset.read("train", name)[1], ids) for name in dataset.splits()["train"])


def test_an_unknown_palette_is_refused(kit: Path, write_image: Write) -> None:
    ids = np.zeros((12, 16), np.uint8)
    write_image(kit / "SegmentationClass" / "2007_000032.png", ids, palette={0: (1, 2, 3)})
    with pytest.raises(UserError, match=r"palette entries of unknown colour: \[0 is \(1, 2, 3\)\]; allowed: 0\.\.20"):
        VOC2012(root=str(kit)).read("train", "2007_000032")


def test_errors_of_missing_files_name_the_expected_path(kit: Path) -> None:
    (kit / "JPEGImages/2007_000032.jpg").unlink()
    (kit / "SegmentationClass/2007_000032.png").unlink()
    with pytest.raises(
        UserError, match=r"Class/2007_000032\.png: no such file.*; and .*JPEGImages/2007_000032\.jpg: no"
    ):
        VOC2012(root=str(kit)).read("train", "2007_000032")


def test_upper_case_suffixes_are_accepted(kit: Path) -> None:
    image = kit / "JPEGImages/2007_000032.jpg"
    image.rename(image.with_suffix(".JPG"))
    assert VOC2012(root=str(kit)).read("train", "2007_000032")[0].shape == (12, 16, 3)


def augment(kit: Path, write: Write) -> None:
    """Masks of SBD for all three samples, and for a sample without a mask of VOC."""
    write(kit / "JPEGImages/2008_000099.jpg", np.full((12, 16, 3), 7, np.uint8))
    for number, name in enumerate(("2007_000032", "2007_000039", "2008_000008", "2008_000099")):
        write(kit / "SegmentationClassAug" / f"{name}.png", np.full((12, 16), number, np.uint8))


def test_augmented_train_is_every_mask_that_is_not_in_val(kit: Path, write_image: Write) -> None:
    augment(kit, write_image)
    dataset = VOC2012(root=str(kit), augmented=True)
    assert dataset.splits() == {"train": ["2007_000032", "2007_000039", "2008_000099"], "val": ["2008_000008"]}
    assert np.unique(dataset.read("train", "2008_000099")[1]).tolist() == [3]
    assert np.array_equal(dataset.read("val", "2008_000008")[1], stored(kit / "SegmentationClass/2008_000008.png"))
    assert VOC2012(root=str(kit)).splits()["train"] == ["2007_000032", "2007_000039"]


def test_the_augmented_list_counts_and_must_not_name_val(kit: Path, write_image: Write) -> None:
    augment(kit, write_image)
    listing = kit / "ImageSets/Segmentation/trainaug.txt"
    listing.write_text("/JPEGImages/2008_000099.jpg /SegmentationClassAug/2008_000099.png\n")
    dataset = VOC2012(root=str(kit), augmented=True)
    assert dataset.splits()["train"] == ["2008_000099"] and list(dataset.problems()) == []
    listing.write_text("2008_000099\n2008_000008\n")
    (problem,) = VOC2012(root=str(kit), augmented=True).problems()
    assert problem == "trainaug.txt: 2008_000008 is also in val.txt; remove it from trainaug.txt"


def test_errors_of_lists_name_the_line(kit: Path) -> None:
    lists = kit / "ImageSets/Segmentation"
    (lists / "train.txt").write_text("2007_000032\n2007_000032\na b\n..\n")
    (lists / "val.txt").unlink()
    errors = "\n".join(VOC2012(root=str(kit)).problems())
    assert "train.txt:2: 2007_000032 is listed twice, first in line 1" in errors
    assert "train.txt:3: not the name of one sample: 'a b'" in errors
    assert "train.txt:4: not the name of one sample" in errors
    assert f"val.txt: no such file in {lists}" in errors


def test_context_colours_become_classes_and_background_is_ignored(context: Path) -> None:
    _, label = PascalContext(root=str(context), numbering="voc").read("train", "2008_000003")
    rgb = stored(context / "SegmentationClassContext/2008_000003.png")
    meaning = {(0, 0, 0): 255, (128, 0, 0): 0, (0, 128, 0): 1, (192, 128, 128): 14, (0, 64, 128): 19}
    assert label.tolist() == [[meaning[tuple(pixel)] for pixel in row] for row in rgb.tolist()]


def test_both_numberings_of_context_name_the_same_classes(context: Path, write_image: Write) -> None:
    assert sorted(CLASSES) == ALPHABETICAL.split()
    ids = np.arange(60, dtype=np.uint8).repeat(4)[: 12 * 16].reshape(12, 16)
    write_image(context / "SegmentationClassContext/2008_000003.png", ids)
    voc, alphabetical = (
        PascalContext(root=str(context), numbering=numbering).read("train", "2008_000003")[1]
        for numbering in ("voc", "alphabetical")
    )
    names = ["background", *ALPHABETICAL.split()]
    for raw in range(1, 48):
        assert {CLASSES[i] for i in voc[ids == raw]} == {CLASSES[raw - 1]}
        assert {CLASSES[i] for i in alphabetical[ids == raw]} == {names[raw]}
    assert (voc[ids == 0] == 255).all() and (alphabetical[ids == 0] == 255).all()


def test_original_ids_of_voc_are_the_train_ids() -> None:
    table = VOC2012.labels.to_original()
    assert table[:21].tolist() == list(range(21)) and set(table[21:].tolist()) == {255}


@pytest.mark.parametrize(("numbering", "order"), [("voc", list(CLASSES)), ("alphabetical", ALPHABETICAL.split())])
def test_original_ids_of_context_follow_the_numbering(context: Path, numbering: Any, order: list[str]) -> None:
    table = PascalContext(root=str(context), numbering=numbering).labels.to_original()
    assert [order[original - 1] for original in table[:59].tolist()] == list(CLASSES)
    assert set(table[59:].tolist()) == {0}
    assert PascalContext.labels.original_ids is None  # another numbering is another object


def test_the_error_of_context_without_a_numbering_names_the_choices(context: Path) -> None:
    with pytest.raises(UserError, match="numbering: got None; allowed: voc or alphabetical"):
        PascalContext(root=str(context))


def test_real_labels_of_context_are_correct(samples: dict[str, dict[str, Any]]) -> None:
    dataset = datasets.build("pascal_context", samples["pascal_context"])
    seen = {
        name: {CLASSES[i] for i in np.unique(dataset.read(split, name)[1]) if i != 255}
        for split, names in dataset.splits().items()
        for name in names
    }
    assert seen["2008_008376"] == {"bird", "grass", "ground", "water", "wood"}
    assert seen["2009_000637"] == {"motorbike", "person", "sky", "grass", "ground"}
    assert {"bus", "road", "building", "tree", "sky"} < seen["2010_000682"]
    assert {"dog", "floor", "person", "table", "wall"} < seen["2010_003321"]


def test_real_voc_masks_hold_the_ids_that_pillow_reads(samples: dict[str, dict[str, Any]]) -> None:
    dataset = VOC2012(**samples["voc2012"])
    for split, names in dataset.splits().items():
        assert names, split
        for name in names:
            frame, label = dataset.read(split, name)
            assert np.array_equal(label, stored(dataset.pairs[split][name].mask)) and frame.shape[:2] == label.shape
