"""A small copy of every data set of files: the official folders with random images; and options for real samples."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pycocotools import mask as coco

from pipeline.frames import write_png

PREFIX = "/SegNet/CamVid/"  # the official lists have this prefix of the author's machine
NAMES = {"train": ("0001TP_006690", "0001TP_006720", "0016E5_00390"), "val": ("0016E5_07959", "0016E5_07961")}
Array = npt.NDArray[Any]
#: Colours of VOC's colour map for the ids that the fixtures use.
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
    """A mask 12x16 with all allowed ids."""
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


def make_coco(root: Path) -> dict[str, Any]:
    """Instances: polygons, run lengths as numbers and compressed, a crowd."""
    categories = [{"id": 7, "name": "road"}, {"id": 3, "name": "car"}, {"id": 90, "name": "sky"}]
    rle = {"size": [12, 16], "counts": [0, 24, 168]}  # the two left columns
    top = np.zeros((12, 16), np.uint8)
    top[:2] = 1
    compressed = coco.encode(np.asfortranarray(top))["counts"].decode()
    for split, numbers in (("train", (1, 2)), ("val", (3,))):
        for number in numbers:
            save(root / f"{split}2017" / f"{number:012d}.jpg", noise(number, 12, 16, 3))
        polygons = {
            "segmentation": [[2, 2, 10, 2, 10, 6, 2, 6], [0, 8, 4, 8, 4, 12, 0, 12]],
            "category_id": 3,
            "iscrowd": 0,
        }
        annotations = [polygons, {"segmentation": rle, "category_id": 7, "iscrowd": 1}]
        packed = {"segmentation": {"size": [12, 16], "counts": compressed}, "category_id": 90, "iscrowd": 0}
        write_json(
            root / f"annotations/instances_{split}2017.json",
            {
                "images": [{"id": n, "file_name": f"{n:012d}.jpg", "height": 12, "width": 16} for n in numbers],
                "annotations": [
                    {"id": 3 * n + i, "image_id": n, **one}
                    for n in numbers
                    for i, one in enumerate([*annotations, packed])
                ],
                "categories": categories,
            },
        )
    return {"root": str(root)}


def make_labelme(root: Path) -> dict[str, Any]:
    """Every kind of shape; images in the folder of their JSON file and in a folder below it."""
    polygon = {"label": "road", "points": [[0, 6], [16, 6], [16, 12], [0, 12]], "shape_type": "polygon"}
    box = {"label": "car", "points": [[9, 8], [3, 4]], "shape_type": "rectangle"}
    circle = {"label": "car", "points": [[12, 4], [12, 7]], "shape_type": "circle"}
    mask = {"label": "sky", "points": [[1, 0], [4, 1]], "shape_type": "mask", "mask": png(np.eye(2, 4, dtype=bool))}
    ignored = {"label": "__ignore__", "points": [[0, 11], [3, 12]], "shape_type": "rectangle"}
    for index, drive in enumerate("abcdef"):
        folder = "frames" if index % 2 else "."
        save(root / drive / folder / "1.jpg", noise(index, 12, 16, 3))
        data = {"imagePath": f"{folder}\\1.jpg", "imageData": None, "imageHeight": 12, "imageWidth": 16}
        write_json(
            root / drive / "1.json", {"version": "5.5.0", "shapes": [polygon, box, circle, mask, ignored], **data}
        )
    return {"root": str(root), "classes": ["road", "car", "sky"], "shares": {"val": 0.4}}


def png(mask: Array) -> str:
    """A mask in labelme's format."""
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels>
<label><name>road</name><color>#804080</color></label><label><name>car</name><color>#00008e</color></label>
</labels></task></meta>{images}</annotations>
"""
CVAT_IMAGE = """<image id="{index}" name="{name}" subset="{subset}" width="16" height="12">
<box label="car" occluded="0" xtl="2" ytl="2" xbr="6" ybr="6" z_order="1"></box>
<polygon label="road" occluded="0" points="0,0;16,0;16,12;0,12" z_order="0">
<attribute name="wet">no</attribute></polygon>
<ellipse label="car" cx="10" cy="8" rx="3" ry="2" z_order="1"/><tag label="rain"/>
<mask label="car" rle="1, 2, 1" left="14" top="0" width="2" height="2" z_order="2"/></image>
"""


def make_cvat(root: Path) -> dict[str, Any]:
    frames = [("Train", "a.jpg"), ("Train", "b.jpg"), ("Validation", "c.jpg")]
    for index, (subset, name) in enumerate(frames):
        save(root / "images" / subset / name, noise(index, 12, 16, 3))
    images = [CVAT_IMAGE.format(index=i, subset=subset, name=name) for i, (subset, name) in enumerate(frames)]
    (root / "annotations.xml").write_text(CVAT.format(images="".join(images)))
    return {"root": str(root)}


def make_cvat_masks(root: Path) -> dict[str, Any]:
    """CVAT's "Segmentation mask 1.1"."""
    colours = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 142)], np.uint8)
    for index, name in enumerate("abc"):
        save(root / "JPEGImages" / f"{name}.jpg", noise(index, 12, 16, 3))
        save(root / "SegmentationClass" / f"{name}.png", colours[ids(index, [0, 1, 2])])
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "Train.txt").write_text("a\nb\n")
    (lists / "Validation.txt").write_text("c\n")
    text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\ncar:0,0,142::\n"
    (root / "labelmap.txt").write_text(text)
    return {"root": str(root)}


