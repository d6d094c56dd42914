"""Damaged data sets: `prepare` either raises a UserError or prepares the complete data set; it never crashes."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import artifact, datasets
from pipeline.errors import UserError
from pipeline.preparation.prepare import prepare

COPIES = 300
Damage = Callable[[random.Random, Path, list[Path]], object]


def images(files: list[Path]) -> list[Path]:
    return [file for file in files if file.suffix in (".png", ".jpg")]


def put(file: Path, data: bytes) -> None:
    """Replace a file. The copies are links to the valid files, which must not change."""
    file.unlink()
    file.write_bytes(data)


def flip(dice: random.Random, root: Path, files: list[Path]) -> None:
    file = dice.choice(files)
    data = bytearray(file.read_bytes())
    for _ in range(dice.choice([1, 1, 2, 8, 64])):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    put(file, data)


def truncate(dice: random.Random, root: Path, files: list[Path]) -> None:
    file = dice.choice(files)
    data = file.read_bytes()
    put(file, data[: int(len(data) * dice.choice([0, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999]))])


def hole(dice: random.Random, root: Path, files: list[Path]) -> None:
    """Zeros at the end, as after a download that stopped although the space was already reserved."""
    file = dice.choice(files)
    data = bytearray(file.read_bytes())
    start = dice.randrange(len(data))
    data[start:] = bytes(len(data) - start)
    put(file, data)


def swap_header(dice: random.Random, root: Path, files: list[Path]) -> None:
    one, other = dice.choice(files), dice.choice(files)
    length = dice.choice([8, 20, 64])
    put(one, other.read_bytes()[:length] + one.read_bytes()[length:])


def oversize(dice: random.Random, root: Path, files: list[Path]) -> None:
    """Another size in the header, with a correct checksum if the format has one."""
    file = dice.choice(images(files))
    data = bytearray(file.read_bytes())
    sides = dice.choice([(0, 0), (1, 1), (7, 12), (3000, 2000), (65535, 65535), (0x7FFFFFFF, 0x7FFFFFFF)])
    if file.suffix == ".png":
        data[16:24] = struct.pack(">II", *sides)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", *(side & 0xFFFF for side in sides))
    put(file, data)


def remode(dice: random.Random, root: Path, files: list[Path]) -> None:
    """A valid image of a wrong mode or format."""
    file = dice.choice(images(files))
    with Image.open(file) as image:
        converted = image.convert(dice.choice(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "YCbCr"]))
    file.unlink()
    converted.save(
        file, dice.choice(["PNG", "TIFF", "JPEG", "BMP", "GIF", "WEBP"] if converted.mode == "RGB" else ["TIFF"])
    )


def deepen(dice: random.Random, root: Path, files: list[Path]) -> None:
    file = dice.choice(files)
    file.unlink()
    Image.fromarray(np.full((12, 16), dice.choice([0, 255, 256, 40000]), np.uint16)).save(file, "PNG")


def cut_with_an_end(dice: random.Random, root: Path, files: list[Path]) -> None:
    """A JPEG without its second half, but with a correct end marker."""
    file = dice.choice(images(files))
    stream = io.BytesIO()
    with Image.open(file) as image:
        image.convert("RGB").save(stream, "JPEG", quality=95, progressive=dice.random() < 0.5)
    data = stream.getvalue()
    scan = data.index(b"\xff\xda") + 14
    put(file, data[: dice.randrange(scan, scan + (len(data) - scan) // 2)].rstrip(b"\xff") + b"\xff\xd9")


def add_page(dice: random.Random, root: Path, files: list[Path]) -> None:
    file = dice.choice(images(files))
    with Image.open(file) as image:
        page = image.copy()
    file.unlink()
    kind = dice.choice(["PNG", "TIFF"])
    page.save(file, kind, save_all=True, append_images=[Image.new(page.mode, page.size)])


def repaint(dice: random.Random, root: Path, files: list[Path]) -> None:
    """An indexed file whose entries are in another order, as programs that write small files produce it."""
    indexed = [file for file in images(files) if file.suffix == ".png"]
    if not indexed:
        return flip(dice, root, files)
    file = dice.choice(indexed)
    with Image.open(file) as image:
        values = np.asarray(image if image.mode in ("L", "P") else image.convert("L"))
    order = np.array(dice.sample(range(256), 256), np.uint8)
    indexed_image = Image.fromarray(np.argsort(order).astype(np.uint8)[values], mode="P")
    palette = np.stack([order] * 3, -1) if dice.random() < 0.5 else np.stack([order, order // 2, order // 3], -1)
    indexed_image.putpalette(palette.tobytes())
    file.unlink()
    return indexed_image.save(file)


def turn(dice: random.Random, root: Path, files: list[Path]) -> None:
    """An EXIF orientation in an image or a mask."""
    file = dice.choice(images(files))
    exif = Image.Exif()
    exif[0x0112] = dice.randrange(0, 10)
    with Image.open(file) as image:
        image.load()
    kind = "JPEG" if file.suffix == ".jpg" else "PNG"
    file.unlink()
    image.save(file, kind, exif=exif)


def shrink(dice: random.Random, root: Path, files: list[Path]) -> None:
    """Fewer bits per pixel, in one of the formats that allow it."""
    file = dice.choice(images(files))
    file.unlink()
    pattern = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(12, 16) % 2 * 255)
    pattern.convert("1").save(file, dice.choice(["PNG", "TIFF", "BMP"]))


def spoil_list(dice: random.Random, root: Path, files: list[Path]) -> None:
    lists = [file for file in files if file.suffix == ".txt"]
    if not lists:
        return flip(dice, root, files)
    file = dice.choice(lists)
    lines = file.read_text().splitlines()
    lines.insert(
        dice.randrange(len(lines) + 1),
        dice.choice(
            [
                "\x00", "../../etc/passwd", "/etc/passwd", "no_such_sample", "x" * 5000, "a b c d", "\u202e", "\ufeff",
                "train/\x00.png trainannot/\x00.png", ".", "..", "a/../b", lines[0], "ü" * 150,
            ]
        ),
    )  # fmt: skip
    put(file, "\n".join(lines).encode())


def leak(dice: random.Random, root: Path, files: list[Path]) -> None:
    """One file over another: an image in two splits, a mask for an image, a list of another split."""
    one, other = dice.sample(files, 2)
    put(other, one.read_bytes())


def remove(dice: random.Random, root: Path, files: list[Path]) -> None:
    victim = dice.choice([*files, *{file.parent for file in files}])
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink()


def replace(dice: random.Random, root: Path, files: list[Path]) -> None:
    """A folder or a broken link in the place of a file."""
    file = dice.choice(files)
    file.unlink()
    dice.choice([file.mkdir, lambda: file.symlink_to(file), lambda: file.symlink_to(root / "gone")])()


def rename(dice: random.Random, root: Path, files: list[Path]) -> None:
    file = dice.choice(files)
    names = [
        b"\xff\xfe" + file.suffix.encode(),
        b"a\nb" + file.suffix.encode(),
        b"." + file.name.encode(),
        b"x" * 240 + b".png",
    ]
    os.rename(os.fsencode(file), os.fsencode(file.parent) + b"/" + dice.choice(names))


def stray(dice: random.Random, root: Path, files: list[Path]) -> None:
    """An additional file and an additional link."""
    folder = dice.choice(files).parent
    (folder / dice.choice(["Thumbs.db", "notes.txt", "._a.png", "extra.png", "extra.jpg"])).write_bytes(b"x")
    (folder / "loop").symlink_to(folder)


DAMAGES: tuple[Damage, ...] = (
    flip, flip, truncate, hole, swap_header, oversize, remode, deepen, spoil_list, leak, remove, replace, rename, stray,
    cut_with_an_end, add_page, repaint, turn, shrink,
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(makers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    base = tmp_path_factory.mktemp("whole")
    return {name: (base / name, make(base / name)) for name, make in makers.items()}


def test_every_damage_is_a_user_error_or_harmless(
    whole: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    ended: Counter[tuple[str, str]] = Counter()
    place, out = tmp_path / "raw", tmp_path / "made" / "out"
    for number in range(COPIES):
        dice = random.Random(number)
        name = list(whole)[number % len(whole)]
        damage = DAMAGES[number // len(whole) % len(DAMAGES)]
        source, options = whole[name]
        shutil.copytree(source, place, copy_function=os.link)
        damage(dice, place, sorted(file for file in place.rglob("*") if file.is_file()))
        try:
            dataset = datasets.build(name, {**options, "root": str(place)})
            prepare(dataset, out, name=name, options={}, progress=lambda *_: None, workers=1 + number % 2)
        except UserError as error:
            ended[damage.__name__, "refused"] += 1
            subject = (
                rf"data set {name}: \d+ problem|datasets\.{name}\b|{re.escape(str(place))}|[\w.]+\.(xml|txt|csv|json):"
            )
            assert re.match(subject, str(error)), f"copy {number}: {error}"
            assert not list(out.parent.iterdir()) if out.parent.exists() else True, f"copy {number}: half-written"
        except Exception as error:
            raise AssertionError(f"copy {number}: {damage.__name__} of {name} gave {error!r}") from error
        else:
            ended[damage.__name__, "prepared"] += 1
            artifact.load(out, kind="dataset")
            shutil.rmtree(out.parent)
        shutil.rmtree(place, ignore_errors=True)  # the damage may have removed it
    refused = sum(count for (_, end), count in ended.items() if end == "refused")
    assert sum(ended.values()) == COPIES
    assert refused > COPIES / 2, ended
    for damage in (truncate, oversize, remove, replace, cut_with_an_end, add_page):
        assert ended[damage.__name__, "refused"] > ended[damage.__name__, "prepared"], ended


ODD = (
    None, True, -1, 0, 1.5, 1e300, float("nan"), float("inf"), 1 << 40, "", "x", "nan", "../../x.png", "a\x00b", [], {},
    [[]], [1, 2], {"size": [12, 16], "counts": [5]}, [[1, 2, 3, 4, 5]], {"a": 1},
)  # fmt: skip


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path (keys and indices) of every value in JSON data."""
    below = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path] * bool(path) + [place for key, value in below for place in places(value, (*path, key))]


