"""Your own folder: patterns pair files, options describe the masks, and a sequence is never in two splits."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.datasets._patterns import compiled, find
from pipeline.datasets._splits import drawn
from pipeline.datasets.folder import Folder
from pipeline.errors import Problems, UserError
from pipeline.settings import plugin_options

Write = Callable[..., Path]
IMAGE, MASK = np.zeros((12, 16, 3), np.uint8), np.zeros((12, 16), np.uint8)
LABELS: dict[str, Any] = {"classes": ["road", "car"], "palette": [[128, 64, 128], [0, 0, 142]]}
SHARES = {"val": 0.3, "test": 0.1}


@pytest.fixture
def root(tmp_path: Path, write_image: Write) -> Path:
    """20 drives of 2 frames each."""
    for drive in range(20):
        for frame in range(2):
            write_image(tmp_path / f"images/d{drive:02d}/{frame}.png", IMAGE)
            write_image(tmp_path / f"masks/d{drive:02d}/{frame}.png", MASK)
    return tmp_path


def folder(root: Path, **options: Any) -> Folder:
    return Folder(**{"root": str(root), **LABELS, **options})


def where(dataset: Folder) -> dict[str, str]:
    return {name: split for split, names in dataset.splits().items() for name in names}


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("images/*.jpg", {"images/a.jpg": "a", "images/A.JPG": "A", "images/x/a.jpg": None, "images/a.png": None}),
        (
            "images/**/*",
            {"images/a.jpg": "a", "images/x/y/a.png": "x/y/a", "images/a.txt": None, "images/.a.png": None},
        ),
        ("*/left/*.png", {"d1/left/7.png": "d1/7", "d1/right/7.png": None, "left/7.png": None}),
        ("**/masks/*_id.png", {"d/masks/7_id.png": "d/7", "masks/7_id.png": "7", "d/masks/7.png": None}),
        ("x.y/*[1].png", {"x.y/a[1].png": "a", "xzy/a[1].png": None, "x.y/a1.png": None}),
    ],
)
def test_a_name_is_the_text_that_the_wildcards_match(
    tmp_path: Path, write_image: Write, pattern: str, files: dict[str, str | None]
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    wrong: list[str] = []
    matches = find(tmp_path, compiled(pattern, Problems("x"), key="images"), wrong)
    assert matches.files == {name: tmp_path / file for file, name in files.items() if name is not None} and wrong == []


def test_two_files_of_one_name_and_circular_links_are_handled(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        (tmp_path / name).touch()
    (tmp_path / "again").symlink_to(tmp_path)
    wrong: list[str] = []
    assert find(tmp_path, compiled("**/*", Problems("x"), key="images"), wrong).files == {"a": tmp_path / "a.jpg"}
    assert len(wrong) == 1 and "a.png: the same sample as" in wrong[0]


def test_pairs_share_their_relative_name_and_files_without_a_partner_are_reported(
    root: Path, write_image: Write
) -> None:
    write_image(root / "images/d00/x.jpg", IMAGE)
    write_image(root / "masks/d01/y.png", MASK)
    dataset = folder(root)
    assert len(where(dataset)) == 40 and "d07__1" in where(dataset)
    first, second = dataset.problems()
    assert first.endswith("images/d00/x.jpg: no mask; add its mask or remove the image")
    assert second.endswith("masks/d01/y.png: no image; add its image or remove the mask")


def test_a_sequence_is_drawn_by_its_name_alone(root: Path, write_image: Write) -> None:
    before = where(folder(root, shares=SHARES))
    for drive in range(20):
        place = int(hashlib.sha256(f"0:d{drive:02d}".encode()).hexdigest()[:16], 16) / 2**64
        expected = "val" if place < 0.3 else "test" if place < 0.4 else "train"
        assert before[f"d{drive:02d}__0"] == before[f"d{drive:02d}__1"] == expected
    assert set(before.values()) == {"train", "val", "test"}
    for drive in ("d00", "d05", "new"):
        write_image(root / f"images/{drive}/9.png", IMAGE)
        write_image(root / f"masks/{drive}/9.png", MASK)
    after = where(folder(root, shares=SHARES))
    assert before.items() < after.items() and after["d05__9"] == before["d05__0"]
    assert where(folder(root, shares=SHARES, seed=1)) != after


def test_shares_are_kept_over_many_sequences() -> None:
    splits = [drawn(f"drive {number}", shares=SHARES, seed=3) for number in range(4000)]
    assert abs(splits.count("val") / 4000 - 0.3) < 0.03 and abs(splits.count("test") / 4000 - 0.1) < 0.02


def test_a_regular_expression_gives_the_sequence(tmp_path: Path, write_image: Write) -> None:
    for drive in range(12):
        for frame in range(3):
            write_image(tmp_path / f"images/{drive}_{frame}.png", IMAGE)
            write_image(tmp_path / f"masks/{drive}_{frame}.png", MASK)
    splits = where(folder(tmp_path, sequence=r"^(\d+)_"))
    assert all(len({splits[f"{drive}_{frame}"] for frame in range(3)}) == 1 for drive in range(12))
    assert set(splits.values()) == {"train", "val"}
    (problem,) = folder(tmp_path).problems()
    assert "all 36 samples are in one folder, so they are one sequence" in problem
    assert "sequence does not match '0_0'" in folder(tmp_path, sequence="x").problems()[0]


def test_lists_name_samples_or_files(root: Path) -> None:
    (root / "train.txt").write_text("d00/0\nimages/d00/1.png\n")
    (root / "val.txt").write_text("d01/0\n")
    dataset = folder(root, lists={"val": "val.txt", "train": "train.txt"})
    assert dataset.splits() == {"train": ["d00__0", "d00__1"], "val": ["d01__0"]} and list(dataset.problems()) == []
    (root / "masks/d01/0.png").unlink()
    (root / "val.txt").write_text("d01/0\nd99/0\nd00/1\nimages/d00/1.png\n")
    message = folder(root, lists={"val": "val.txt", "train": "train.txt"}).problems()
    assert [problem.replace(str(root), "") for problem in message] == [
        "val.txt:1: d01/0: no mask has this name",
        "val.txt:2: d99/0: no image and no mask has this name",
        "val.txt:4: /images/d00/1.png is listed twice, first in line 3; remove one line",
    ]


def read(root: Path, write: Write, mask: Any, *, palette: Any = None, **options: Any) -> Any:
    write(root / "masks/d00/0.png", np.asarray(mask, np.uint8), palette=palette)
    (root / "a.txt").write_text("d00/0\n")
    (root / "b.txt").write_text("d01/0\n")
    write(root / "images/d00/0.png", np.zeros((*np.shape(mask)[:2], 3), np.uint8))
    return folder(root, lists={"train": "a.txt", "val": "b.txt"}, **options).read("train", "d00__0")[1].tolist()


def test_ids_may_be_mapped_and_others_ignored(root: Path, write_image: Write) -> None:
    assert read(root, write_image, [[0, 1, 255]]) == [[0, 1, 255]]
    ids = {"road": [7, 9], "car": [26]}
    assert read(root, write_image, [[7, 9, 26, 0]], ids=ids, ignore=[0]) == [[0, 0, 1, 255]]
    message = r"unknown label ids \[4, 255\]; allowed: 0, 7, 9, 26; add it to a class in ids, or to ignore, or set rest"
    with pytest.raises(UserError, match=message):
        read(root, write_image, [[7, 4, 255]], ids=ids, ignore=[0])
    assert read(root, write_image, [[7, 4, 255]], ids=ids, rest="ignore") == [[0, 255, 255]]


def test_colours_may_be_rgb_or_indexed(root: Path, write_image: Write) -> None:
    road, car, void = (128, 64, 128), (0, 0, 142), (0, 0, 0)
    options = {"masks_hold": "colours", "ignore": [[0, 0, 0]]}
    assert read(root, write_image, [[road, car, void]], **options) == [[0, 1, 255]]
    assert read(root, write_image, [[3, 5, 0]], palette={3: car, 5: road}, **options) == [[1, 0, 255]]
    with pytest.raises(UserError, match=r"unknown colours \[\(1, 2, 3\)\]; allowed: those of palette and ignore"):
        read(root, write_image, [[road, (1, 2, 3)]], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "images/a.jpg"}, r"images: got 'images/a\.jpg'; allowed: a path below the root with a \*"),
        ({"masks": "../*.png"}, r"masks: got '\.\./\*\.png'"),
        ({"masks": "images/**/*"}, "is also the pattern of the images; the two patterns must differ"),
        ({"classes": []}, "classes: empty"),
        ({"palette": [[1, 1, 1]]}, "palette has 1 colours for 2 classes"),
        ({"palette": [[1, 1, 1], [1, 1, 1]]}, r"palette: the same colour \[1, 1, 1\] for road, car; give each class"),
        ({"ids": {"car": [0]}}, r"ids\.car: got 0; allowed"),
        ({"ids": {"road": [0], "cat": [1]}}, r"ids: got \['cat', 'road'\]; allowed: a list"),
        ({"ids": {"road": [0]}}, r"ids: got \['road'\]; allowed: a list of ids for each of \['car', 'road'\]"),
        ({"ids": {"road": [0], "car": [0]}}, r"ids\.car: got 0; allowed: ids in 0\.\.65535 that belong to no other"),
        ({"ignore": [1]}, "ignore: got 1, which is an id of class 'car'; remove it from ignore or from that class"),
        ({"ignore": [70000]}, "ignore: got 70000; allowed: ids in 0..65535"),
        ({"ids": {"road": [0], "car": [255]}, "ignore": [255]}, "got 255, which is an id of class 'car'"),
        ({"palette": ["#80f", "8000ff"]}, r"palette\[1\] \(car\): got '8000ff'; allowed: .* \"#rrggbb\" in quotes"),
        ({"palette": ["#8000ff", [128, 0, 255]]}, r"the same colour \[128, 0, 255\] for road, car"),
        ({"masks_hold": "colours", "ignore": ["#00008e"]}, "got #00008e, which is the colour of class 'car'"),
        ({"masks_hold": "colours", "ignore": ["blue"]}, 'ignore: got blue; allowed: RGB colours, .*"#000000"'),
        ({"splits": {"val": ["b"]}}, r"splits: got \['val'\]; allowed: train, and val and test if"),
        ({"splits": {"train": ["b"]}, "lists": {"train": "a", "val": "b"}}, "splits and lists: both assign samples"),
        (
            {"images": "train/images/*", "masks": "val/masks/*"},
            "for train, .* for val; both must be for the same split",
        ),
        ({"ignore": [[0, 0, 0]]}, "ignore: got .*; allowed: ids"),
        ({"masks_hold": "colours", "ignore": [0]}, "ignore: got 0; allowed: RGB colours"),
        ({"masks_hold": "colours", "ignore": [[0, 0, 142]]}, "allowed: RGB colours that belong to no class"),
        ({"lists": {"train": "a.txt"}}, r"lists: got \['train'\]; allowed: train and val"),
        ({"shares": {"val": 0.0}}, "allowed: more than 0 for val"),
        ({"shares": {"val": 0.9, "test": 0.2}}, "less than 1 in total, so that train keeps some"),
        ({"shares": {"valid": 0.9}}, "shares: got .*; allowed: val and test"),
        ({"sequence": "("}, "is not a regular expression"),
    ],
)
def test_invalid_options_are_reported(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        folder(root, **options)


def test_all_invalid_options_are_reported_together(root: Path) -> None:
    with pytest.raises(UserError, match=r"datasets\.folder: 3 problems"):
        folder(root, images="x", sequence="(", shares={"val": 2.0})


def test_a_number_is_not_a_colour() -> None:
    raw = {"dataset": "folder", "datasets": {"folder": {"classes": ["a"], "palette": [0]}}}
    (problem,) = plugin_options.problems(raw, ("datasets",))
    assert "allowed: a valid string or allowed: [red, green, blue]" in problem


def test_the_section_in_params_is_checked_by_type() -> None:
    raw = {"datasets": {"folder": {**LABELS, "ids": {"road": "7"}, "masks_hold": "id", "glob": "*"}}}
    message = list(plugin_options.problems(raw, ["datasets"]))
    assert len(message) == 3 and "datasets.folder.glob: unknown key" in "\n".join(message)
    hexadecimal = {"palette": ["#8000ff", [0, 0, 1]], "ignore": [0, [1, 2, 3], "#000000"], "splits": {"train": ["a"]}}
    assert not list(plugin_options.problems({"datasets": {"folder": {**LABELS, **hexadecimal}}}, ["datasets"]))


@pytest.mark.parametrize(
    ("options", "original", "ignored"),
    [
        ({}, (0, 1), 255),
        ({"ids": {"road": [7, 8], "car": [26]}}, (7, 26), 255),
        ({"ids": {"road": [300, 8], "car": [26]}, "ignore": [400, 9, 3]}, (8, 26), 9),
        ({"ids": {"road": [0], "car": [255]}, "ignore": []}, (0, 255), 1),
        ({"ids": {"road": [0], "car": [255]}, "ignore": [], "rest": "ignore"}, (0, 255), 1),
        ({"ids": {"road": [300], "car": [26]}}, None, None),
        ({"ids": {"road": [0], "car": []}}, None, None),
        ({"ids": {"road": list(range(255)), "car": [255]}, "ignore": []}, None, None),
        ({"masks_hold": "colours"}, None, None),
    ],
)
def test_original_ids_are_the_first_of_each_class(
    root: Path, options: dict[str, Any], original: tuple[int, int] | None, ignored: int | None
) -> None:
    labels = folder(root, **options).labels
    assert (labels.original_ids, labels.original_ignored) == (original, ignored)


def touched(root: Path, *files: str) -> Folder:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return folder(root, sequence=".+", shares={"val": 0.5})


def test_files_with_a_suffix_that_is_not_read_are_named(tmp_path: Path) -> None:
    message = touched(
        tmp_path, "images/a.png", "images/b.GIF", "images/c.heic", "images/Thumbs.db", "masks/a.png"
    ).problems()
    (problem,) = (line for line in message if "is not read" in line)
    assert f"images: 2 files ({tmp_path}/images/b.GIF, {tmp_path}/images/c.heic) of 'images/**/*'" in problem
    assert ".GIF, .heic is not read; allowed: .png, " in problem
    assert problem.endswith("convert them to .png, or set images: images/**/*.png to leave them out")
    assert not [line for line in folder(tmp_path, images="images/**/*.png").problems() if "is not read" in line]


def test_masks_that_a_pattern_misses_by_their_suffix_are_named(tmp_path: Path) -> None:
    files = [f"{kind}/{name}.{suffix}" for name in "ab" for kind, suffix in (("images", "JPG"), ("masks", "tif"))]
    message = touched(tmp_path, *files).problems()
    assert f"masks: 2 files ({tmp_path}/masks/a.tif, " in message[0]
    assert message[0].endswith("match 'masks/**/*.png' except for their suffix; set masks: masks/**/*.tif")
    assert not [line for line in folder(tmp_path, masks="masks/**/*.tif").problems() if "label" in line]
    message = folder(tmp_path, images="images/*.png", masks="masks/**/*.tif").problems()
    assert "match 'images/*.png' except for their suffix; set images: images/*.JPG" in message[0]
    assert (
        f"no image matches 'img/*'; images there: 4 files ({tmp_path}/images/a.JPG"
        in folder(tmp_path, images="img/*").problems()[0]
    )


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        ("images/{}", "masks/{}_mask", "set masks: 'masks/**/*_mask.png'"),
        ("images/x/{}_rgb", "masks/x/{}_gt", "set images: 'images/**/*_rgb' and masks: 'masks/**/*_gt.png'"),
        ("images/img_{}", "masks/mask_{}", "set images: 'images/**/img_*' and masks: 'masks/**/mask_*.png'"),
        (
            "images/train/{}",
            "masks/{}",
            "the wildcards of images match 'train/100', those of masks match '100'; change the patterns",
        ),
    ],
)
def test_names_that_differ_by_a_constant_part_get_patterns_that_pair_them(
    tmp_path: Path, image: str, mask: str, message: str
) -> None:
    files = [f"{pattern.format(number)}.png" for number in (100, 101, 110) for pattern in (image, mask)]
    problem = touched(tmp_path, *files).problems()[0]
    assert message in problem
    advised = dict(re.findall(r"(images|masks): '(\S+)'", problem))
    assert len(where(folder(tmp_path, sequence=".+", seed=1, **advised))) == (3 if advised else 0)


def test_the_root_may_be_written_in_another_form_of_unicode(tmp_path: Path) -> None:
    touched(tmp_path / unicodedata.normalize("NFD", "Über"), "images/a.png", "masks/a.png")
    assert list(where(folder(tmp_path / "Über", sequence=".+"))) == ["a"]


@pytest.mark.parametrize(
    ("image", "mask", "patterns"),
    [
        ("{}.png", "{}_mask.png", ("*.png", "*_mask.png")),
        ("{}_img.png", "{}.png", ("*_img.png", "*.png")),
    ],
)
def test_a_pattern_that_takes_all_files_leaves_out_those_of_the_other(
    tmp_path: Path, write_image: Write, image: str, mask: str, patterns: tuple[str, str]
) -> None:
    for number in range(3):
        write_image(tmp_path / image.format(number), IMAGE)
        write_image(tmp_path / mask.format(number), MASK)
    dataset = folder(tmp_path, images=patterns[0], masks=patterns[1], sequence=".+", shares={"val": 0.4}, seed=2)
    assert not dataset.problems() and sorted(where(dataset)) == ["0", "1", "2"]


def test_images_that_a_pattern_misses_by_their_suffix_are_named(tmp_path: Path, write_image: Write) -> None:
    for number, suffix in enumerate(("jpg", "jpeg")):
        write_image(tmp_path / f"images/{number}.{suffix}", IMAGE)
        write_image(tmp_path / f"masks/{number}.png", MASK)
    errors = folder(tmp_path, images="images/*.jpg", sequence=".+").problems()
    assert any(
        "match 'images/*.jpg' except for their suffix; set images: images/*.jpeg" in problem for problem in errors
    )


def test_no_pattern_is_recommended_for_lossy_masks(tmp_path: Path, write_image: Write) -> None:
    write_image(tmp_path / "images/0.png", IMAGE)
    write_image(tmp_path / "masks/0.jpg", MASK)
    (problem,) = [problem for problem in folder(tmp_path).problems() if problem.startswith("masks:")]
    assert "lossy compression, which changes ids; create the masks again" in problem and "set masks" not in problem
