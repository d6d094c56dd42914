"""A raw image file is kept only if everyone who reads the prepared data set sees the pixels that the plugin read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.datasets._images import read_image
from pipeline.frames import Array, read_frame
from pipeline.preparation.originals import write_image


def picture(height: int = 67, width: int = 101) -> Array:
    """A frame (H, W, 3) with smooth and noisy parts."""
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), (width, height))
    smooth[: height // 3] = rng.integers(0, 256, (height // 3, width, 3), dtype=np.uint8)
    return np.asarray(smooth, np.uint8)


def saved(path: Path, image: Image.Image, form: str, **options: Any) -> Path:
    image.save(path, form, **options)
    return path


def written(tmp_path: Path, source: Path) -> Path:
    """The file that is written for a raw file, with the pixels that Pillow reads."""
    frame = read_image(source)
    file = write_image(tmp_path / "out", "a.b", frame, source=source)
    assert np.array_equal(read_frame(file), frame)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [file.name]
    return file


RGB = Image.fromarray(picture())


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
@pytest.mark.parametrize(
    "options", [{"quality": 60}, {"quality": 95, "progressive": True}, {"restart_marker_blocks": 3}]
)
def test_a_jpeg_keeps_its_bytes(tmp_path: Path, subsampling: str, options: dict[str, Any]) -> None:
    """Pillow and OpenCV decode all these kinds to the same pixels; if that ends, the frame becomes a PNG."""
    source = saved(tmp_path / "raw.JPEG", RGB, "JPEG", subsampling=subsampling, **options)
    file = written(tmp_path, source)
    assert file.name == "a.b.jpg" and file.read_bytes() == source.read_bytes()


def test_a_png_of_three_channels_keeps_its_bytes(tmp_path: Path) -> None:
    source = saved(tmp_path / "raw.png", RGB, "PNG", compress_level=9)
    file = written(tmp_path, source)
    assert file.name == "a.b.png" and file.read_bytes() == source.read_bytes()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def test_an_orientation_of_1_turns_nothing(tmp_path: Path) -> None:
    source = saved(tmp_path / "raw.jpg", RGB, "JPEG", exif=exif(1))
    assert written(tmp_path, source).read_bytes() == source.read_bytes()


def test_a_jpeg_with_more_pictures_keeps_its_bytes(tmp_path: Path) -> None:
    source = saved(tmp_path / "raw.jpg", RGB, "MPO", save_all=True, append_images=[RGB.resize((9, 7))])
    assert Image.open(source).format == "MPO"
    assert written(tmp_path, source).read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("form", "image", "options"),
    [
        ("JPEG", RGB, {"exif": exif(6)}),
        ("JPEG", RGB, {"exif": exif(3)}),
        ("PNG", RGB, {"exif": exif(6)}),
        ("JPEG", RGB.convert("L"), {}),
        ("PNG", RGB.convert("L"), {}),
        ("PNG", RGB.quantize(16), {}),
        ("PNG", RGB.convert("RGBA"), {}),
        ("BMP", RGB, {}),
        ("TIFF", RGB, {}),
        ("WEBP", RGB, {}),
    ],
)
def test_other_images_become_png(tmp_path: Path, form: str, image: Image.Image, options: dict[str, Any]) -> None:
    source = saved(tmp_path / "raw", image, form, **options)
    file = written(tmp_path, source)
    head = file.read_bytes()[:26]
    assert file.name == "a.b.png" and head.startswith(b"\x89PNG") and head[24:26] == bytes([8, 2])
    assert file.read_bytes() != source.read_bytes()


def test_a_frame_that_is_not_that_of_the_file_becomes_png(tmp_path: Path) -> None:
    source = saved(tmp_path / "raw.jpg", RGB, "JPEG")
    frame = read_frame(source)
    frame[5, 6, 1] ^= 1  # as another decoder might
    file = write_image(tmp_path / "out", "a", frame, source=source)
    assert file.suffix == ".png" and np.array_equal(read_frame(file), frame)
    for damage in (b"", b"\xff\xd8\xff", source.read_bytes()[:900]):
        source.write_bytes(damage)
        assert np.array_equal(read_frame(write_image(tmp_path / "out", "b", frame, source=source)), frame)
    assert write_image(tmp_path / "out", "c", frame, source=None).name == "c.png"
    assert write_image(tmp_path / "out", "d", frame, source=tmp_path / "missing.jpg").name == "d.png"


def test_the_raw_file_cannot_be_written_through_the_copy(tmp_path: Path) -> None:
    source = saved(tmp_path / "raw.jpg", RGB, "JPEG")
    before = source.read_bytes()
    source.chmod(0o444)
    (tmp_path / "link.jpg").symlink_to(source)
    file = written(tmp_path, tmp_path / "link.jpg")
    assert not file.is_symlink() and file.stat().st_ino != source.stat().st_ino and file.stat().st_nlink == 1
    with file.open("r+b") as stream:
        stream.write(b"other")
    assert source.read_bytes() == before


def test_equal_images_give_equal_files(tmp_path: Path) -> None:
    stream = io.BytesIO()
    RGB.save(stream, "JPEG")
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "raw.jpg").write_bytes(stream.getvalue())
        files.append(written(tmp_path / name, tmp_path / name / "raw.jpg"))
    assert files[0].read_bytes() == files[1].read_bytes()
