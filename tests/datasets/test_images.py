"""Files are read completely and without ambiguity; other files are refused with their name and what to do."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.datasets._images import read_image, read_mask
from pipeline.errors import UserError

READERS: list[Callable[[Path], Any]] = [read_image, read_mask]


@pytest.fixture
def photo() -> Image.Image:
    """A smooth image 40x60: a JPEG of it is almost equal."""
    rows, columns = np.mgrid[0:40, 0:60]
    return Image.fromarray(np.stack([rows * 6, columns * 4, rows + columns], -1).astype(np.uint8))


def noisy(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def bgr(image: Image.Image) -> Any:
    return np.asarray(image)[..., ::-1]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_images_are_read_exactly(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").write_bytes(encoded(noisy(), kind))
    assert np.array_equal(read_image(tmp_path / "a"), bgr(noisy()))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_read_as_opencv_reads_it(tmp_path: Path, photo: Image.Image, progressive: bool) -> None:
    (tmp_path / "a.JPG").write_bytes(encoded(photo, "JPEG", quality=90, progressive=progressive))
    other = cv2.imread(str(tmp_path / "a.JPG"), cv2.IMREAD_COLOR)
    assert other is not None
    assert np.abs(read_image(tmp_path / "a.JPG").astype(int) - other).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_truncation_is_detected(tmp_path: Path, kind: str, progressive: bool) -> None:
    data = encoded(noisy(), kind, **({"progressive": progressive} if kind == "JPEG" else {}))
    for length in (*range(0, len(data) - 2, 97), len(data) - 2, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(UserError, match=r"cut: (not a readable image|empty file).*; restore the file or remove it"):
            read_image(tmp_path / "cut")


def test_a_jpeg_that_ends_in_zeros_is_detected_although_opencv_reads_it(tmp_path: Path) -> None:
    data = encoded(noisy(), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    assert cv2.imread(str(tmp_path / "cut.jpg")) is not None
    with pytest.raises(UserError, match=r"cut\.jpg: not a readable image \(truncated: no end marker\)"):
        read_image(tmp_path / "cut.jpg")


def test_the_end_marker_of_a_thumbnail_is_not_that_of_the_image(tmp_path: Path) -> None:
    data = encoded(noisy(), "JPEG")
    thumbnail = encoded(noisy(1), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    (tmp_path / "whole.jpg").write_bytes(data[:2] + segment + data[2:])
    (tmp_path / "cut.jpg").write_bytes(data[:2] + segment + data[2:-2] + bytes(2))
    first = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(read_image(tmp_path / "whole.jpg")[..., ::-1], first), "the image, not its thumbnail"
    with pytest.raises(UserError, match="truncated: no end marker"):
        read_image(tmp_path / "cut.jpg")


def test_every_flipped_byte_of_a_png_is_detected(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)), "PNG")
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1
        (tmp_path / "a.png").write_bytes(damaged)
        for read in READERS:
            with pytest.raises(UserError, match=r"a\.png: not a readable image"):
                read(tmp_path / "a.png")


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    data = bytearray(encoded(noisy(), "PNG"))
    data[len(data) // 2] ^= 255
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserError, match=r"damaged: wrong checksum of chunk 'IDAT'"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_a_folder_and_a_text_have_different_errors(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    for name, message in (
        ("none.png", "no such file; restore the file or remove it from its list"),
        (".", "cannot be read .*directory"),
        ("a\0b", "cannot be read .*null"),
        ("text.png", r"not a readable image \(unknown format\)"),
        ("empty.png", "empty file; restore"),
    ):
        with pytest.raises(UserError, match=message):
            read(tmp_path / name)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    data = bytearray(encoded(noisy(), "PNG"))
    data[16:24] = struct.pack(">II", 12_000, 12_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "huge.png").write_bytes(data)
    with pytest.raises(UserError, match=r"huge\.png: 12000x12000; allowed: at most \d+ pixels; cut it into tiles"):
        read_image(tmp_path / "huge.png")


def test_grey_images_have_three_equal_channels(tmp_path: Path, photo: Image.Image) -> None:
    photo.convert("L").save(tmp_path / "grey.png")
    frame = read_image(tmp_path / "grey.png")
    assert frame.shape == (40, 60, 3)
    assert all(np.array_equal(frame[..., channel], np.asarray(photo.convert("L"))) for channel in range(3))


def test_an_opaque_alpha_channel_is_dropped_and_a_real_one_refused(tmp_path: Path, photo: Image.Image) -> None:
    photo.convert("RGBA").save(tmp_path / "opaque.png")
    assert np.array_equal(read_image(tmp_path / "opaque.png"), bgr(photo))
    clear = photo.convert("RGBA")
    clear.putpixel((3, 4), (1, 2, 3, 254))
    clear.save(tmp_path / "clear.png")
    for read in READERS:
        with pytest.raises(
            UserError, match=r"clear\.png: has transparent pixels, whose colour is undefined; flatten it"
        ):
            read(tmp_path / "clear.png")


def test_cmyk_and_16_bits_are_refused(tmp_path: Path, photo: Image.Image) -> None:
    photo.convert("CMYK").save(tmp_path / "print.jpg")
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(tmp_path / "deep.png")
    assert cv2.imwrite(str(tmp_path / "deep_rgb.png"), np.zeros((4, 6, 3), np.uint16))
    with pytest.raises(UserError, match=r"print\.jpg: CMYK colours need a profile to be shown; convert it to RGB"):
        read_image(tmp_path / "print.jpg")
    for name in ("deep.png", "deep_rgb.png"):
        with pytest.raises(UserError, match=r"more than 8 bits per channel .* convert it to 8 bits"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_are_applied_as_opencv_does(tmp_path: Path, photo: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.save(tmp_path / "a.jpg", exif=exif, quality=95)
    rotated = cv2.imread(str(tmp_path / "a.jpg"), cv2.IMREAD_COLOR)
    assert rotated is not None
    frame = read_image(tmp_path / "a.jpg")
    assert frame.shape == rotated.shape and np.abs(frame.astype(int) - rotated).max() <= 2
    assert read_image(tmp_path / "a.jpg", fits=rotated.shape[:2]).shape == rotated.shape


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_drawn_on_the_stored_picture_decides(tmp_path: Path, photo: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.save(tmp_path / "a.jpg", exif=exif, quality=95)
    stored = cv2.imread(str(tmp_path / "a.jpg"), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    frame = read_image(tmp_path / "a.jpg", fits=(40, 60))
    assert frame.shape == (40, 60, 3) and np.abs(frame.astype(int) - stored).max() <= 2
    assert read_image(tmp_path / "a.jpg", fits=(11, 12)).shape == (60, 40, 3), "no size fits: as viewers show it"


def png(path: Path, *, width: int, depth: int, colour: int, row: bytes, palette: bytes = b"") -> Path:
    """A PNG of one row, of any bit depth."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))]
    parts += [(b"PLTE", palette)] if palette else []
    parts += [(b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


@pytest.mark.parametrize(
    ("depth", "row", "expected"),
    [
        (1, b"\xa0", [1, 0, 1, 0]),
        (2, b"\x1b", [0, 1, 2, 3]),
        (4, b"\x0f\x27", [0, 15, 2, 7]),
        (8, b"\x00\x01\xfe\xff", [0, 1, 254, 255]),
        (16, b"\x00\x00\x00\x01\x01\x00\xff\xff", [0, 1, 256, 65535]),
    ],
)
def test_grey_masks_of_every_depth_hold_ids(tmp_path: Path, depth: int, row: bytes, expected: list[int]) -> None:
    mask = read_mask(png(tmp_path / "m.png", width=4, depth=depth, colour=0, row=row))
    assert mask.values.tolist() == [expected] and mask.palette is None


@pytest.mark.parametrize(("depth", "row"), [(2, b"\x1b"), (4, b"\x01\x23"), (8, b"\x00\x01\x02\x03")])
def test_indexed_masks_keep_entries_and_colours(tmp_path: Path, depth: int, row: bytes) -> None:
    palette = bytes([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    mask = read_mask(png(tmp_path / "m.png", width=4, depth=depth, colour=3, row=row, palette=palette))
    assert mask.values.tolist() == [[0, 1, 2, 3]]
    assert mask.palette is not None and mask.palette.tolist() == np.frombuffer(palette, np.uint8).reshape(4, 3).tolist()


def test_colour_masks_are_rgb(tmp_path: Path) -> None:
    noisy().save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png").values, np.asarray(noisy()))


def test_masks_that_lose_ids_are_refused(tmp_path: Path, photo: Image.Image) -> None:
    photo.convert("L").save(tmp_path / "m.jpg")
    Image.fromarray(np.zeros((4, 6), np.float32)).save(tmp_path / "m.tif")
    with pytest.raises(
        UserError, match=r"m\.jpg: JPEG; allowed: PNG, BMP, TIFF, because masks must be lossless; create"
    ):
        read_mask(tmp_path / "m.jpg")
    with pytest.raises(UserError, match=r"m\.tif: mode F, 32 bits; allowed: one channel of ids"):
        read_mask(tmp_path / "m.tif")


def tiff(path: Path, *, bits: int, row: bytes, photometric: int = 1, samples: int = 1, **tags: int) -> Path:
    """A TIFF of one row of four pixels, of any bit depth, without compression."""
    number = {"orientation": 274}
    entries = [(256, 3, [4]), (257, 3, [1]), (258, 3, [bits] * samples), (259, 3, [1]), (262, 3, [photometric])]
    entries += [(273, 4, [0]), (277, 3, [samples]), (278, 3, [1]), (279, 4, [len(row)])]
    entries = sorted([*entries, *((number[name], 3, [value]) for name, value in tags.items())])
    more = 8 + 2 + 12 * len(entries) + 4
    extra = struct.pack(f"<{samples}H", *[bits] * samples) if samples > 2 else b""
    data = b"II*\0" + struct.pack("<IH", 8, len(entries))
    for tag, kind, values in entries:
        value = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values).ljust(4, b"\0")
        if tag == 273:
            value = struct.pack("<I", more + len(extra))
        data += struct.pack("<HHI", tag, kind, len(values)) + (value if len(value) == 4 else struct.pack("<I", more))
    path.write_bytes(data + bytes(4) + extra + row)
    return path


@pytest.mark.parametrize(
    ("bits", "row", "expected"),
    [
        (1, b"\xa0", [1, 0, 1, 0]),
        (2, b"\x1b", [0, 1, 2, 3]),
        (4, b"\x0f\x27", [0, 15, 2, 7]),
        (8, b"\x00\x01\xfe\xff", [0, 1, 254, 255]),
        (16, b"\x00\x00\x01\x00\x00\x01\xff\xff", [0, 1, 256, 65535]),
    ],
)
def test_tiff_masks_of_every_depth_hold_ids(tmp_path: Path, bits: int, row: bytes, expected: list[int]) -> None:
    mask = read_mask(tiff(tmp_path / "m.tif", bits=bits, row=row))
    assert mask.values.tolist() == [expected] and mask.bits == bits
    with pytest.raises(UserError, match=r"m\.tif: TIFF in which 0 is white; .*save it as 8-bit grey PNG"):
        read_mask(tiff(tmp_path / "m.tif", bits=bits, row=row, photometric=0))


def test_tiff_of_16_bits_per_channel_is_refused(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", bits=16, row=bytes(24), photometric=2, samples=3)
    with Image.open(tmp_path / "a.tif") as image:
        assert image.mode == "RGB", "Pillow drops 8 of the 16 bits"
    with pytest.raises(UserError, match="more than 8 bits per channel"):
        read_image(tmp_path / "a.tif")
    with pytest.raises(UserError, match="mode RGB, 16 bits; allowed: one channel"):
        read_mask(tmp_path / "a.tif")


def test_masks_with_an_orientation_are_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (6, 4)).save(tmp_path / "m.png", exif=exif)
    tiff(tmp_path / "m.tif", bits=8, row=bytes(4), orientation=3)
    for name in ("m.png", "m.tif"):
        with pytest.raises(UserError, match="a mask with an EXIF orientation; save it as 8-bit grey PNG"):
            read_mask(tmp_path / name)
    with pytest.raises(UserError, match="TIFF with an orientation; save it as PNG"):
        read_image(tmp_path / "m.tif", stored=True)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_pages_and_frames_are_refused(tmp_path: Path, kind: str) -> None:
    noisy().save(tmp_path / "a", kind, save_all=True, append_images=[noisy(1), noisy(2)])
    for read in READERS[: 1 if kind == "WEBP" else 2]:
        with pytest.raises(
            UserError, match=r"a: 3 pages or frames; allowed: 1; save the correct one as a separate file"
        ):
            read(tmp_path / "a")
    noisy().save(tmp_path / "a", kind, save_all=True, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(read_image(tmp_path / "a"), bgr(noisy())), "one page is an image"


def test_a_reduced_copy_inside_a_tiff_is_no_page(tmp_path: Path) -> None:
    first, second = noisy(), noisy(1).resize((30, 20))
    second.encoderinfo = {"tiffinfo": {254: 1}}
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    with Image.open(tmp_path / "a.tif") as image:
        image.seek(1)
        assert image.tag_v2.get(254) == 1  # type: ignore[attr-defined]
    assert np.array_equal(read_image(tmp_path / "a.tif"), bgr(first))


def test_lossy_compression_in_a_tiff_is_refused_for_masks(tmp_path: Path, photo: Image.Image) -> None:
    for compression in ("raw", "packbits", "tiff_lzw", "tiff_deflate", "zstd", "lzma"):
        photo.convert("L").save(tmp_path / "m.tif", compression=compression)
        assert np.array_equal(read_mask(tmp_path / "m.tif").values, np.asarray(photo.convert("L")))
    noisy().save(tmp_path / "m.tif", compression="jpeg")
    with pytest.raises(UserError, match="TIFF with lossy compression; masks must be lossless: create it again"):
        read_mask(tmp_path / "m.tif")
    assert np.array_equal(read_image(tmp_path / "m.tif"), bgr(Image.open(tmp_path / "m.tif").convert("RGB")))


@pytest.mark.parametrize("read", READERS)
def test_a_grey_bmp_of_4_bits_is_refused(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    palette = b"".join(bytes([grey, grey, grey, 0]) for grey in range(16))
    header = struct.pack("<IiiHHIIiiII", 40, 4, 1, 1, 4, 0, 0, 0, 0, 16, 0)
    data = header + palette + b"\x01\x23\x00\x00"
    (tmp_path / "m.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 14 + len(data), 0, 0, 14 + 40 + 64) + data)
    with pytest.raises(UserError, match=r"m\.bmp: grey BMP of less than 8 bits, .*save it as 8-bit PNG"):
        read(tmp_path / "m.bmp")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "JPEG2000", "AVIF", "PPM", "ICO"])
def test_other_formats_have_one_clear_refusal(tmp_path: Path, kind: str) -> None:
    noisy().save(tmp_path / "m.png", kind)
    with pytest.raises(UserError, match=rf"m\.png: {kind}; allowed: PNG, BMP, TIFF, .* 8-bit grey PNG of class ids"):
        read_mask(tmp_path / "m.png")
    if kind == "WEBP":
        assert np.array_equal(read_image(tmp_path / "m.png"), bgr(Image.open(tmp_path / "m.png").convert("RGB")))
    else:
        with pytest.raises(UserError, match=rf"m\.png: {kind}; allowed: PNG, JPEG, .*; save it as PNG"):
            read_image(tmp_path / "m.png")