def spoil_json(dice: random.Random, file: Path) -> None:
    """Replace or remove one value."""
    data = json.loads(file.read_text())
    *above, last = dice.choice(places(data))
    parent = data
    for key in above:
        parent = parent[key]
    if dice.random() < 0.3:
        del parent[last]
    else:
        parent[last] = dice.choice(ODD)
    put(file, json.dumps(data).encode())


def spoil_text(dice: random.Random, file: Path) -> None:
    """Change one attribute of XML, or one character."""
    text = file.read_text()
    values = list(re.finditer(r'="([^"]*)"', text))
    if values and dice.random() < 0.7:
        start, end = dice.choice(values).span(1)
    else:
        start = dice.randrange(len(text))
        end = start + 1
    new = dice.choice(
        ["", "-1", "nan", "1e300", "99999999999", "x", "1,2", "1,2;3", ";", "../../a", "<", "&lt;", "\x00", ","]
    )
    put(file, (text[:start] + new + text[end:]).encode())


@pytest.mark.parametrize("name", ["coco", "labelme", "cvat", "label_studio", "roboflow"])
def test_an_odd_value_in_an_annotation_is_a_user_error_or_harmless(
    name: str, whole: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    source, options = whole[name]
    place = tmp_path / "raw"
    ended: Counter[str] = Counter()
    for number in range(80):
        dice = random.Random(number)
        shutil.copytree(source, place, copy_function=os.link)
        file = dice.choice(sorted(file for file in place.rglob("*") if file.suffix in (".json", ".xml", ".csv")))
        (spoil_json if file.suffix == ".json" else spoil_text)(dice, file)
        try:
            dataset = datasets.build(name, {**options, "root": str(place)})
            problems = list(dataset.problems())
            for split, samples in dataset.splits().items():
                for sample in samples:
                    frame, label = dataset.read(split, sample)
                    assert frame.shape[:2] == label.shape
            ended["refused" if problems else "read"] += 1
        except UserError:
            ended["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{name}, copy {number}: {error!r}") from error
        shutil.rmtree(place)
    assert ended["refused"] > 15 and (ended["read"] or name == "roboflow"), ended
