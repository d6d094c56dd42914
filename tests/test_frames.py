"""Reading and resizing: lossless, (height, width), ids never mixed; damaged or ambiguous files are refused."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import Array, digest, read_frame, read_label_map, resize_frame, resize_label_map, write_png

READERS = [read_frame, read_label_map]


def noise(*shape: int, high: int = 256) -> Array:
    return np.random.default_rng(0).integers(0, high, shape, dtype=np.uint8)


def png(path: Path, *, width: int, height: int, depth: int, colour: int, rows: bytes, palette: bytes = b"") -> Path:
    """A PNG of any bit depth, which OpenCV does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        *([(b"PLTE", palette)] if palette else []),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*item) for item in chunks))
    return path


def test_frames_and_label_maps_are_read_exactly(tmp_path: Path) -> None:
    frame, label = noise(5, 7, 3), noise(5, 7)
    write_png(tmp_path / "new" / "f.png", frame)
    write_png(tmp_path / "l.png", label)
    assert np.array_equal(read_frame(tmp_path / "new" / "f.png"), frame)
    assert np.array_equal(read_label_map(tmp_path / "l.png"), label)


def test_the_same_image_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_png(tmp_path / name, noise(40, 60, 3))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_digest_is_of_size_and_pixels() -> None:
    frame = noise(6, 8, 3)
    assert digest(frame) == digest(np.asfortranarray(frame)) == digest(frame[:, ::-1][:, ::-1])
    assert len({digest(image) for image in (frame, frame.reshape(8, 6, 3), frame[..., ::-1], frame[..., 0])}) == 4
    assert digest(frame) == hashlib.sha256(b"(6, 8, 3)" + frame.tobytes()).digest() and len(digest(frame)) == 32


def test_channels_are_blue_green_red(tmp_path: Path) -> None:
    red = b"\x00" + bytes([255, 0, 0])
    frame = read_frame(png(tmp_path / "red.png", width=1, height=1, depth=8, colour=2, rows=red))
    assert frame.tolist() == [[[0, 0, 255]]]


def test_a_grey_picture_is_a_frame_of_three_channels(tmp_path: Path) -> None:
    write_png(tmp_path / "grey.png", noise(4, 6))
    assert np.array_equal(read_frame(tmp_path / "grey.png"), np.stack([noise(4, 6)] * 3, -1))


def test_an_8_bit_map_with_every_id_is_read_untouched(tmp_path: Path) -> None:
    path = png(tmp_path / "l.png", width=256, height=1, depth=8, colour=0, rows=bytes([0, *range(256)]))
    assert read_label_map(path).tolist() == [list(range(256))]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_truncated_png_is_refused(tmp_path: Path, read: Callable[[Path], Array], share: float) -> None:
    write_png(tmp_path / "whole.png", noise(40, 60))
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"cut\.png: not a readable image; restore the file"):
        read(tmp_path / "cut.png")


@pytest.mark.parametrize("read", READERS)
def test_a_flipped_byte_is_found(tmp_path: Path, read: Callable[[Path], Array]) -> None:
    write_png(tmp_path / "f.png", noise(40, 60))
    data = bytearray((tmp_path / "f.png").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "f.png").write_bytes(data)
    with pytest.raises(UserError, match="not a readable image"):
        read(tmp_path / "f.png")


@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_a_folder_and_a_text_have_different_errors(
    tmp_path: Path, read: Callable[[Path], Array]
) -> None:
    (tmp_path / "text.png").write_text("no image")
    for name, message in (
        ("none.png", "no such file"),
        (".", "cannot be read .*directory"),
        ("text.png", "not a readable"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            read(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("read", READERS)
def test_a_picture_too_large_for_opencv_is_a_user_error(tmp_path: Path, read: Callable[[Path], Array]) -> None:
    path = png(tmp_path / "huge.png", width=100_000, height=100_000, depth=8, colour=0, rows=b"x")
    with pytest.raises(UserError, match=r"huge\.png: OpenCV cannot decode it"):
        read(path)


def test_label_maps_of_several_channels_or_16_bits_are_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "colour.png", noise(4, 6, 3))
    assert cv2.imwrite(str(tmp_path / "deep.png"), noise(4, 6).astype(np.uint16))
    assert cv2.imwrite(str(tmp_path / "alpha.png"), noise(4, 6, 4))
    palette = bytes([0, 0, 0, 255, 255, 255])
    png(tmp_path / "palette.png", width=2, height=1, depth=8, colour=3, rows=b"\x00\x00\x01", palette=palette)
    shapes = {"colour": r"\(4, 6, 3\)", "alpha": r"\(4, 6, 4\)", "deep": "uint16", "palette": r"\(1, 2, 3\)"}
    for name, got in shapes.items():
        with pytest.raises(UserError, match=rf"{name}\.png: got .*{got}.*; allowed: one 8-bit channel"):
            read_label_map(tmp_path / f"{name}.png")


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_label_maps_that_opencv_would_scale_are_refused(tmp_path: Path, depth: int) -> None:
    path = png(tmp_path / "l.png", width=2, height=1, depth=depth, colour=0, rows=b"\x00\x52")
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).max() > 15, (
        "OpenCV no longer scales the values: remove the check"
    )
    with pytest.raises(UserError, match=f"got {depth} bits; allowed: one 8-bit channel"):
        read_label_map(path)
    assert read_frame(path).shape == (1, 2, 3)


def test_sizes_are_height_then_width() -> None:
    assert resize_frame(noise(8, 12, 3), (6, 20)).shape == (6, 20, 3)
    assert resize_label_map(noise(8, 12), (6, 20)).shape == (6, 20)


def test_equal_size_changes_nothing() -> None:
    frame, label = noise(8, 12, 3), noise(8, 12)
    assert np.array_equal(resize_frame(frame, (8, 12)), frame)
    assert np.array_equal(resize_label_map(label, (8, 12)), label)


@pytest.mark.parametrize("size", [(3, 5), (16, 24), (37, 11), (200, 300)])
def test_resize_invents_no_id(size: tuple[int, int]) -> None:
    label = np.where(noise(16, 24) > 127, 255, 3).astype(np.uint8)
    assert set(np.unique(resize_label_map(label, size)).tolist()) == {3, 255}


def test_label_maps_take_the_nearest_pixel() -> None:
    label = noise(4, 6)
    assert np.array_equal(resize_label_map(label, (8, 12)), label.repeat(2, 0).repeat(2, 1))
    assert np.array_equal(resize_label_map(label, (12, 18))[1::3, 1::3], label)
    line = np.arange(7, dtype=np.uint8)[None]
    assert resize_label_map(line, (1, 3)).tolist() == [[1, 3, 5]]  # centres at 7/6, 21/6, 35/6: no shift to the left


def test_frames_average_when_they_shrink_a_lot() -> None:
    frame = noise(64, 96, 3)
    blocks = frame.reshape(8, 8, 12, 8, 3).mean((1, 3))
    assert np.abs(resize_frame(frame, (8, 12)) - blocks).max() <= 0.5