def packed(mask: Array) -> list[int]:
    """Label Studio's run lengths of a mask: blocks of equal RGBA values, counts of 3, 4, 8 or 16 bits."""
    values = np.repeat(mask.astype(np.uint8).ravel() * 255, 4)
    bits = f"{values.size:032b}" + f"{8 - 1:05b}" + "".join(f"{length - 1:04b}" for length in (3, 4, 8, 16))
    starts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), values.size]
    for start, end in pairwise(starts):
        which = next(i for i, length in enumerate((3, 4, 8, 16)) if end - start <= 1 << length)
        count = f"{end - start - 1:0{(3, 4, 8, 16)[which]}b}"
        if end - start <= 8:  # a block without repetition
            bits += f"0{which:02b}{count}" + "".join(f"{value:08b}" for value in values[start:end].tolist())
        else:
            bits += f"1{which:02b}{count}{values[start]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def make_label_studio(root: Path) -> dict[str, Any]:
    mask = np.zeros((12, 16), bool)
    mask[2:5, 3:11] = True
    size = {"original_width": 16, "original_height": 12, "image_rotation": 0}
    polygon = {"points": [[0, 50], [100, 50], [100, 100], [0, 100]], "polygonlabels": ["road"]}
    box = {"x": 25, "y": 50, "width": 25, "height": 25, "rotation": 0, "rectanglelabels": ["car"]}
    tasks = []
    for index, name in enumerate("abcdef"):
        save(root / "images" / name / "1.jpg", noise(index, 12, 16, 3))
        result = [
            {"id": "p", "type": "polygonlabels", **size, "value": polygon},
            {"id": "r", "type": "rectanglelabels", **size, "value": box},
            {"id": "b", "type": "brush", **size, "value": {"format": "rle", "rle": packed(mask)}},
            {"id": "b", "type": "labels", **size, "value": {"labels": ["sky"]}},
            {"id": "c", "type": "choices", "value": {"choices": ["sunny"]}},
        ]
        address = f"/data/local-files/?d=images/{name}/1.jpg"
        tasks.append({"id": index, "data": {"image": address}, "annotations": [{"id": 9, "result": result}]})
    write_json(root / "annotations.json", tasks)
    return {"root": str(root), "classes": ["road", "car", "sky"], "sequence": "^images/[^/]+", "shares": {"val": 0.4}}


def make_roboflow(root: Path) -> dict[str, Any]:
    for index, (split, name) in enumerate((("train", "a_jpg.rf.0"), ("train", "b_jpg.rf.1"), ("valid", "c_jpg.rf.2"))):
        save(root / split / f"{name}.jpg", noise(index, 12, 16, 3))
        save(root / split / f"{name}_mask.png", ids(index, [0, 1, 2]))
        (root / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, road\n2, car\n")
    return {"root": str(root)}


def write_json(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


MAKERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "camvid": make_camvid,
    "cityscapes": make_cityscapes,
    "voc2012": make_voc2012,
    "ade20k": make_ade20k,
    "pascal_context": make_pascal_context,
    "folder": make_folder,
    "coco": make_coco,
    "labelme": make_labelme,
    "cvat": make_cvat,
    "label_studio": make_label_studio,
    "roboflow": make_roboflow,
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
def pack_brush() -> Callable[[Array], list[int]]:
    """Encodes a mask (H, W) in Label Studio's format."""
    return packed


@pytest.fixture
def cvat_masks(tmp_path: Path) -> dict[str, Any]:
    """Options of a small export "Segmentation mask 1.1"."""
    return make_cvat_masks(tmp_path / "raw")


@pytest.fixture(scope="session")
def write_image() -> Callable[..., Path]:
    """``write_image(path, values, palette=None)`` writes RGB, ids or an indexed image."""
    return save


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


@pytest.fixture(scope="session")
def samples(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Options of the plugins for real samples. If the samples have only one split, it is divided into train and val."""
    real, base = real_data / "samples", tmp_path_factory.mktemp("samples")
    ade = real / "ADEChallengeData2016"
    for number, split in ((1, "training"), (2, "training"), (3, "validation")):
        for kind, suffix in (("images", "jpg"), ("annotations", "png")):
            name = f"ADE_val_{number:08d}.{suffix}"
            link(ade / kind / "validation" / name, base / "ade" / kind / split / name)
    voc = real / "voc2012" / "VOCdevkit" / "VOC2012"
    kit = base / "voc" / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass"):
        link(voc / folder, kit / folder)
    split_list(sorted(path.stem for path in (voc / "JPEGImages").iterdir()), kit / "ImageSets" / "Segmentation")
    context = base / "context" / "VOC2010"
    for path in (real / "pascal_context_rgbmasks").iterdir():
        folder = {".jpg": "JPEGImages", ".png": "SegmentationClassContext"}[path.suffix]
        link(path, context / folder / path.name)
    names = sorted(path.stem for path in (context / "JPEGImages").iterdir())
    split_list(names, context / "ImageSets" / "SegmentationContext")
    return {
        "cityscapes": {"root": str(real / "cityscapes")},
        "voc2012": {"root": str(base / "voc")},
        "ade20k": {"root": str(base / "ade")},
        "pascal_context": {"root": str(base / "context"), "numbering": "voc"},
    }


def split_list(names: list[str], folder: Path) -> None:
    """Half of the names into train.txt, the others into val.txt."""
    folder.mkdir(parents=True)
    half = len(names) // 2
    (folder / "train.txt").write_text("\n".join(names[:half]))
    (folder / "val.txt").write_text("\n".join(names[half:]))
