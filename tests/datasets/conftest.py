"""Every data set of files in small: the official layouts with random pictures, and where real samples lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.frames import write_png

PREFIX = "/SegNet/CamVid/"  # of the author's machine, as the official lists carry it
NAMES = {"train": ("0001TP_006690", "0001TP_006720", "0016E5_00390"), "val": ("0016E5_07959", "0016E5_07961")}
Array = npt.NDArray[Any]
#: Bits of VOC's colour map, written out by hand for the ids that the fixtures use.
VOC_COLOURS = {
    0: (0, 0, 0),
    1: (128, 0, 0),
    2: (0, 128, 0),
    15: (192, 128, 128),
    20: (0, 64, 128),
    255: (224, 224, 192),
}


def save(path: Path, values: Array, *, palette: dict[int, tuple[int, int, int]] | None = None) -> Path:
    """Write an array with Pillow: RGB, ids or, with a palette, an indexed image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette is not None:
        flat = [0] * 768
        for entry, colour in palette.items():
            flat[3 * entry : 3 * entry + 3] = colour
        image = Image.fromarray(values, mode="P")
        image.putpalette(flat)
    image.save(path, **({"quality": 95} if path.suffix.lower() == ".jpg" else {}))
    return path


def noise(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def ids(seed: int, allowed: list[int]) -> Array:
    """A mask 12x16 in which every allowed id is."""
    mask = np.random.default_rng(seed).choice(allowed, (12, 16)).astype(np.uint8)
    mask.flat[: len(allowed)] = allowed
    return mask


def make_camvid(root: Path) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    for split, names in NAMES.items():
        lines = [f"{PREFIX}{split}/{name}.png {PREFIX}{split}annot/{name}.png\n" for name in names]
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.txt").write_text("".join(lines))
        for name in names:
            mask = generator.integers(0, 12, (12, 16), dtype=np.uint8)
            mask[0, :12] = range(12)
            write_png(root / split / f"{name}.png", generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            write_png(root / f"{split}annot" / f"{name}.png", mask)
    return {"root": str(root)}


def make_cityscapes(root: Path) -> dict[str, Any]:
    frames = [("train", "aachen", 0), ("train", "aachen", 1), ("train", "bremen", 2), ("val", "frankfurt", 3)]
    for split, city, index in frames:
        stem = f"{city}_{index:06d}_000019"
        save(root / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png", noise(index, 12, 16, 3))
        save(root / f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png", ids(index, list(range(34))))
    return {"root": str(root)}


def make_voc2012(root: Path) -> dict[str, Any]:
    kit = root / "VOCdevkit" / "VOC2012"
    for index, name in enumerate(("2007_000032", "2007_000039", "2008_000008")):
        save(kit / "JPEGImages" / f"{name}.jpg", noise(index, 12, 16, 3))
        mask = ids(index, [0, 1, 2, 15, 20, 255])
        save(kit / "SegmentationClass" / f"{name}.png", mask, palette=VOC_COLOURS)
    lists = kit / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000032\n2007_000039\n")
    (lists / "val.txt").write_text("2008_000008\n")
    return {"root": str(root)}


def make_ade20k(root: Path) -> dict[str, Any]:
    for index, (folder, name) in enumerate(
        (("training", "ADE_train_1"), ("training", "ADE_train_2"), ("validation", "v"))
    ):
        save(root / "images" / folder / f"{name}.jpg", noise(index, 12, 16, 3))
        save(root / "annotations" / folder / f"{name}.png", ids(index, list(range(151))))
    return {"root": str(root)}


def make_pascal_context(root: Path) -> dict[str, Any]:
    kit = root / "VOCdevkit" / "VOC2010"
    colours = np.array([VOC_COLOURS[index] for index in (0, 1, 2, 15, 20)], np.uint8)
    for index, name in enumerate(("2008_000003", "2008_000004", "2008_000005")):
        save(kit / "JPEGImages" / f"{name}.jpg", noise(index, 12, 16, 3))
        save(kit / "SegmentationClassContext" / f"{name}.png", colours[ids(index, [0, 1, 2, 3, 4])])
    lists = kit / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2008_000003\n2008_000004\n")
    (lists / "val.txt").write_text("2008_000005\n")
    return {"root": str(root), "numbering": "voc"}


def make_folder(root: Path) -> dict[str, Any]:
    for index, drive in enumerate("abcdef"):
        save(root / "images" / drive / "1.jpg", noise(index, 12, 16, 3))
        save(root / "masks" / drive / "1.png", ids(index, [0, 1, 2, 255]))
    return {
        "root": str(root),
        "classes": ["road", "car", "sky"],
        "palette": [[128, 64, 128], [0, 0, 142], [70, 130, 180]],
        "shares": {"val": 0.4},
    }


MAKERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "camvid": make_camvid,
    "cityscapes": make_cityscapes,
    "voc2012": make_voc2012,
    "ade20k": make_ade20k,
    "pascal_context": make_pascal_context,
    "folder": make_folder,
}


@pytest.fixture
def camvid_root(tmp_path: Path) -> Path:
    """A folder ``CamVid`` with lists, images and masks of ids 0..11."""
    make_camvid(tmp_path / "raw" / "CamVid")
    return tmp_path / "raw" / "CamVid"


@pytest.fixture(scope="session")
def makers() -> dict[str, Callable[[Path], dict[str, Any]]]:
    """Makers of small roots in the official layouts, by plugin; each returns the plugin's options."""
    return MAKERS


@pytest.fixture(scope="session")
def write_image() -> Callable[..., Path]:
    """``write_image(path, values, palette=None)`` writes RGB, ids or an indexed image."""
    return save


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


@pytest.fixture(scope="session")
def samples(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Options of the plugins on real samples; where only one split is there, it is laid out as train and val."""
    real, made = real_data / "samples", tmp_path_factory.mktemp("samples")
    ade = real / "ADEChallengeData2016"
    for number, split in ((1, "training"), (2, "training"), (3, "validation")):
        for kind, suffix in (("images", "jpg"), ("annotations", "png")):
            name = f"ADE_val_{number:08d}.{suffix}"
            link(ade / kind / "validation" / name, made / "ade" / kind / split / name)
    voc = real / "voc2012" / "VOCdevkit" / "VOC2012"
    kit = made / "voc" / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass"):
        link(voc / folder, kit / folder)
    split_list(sorted(path.stem for path in (voc / "JPEGImages").iterdir()), kit / "ImageSets" / "Segmentation")
    context = made / "context" / "VOC2010"
    for path in (real / "pascal_context_rgbmasks").iterdir():
        folder = {".jpg": "JPEGImages", ".png": "SegmentationClassContext"}[path.suffix]
        link(path, context / folder / path.name)
    names = sorted(path.stem for path in (context / "JPEGImages").iterdir())
    split_list(names, context / "ImageSets" / "SegmentationContext")
    return {
        "cityscapes": {"root": str(real / "cityscapes")},
        "voc2012": {"root": str(made / "voc")},
        "ade20k": {"root": str(made / "ade")},
        "pascal_context": {"root": str(made / "context"), "numbering": "voc"},
    }


def split_list(names: list[str], folder: Path) -> None:
    """Half of the names into train.txt, the others into val.txt."""
    folder.mkdir(parents=True)
    half = len(names) // 2
    (folder / "train.txt").write_text("\n".join(names[:half]))
    (folder / "val.txt").write_text("\n".join(names[half:]))
