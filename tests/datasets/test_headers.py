"""EXIF orientations are handled in the same way in a whole data set; one image with a clear size decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pipeline.datasets._headers import read_headers
from pipeline.datasets._pairs import size
from pipeline.datasets.folder import Folder
from pipeline.preparation.survey import survey

LABELS: dict[str, Any] = {"classes": ["bg", "road"], "palette": [[0, 0, 0], [128, 0, 0]], "sequence": ".+"}
Shape = tuple[int, int]


def write(
    root: Path, name: str, *, orientation: int, turned: bool = False, suffix: str = ".jpg", side: int = 48
) -> None:
    """An image 32x48 that is bright where its mask has class 1, if it is read with the orientation of its mask."""
    drawn = np.zeros((side, 32) if turned else (32, side), np.uint8)
    drawn[: drawn.shape[0] // 3, : drawn.shape[1] // 4] = 1
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose that the orientation undoes
    image = Image.fromarray(np.stack([drawn * 255] * 3, -1))
    if turned and orientation > 1:
        image = image.transpose(Image.Transpose(undo[orientation]))
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    image.save(root / f"images/{name}{suffix}", exif=exif, **({"quality": 98} if suffix == ".jpg" else {}))
    Image.fromarray(drawn).save(root / f"masks/{name}.png")


def dataset(root: Path) -> Folder:
    return Folder(root=str(root), shares={"val": 0.5}, **LABELS)


def agreement(folder: Folder) -> dict[str, float]:
    """For each sample, the share of the pixels whose brightness agrees with the mask."""
    pairs = {name: folder.read(split, name) for split, names in folder.splits().items() for name in names}
    return {name: float(((frame[..., 0] > 127) == (label == 1)).mean()) for name, (frame, label) in pairs.items()}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("sideways", [5, 6, 7, 8])
def test_one_image_proves_that_masks_are_on_stored_pixels(tmp_path: Path, sideways: int, suffix: str) -> None:
    for orientation in (1, 2, 3, 4, sideways):
        write(tmp_path, str(orientation), orientation=orientation, suffix=suffix)
    write(tmp_path, "square", orientation=6, side=32)
    folder = dataset(tmp_path)
    assert min(agreement(folder).values()) > 0.97
    assert list(folder.problems()) == [] and list(folder.warnings()) == []


@pytest.mark.parametrize("sideways", [5, 6, 7, 8])
def test_one_image_proves_that_masks_are_on_turned_pixels(tmp_path: Path, sideways: int) -> None:
    for orientation in (1, 2, 3, 4, sideways):
        write(tmp_path, str(orientation), orientation=orientation, turned=True)
    folder = dataset(tmp_path)
    assert min(agreement(folder).values()) > 0.97
    assert list(folder.problems()) == [] and list(folder.warnings()) == []


def test_a_contradiction_of_two_images_is_an_error_that_names_both(tmp_path: Path) -> None:
    for name, orientation, turned in (("a", 6, False), ("b", 6, True), ("c", 3, False), ("d", 1, False)):
        write(tmp_path, name, orientation=orientation, turned=turned)
    (problem,) = dataset(tmp_path).problems()
    assert (
        "images/a.jpg: its mask fits the stored pixels, but the mask of" in problem and "images/b.jpg fits" in problem
    )
    assert "exiftool -Orientation= FILE" in problem


def test_the_advice_of_that_error_works(tmp_path: Path) -> None:
    for name, orientation, turned in (("a", 1, False), ("b", 6, True), ("c", 1, False), ("d", 8, True)):
        write(tmp_path, name, orientation=orientation, turned=turned)
    folder = dataset(tmp_path)
    assert list(folder.problems()) == [] and min(agreement(folder).values()) > 0.97


def test_orientations_without_proof_give_a_warning(tmp_path: Path) -> None:
    for name, orientation in (("a", 3), ("b", 1), ("c", 2), ("d", 1)):
        write(tmp_path, name, orientation=orientation, turned=True)
    folder = dataset(tmp_path)
    assert min(agreement(folder).values()) > 0.97
    (warning,) = survey(folder, progress=lambda *_: None).warnings[:1]
    assert "images/a.jpg: 2 images have an EXIF orientation, and no size shows" in warning
    assert "the images are rotated, as in viewers. If the masks were drawn on stored pixels, remove the or" in warning


def test_an_orientation_in_the_text_of_a_png_counts(tmp_path: Path) -> None:
    write(tmp_path, "a", orientation=1, suffix=".png")
    text = PngImagePlugin.PngInfo()
    xmp = '<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    text.add_itxt("XML:com.adobe.xmp", xmp)
    with Image.open(tmp_path / "images/a.png") as image:
        image.save(tmp_path / "images/a.png", pnginfo=text)
    files = [(tmp_path / "images/a.png", tmp_path / "masks/a.png")]
    assert read_headers(files, ids=True).stored


def test_an_orientation_after_the_pixels_of_a_png_counts(tmp_path: Path) -> None:
    write(tmp_path, "a", orientation=6, suffix=".png")
    path = tmp_path / "images/a.png"
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    path.write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    assert read_headers([(path, tmp_path / "masks/a.png")], ids=True).stored


def test_files_that_cannot_be_read_decide_nothing(tmp_path: Path) -> None:
    write(tmp_path, "a", orientation=3)
    (tmp_path / "images/b.jpg").write_bytes(b"no image")
    files = [(tmp_path / f"images/{name}.jpg", tmp_path / f"masks/{name}.png") for name in ("a", "b", "c")]
    headers = read_headers(files, ids=True)
    assert not headers.stored and not headers.problems and len(headers.warnings) == 1
    assert size(np.zeros((2, 3), np.uint8)) == "2x3"
