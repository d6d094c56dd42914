"""Incomplete files are refused, although decoders fill the missing part without a warning; complete files are read."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets._images import read_image, read_mask
from pipeline.errors import UserError

END = b"\xff\xd9"
ROWS, COLUMNS = np.mgrid[0:40, 0:60]
SMOOTH = np.stack([ROWS * 6, COLUMNS * 4, ROWS + COLUMNS], -1).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
PICTURES = {"smooth": SMOOTH, "noise": NOISE, "grey": NOISE[..., 0], "fill": np.full((40, 60, 3), 128, np.uint8)}
KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "subsampled": {"subsampling": 2},
    "full": {"subsampling": 0},
    "restarts": {"restart_marker_blocks": 2},
    "progressive": {"progressive": True},
}


def encoded(values: np.ndarray[Any, Any], kind: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind, **options)
    return stream.getvalue()


def refused(path: Path, data: bytes, *, read: Callable[[Path], Any] = read_image) -> str:
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("picture", PICTURES)
def test_a_whole_jpeg_is_read(tmp_path: Path, picture: str, kind: str) -> None:
    for quality in (25, 95):
        data = encoded(PICTURES[picture], quality=quality, **KINDS[kind])
        for tail in (b"", b"\0" * 7, b"appended by a camera"):
            (tmp_path / "a.jpg").write_bytes(data + tail)
            expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            assert np.array_equal(read_image(tmp_path / "a.jpg"), expected[..., ::-1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("picture", ["smooth", "noise", "grey"])
def test_a_cut_jpeg_is_refused_although_it_has_an_end_marker(tmp_path: Path, picture: str, kind: str) -> None:
    data = encoded(PICTURES[picture], quality=80, **KINDS[kind])
    scan = data.index(b"\xff\xda") + 14
    lengths = range(scan + 1, len(data) - 2 - (len(data) - scan) // 8, max(1, (len(data) - scan) // 12))
    for length in lengths:
        Image.open(io.BytesIO(data[:length].rstrip(b"\xff") + END))  # Pillow accepts it
        message = refused(tmp_path / "cut.jpg", data[:length].rstrip(b"\xff") + END)
        assert "cut.jpg: not a readable image (" in message and "restore the file" in message


def test_the_error_names_the_missing_part(tmp_path: Path) -> None:
    data = encoded(NOISE)
    assert "(truncated: the data end before the image is complete)" in refused(
        tmp_path / "a", data[: len(data) // 2] + END
    )
    progressive = encoded(NOISE, progressive=True)
    last_scan = progressive.rindex(b"\xff\xda")
    assert "(truncated: scans are missing" in refused(tmp_path / "a", progressive[:last_scan] + END)
    tables = progressive[:last_scan].rindex(b"\xff\xc4")
    assert "(truncated: scans are missing" in refused(tmp_path / "a", progressive[:tables] + END)


def test_the_second_picture_of_a_camera_file_does_not_hide_a_cut_first_one(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(NOISE).save(stream, "MPO", save_all=True, append_images=[Image.fromarray(SMOOTH)])
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    assert Image.open(tmp_path / "a.jpg").format == "MPO"
    assert read_image(tmp_path / "a.jpg").shape == (40, 60, 3)
    first = stream.getvalue().index(END + b"\xff\xd8")
    data = stream.getvalue()
    assert "truncated" in refused(tmp_path / "a.jpg", data[: first - 900] + END + data[first - 898 :])


def png(path: Path, rows: bytes, *, size: tuple[int, int], interlaced: bool = False) -> Path:
    """A grey PNG with any data in place of its pixels; every checksum is right."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", size[1], size[0], 8, 0, 0, 0, interlaced)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_with_too_few_rows_is_refused(tmp_path: Path, read: Callable[[Path], Any], interlaced: bool) -> None:
    whole = 8 * 10 + 8 if not interlaced else sum(
        -(-(8 - top) // down) * (1 + -(-(10 - left) // across)) if left < 10 and top < 8 else 0
        for left, top, across, down in (
            (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
        )
    )  # fmt: skip
    read(png(tmp_path / "whole.png", bytes(whole), size=(8, 10), interlaced=interlaced))
    png(tmp_path / "cut.png", bytes(whole - 1), size=(8, 10), interlaced=interlaced)
    with pytest.raises(UserError, match=rf"cut\.png: .*truncated: {whole - 1} of {whole} bytes of pixels"):
        read(tmp_path / "cut.png")


def test_a_jpeg_inside_a_tiff_must_be_whole(tmp_path: Path) -> None:
    data = encoded(NOISE, "TIFF", compression="jpeg")
    (tmp_path / "a.tif").write_bytes(data)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[..., ::-1]
    assert np.array_equal(read_image(tmp_path / "a.tif"), expected)
    tags = Image.open(io.BytesIO(data)).tag_v2  # type: ignore[attr-defined]
    start, size = tags[273][0], tags[279][0]
    middle = start + size // 2
    for damage in (END + bytes(size - size // 2 - 2), bytes(size - size // 2)):
        assert "truncated" in refused(tmp_path / "cut.tif", data[:middle] + damage + data[start + size :])
