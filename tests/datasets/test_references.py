"""Lines of list files in the forms that people and programs write; ambiguous lines are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest

from pipeline.datasets._lists import names
from pipeline.datasets.camvid import CamVid
from pipeline.datasets.folder import Folder

Write = Callable[..., Path]
LABELS: dict[str, Any] = {"classes": ["road", "car"], "palette": ["#804080", "#00008e"]}
FILES = ("a", "b", "sub dir/c 1", "d.x")


@pytest.fixture
def root(tmp_path: Path, write_image: Write) -> Path:
    for name in FILES:
        write_image(tmp_path / f"images/{name}.JPG", np.zeros((4, 4, 3), np.uint8))
        write_image(tmp_path / f"masks/{name}.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "val.txt").write_text("b\n")
    return tmp_path


def dataset(root: Path, text: str | bytes, *, to: str = "train.txt", **options: Any) -> Folder:
    listing = root / to
    listing.parent.mkdir(exist_ok=True)
    listing.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Folder(**{"root": str(root), **LABELS, "lists": {"train": to, "val": "val.txt"}, **options})


@pytest.mark.parametrize(
    "form",
    [
        "{name}", "{name}.JPG", "{name}.png", "images/{name}", "images/{name}.JPG", "masks/{name}.png",
        "./images/{name}.JPG", "images//./{name}.JPG", "x/../images/{name}.JPG", "{root}/images/{name}.JPG",
        "/home/you/set/images/{name}.JPG", r"images\{name}.JPG", r".\images\{name}.JPG", r"C:\set\images\{name}.JPG",
        '"images/{name}.JPG"', "'images/{name}.JPG'", "  images/{name}.JPG  ", "images/{name}.JPG  # dark", "{name},",
        "images/{name}.JPG masks/{name}.png", "images/{name}.JPG\tmasks/{name}.png", "{name}.JPG {name}.png",
        "images/{name}.JPG,masks/{name}.png", "images/{name}.JPG, masks/{name}.png", "{name}.JPG;{name}.png",
        '"images/{name}.JPG","masks/{name}.png"', '"images/{name}.JPG" "masks/{name}.png"', "{name} {name}",
        "masks/{name}.png images/{name}.JPG", "/images/{name}.JPG /masks/{name}.png",
        r"D:\set\images\{name}.JPG D:\set\masks\{name}.png", "/Seg/Set/images/{name}.JPG /Seg/Set/masks/{name}.png",
        "/masks/{name}.png",
    ],
)  # fmt: skip
def test_one_form_names_every_sample(root: Path, form: str) -> None:
    lines = [form.replace("{name}", name).replace("{root}", str(root)) for name in ("a", "sub dir/c 1", "d.x")]
    folder = dataset(root, "\n".join(lines))
    assert list(folder.problems()) == []
    assert folder.splits() == {"train": ["a", "sub dir__c 1", "d.x"], "val": ["b"]}
    assert folder.pairs["train"]["d.x"] == (root / "images/d.x.JPG", root / "masks/d.x.png")


@pytest.mark.parametrize(
    "text",
    [
        "a\r\nd.x\r\n", "\ufeffa\nd.x", "# train\n\na\n\n#images/b.JPG\nd.x\n", "a\rd.x\r", "a\nd.x\n".encode("utf-16"),
        "image,mask\na.JPG,a.png\nd.x.JPG,d.x.png\n", "mask\timage\na.png\ta.JPG\nd.x.png\td.x.JPG",
        "Image Path;Mask Path\nimages/a.JPG;masks/a.png\nimages/d.x.JPG;masks/d.x.png", "filename\na.JPG\nd.x.JPG",
        "image_name,label_file\na,a\nd.x,d.x\n", ",image,mask,split\n0,a.JPG,a.png,train\n1,d.x.JPG,d.x.png,train\n",
        "id,image_path,mask_path\n7,a.JPG,a.png\n8,d.x.JPG,d.x.png", "images/a.JPG\nmasks/d.x.png\n",
    ],
)  # fmt: skip
def test_a_list_may_be_written_by_any_program(root: Path, text: str | bytes) -> None:
    folder = dataset(root, text)
    assert list(folder.problems()) == [] and folder.splits()["train"] == ["a", "d.x"]


def test_paths_may_count_from_the_folder_of_the_list(root: Path) -> None:
    folder = dataset(root, "../images/a.JPG ../masks/a.png\n../images/d.x.JPG\n", to="lists/train.txt")
    assert list(folder.problems()) == [] and folder.splits()["train"] == ["a", "d.x"]
    assert dataset(root, "c 1.JPG\n", to="images/sub dir/train.txt").splits()["train"] == ["sub dir__c 1"]


def test_a_line_with_a_hash_is_a_name_where_a_file_has_it(root: Path, write_image: Write) -> None:
    write_image(root / "images/#1.jpg", np.zeros((4, 4, 3), np.uint8))
    write_image(root / "masks/#1.png", np.zeros((4, 4), np.uint8))
    assert dataset(root, "#1.jpg\n# a\n#b\n").splits()["train"] == ["#1"]


@pytest.fixture
def drives(root: Path, write_image: Write) -> Path:
    for drive in ("e1", "e2"):
        write_image(root / f"images/{drive}/7.jpg", np.zeros((4, 4, 3), np.uint8))
        write_image(root / f"masks/{drive}/7.png", np.zeros((4, 4), np.uint8))
    return root


@pytest.mark.parametrize("line", ["7", "7.jpg", "7.png", "7.jpg 7.png", "7.jpg,7.png"])
def test_a_name_of_two_samples_is_ambiguous(drives: Path, line: str) -> None:
    (problem,) = dataset(drives, f"a\n{line}\n").problems()
    assert (
        problem.startswith(f"train.txt:2: {line}: ambiguous: it may mean {drives}/")
        and "give a longer part of the path" in problem
    )
    assert "e1/7" in problem and "e2/7" in problem


@pytest.mark.parametrize("line", ["e1/7", "e1/7.jpg", "images/e1/7.jpg", "/x/set/e1/7.jpg", "/x/images/e1/7.jpg"])
def test_a_longer_path_is_unambiguous(drives: Path, line: str) -> None:
    folder = dataset(drives, line)
    if line == "/x/set/e1/7.jpg":  # a folder of another set may have drives of the same name
        assert "no image and no mask has this name" in folder.problems()[0]
    else:
        assert list(folder.problems()) == [] and folder.splits()["train"] == ["e1__7"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("e9/7.jpg", "e9/7.jpg: no image and no mask has this name"),
        ("/other/e9/7.jpg", "no image and no mask has this name"),
        ("/other/a.JPG", r"no image and no mask has this name; did you mean .*images/a\.JPG\?"),
        ("other/a.JPG", "no image and no mask has this name"),
        ("images/a.tif", r"no image and no mask has this name; did you mean .*images/a\.JPG\?"),
        (
            "images/a.JPG masks/b.png",
            r"by the patterns, the mask of .*images/a\.JPG is .*masks/a\.png; correct the line",
        ),
        ("images/a.JPG masks/gone.png", "masks/gone.png: datasets.folder.masks finds no mask with this name"),
        ("images/gone.JPG masks/a.png", "images/gone.JPG: datasets.folder.images finds no image with this name"),
        ("images", "no image and no mask"),
        ("a b c", "3 columns; keep image and mask"),
        ("0,a.JPG,a.png", "3 columns; keep image and mask, or begin the list with a header such as image,mask"),
        ("a.JPG 1", "1: datasets.folder.masks finds no mask with this name"),
        ("../../etc/passwd", "no image and no mask"),
        ("\x00", r"'\\x00': no image and no mask"),
        ("./images/a.JPG", r"images/a\.JPG is listed twice, first in line 1; remove one line"),
    ],
)
def test_an_invalid_line_is_named(drives: Path, line: str, message: str) -> None:
    (problem,) = dataset(drives, f"a\n{line}\n").problems()
    assert problem.startswith("train.txt:2: ")
    assert re.search(message, problem)


def test_a_pair_counts_where_patterns_find_no_mask(root: Path, write_image: Write) -> None:
    write_image(root / "images/left_1.png", np.zeros((4, 4, 3), np.uint8))
    write_image(root / "masks/label-one.png", np.ones((4, 4), np.uint8))
    folder = dataset(root, "images/left_1.png masks/label-one.png\n")
    assert list(folder.problems()) == [] and folder.read("train", "left_1")[1].tolist() == [[1] * 4] * 4
    (problem,) = dataset(root, "images/left_1.png masks/a.png\n").problems()
    assert "masks/a.png is the mask of" in problem
    assert "left_1: no mask has this name" in dataset(root, "left_1\n").problems()[0]


def test_names_may_differ_in_their_form_of_unicode(tmp_path: Path, write_image: Write) -> None:
    composed, apart = (normalize(form, "Übung/café") for form in ("NFC", "NFD"))
    for name, mask in ((apart, composed), ("x/1", "x/1")):
        write_image(tmp_path / f"images/{name}.png", np.zeros((4, 4, 3), np.uint8))
        write_image(tmp_path / f"masks/{mask}.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "val.txt").write_text("x/1")
    for line in (apart, composed):
        folder = dataset(tmp_path, line)
        assert list(folder.problems()) == [] and folder.splits()["train"] == [composed.replace("/", "__")]
    options = {"lists": None, "images": f"images/{composed[:5]}/*", "masks": f"masks/{apart[:6]}/*.png"}
    assert len(dataset(tmp_path, "", **options, sequence=".+").pairs["train"]) == 1
    words = {"classes": [apart[-5:], "b"], "ids": {composed[-4:]: [0], "b": [1]}}
    assert dataset(tmp_path, composed, **words).labels.names == (composed[-4:], "b")


def test_lists_of_voc_and_camvid_take_these_forms_too(tmp_path: Path, camvid_root: Path) -> None:
    wrong: list[str] = []
    (tmp_path / "v.txt").write_bytes(
        b"\xef\xbb\xbfname\r\n2007_1.jpg\r\nJPEGImages\\2007_2.jpg\r\n./JPEGImages/2007_3.jpg\r\n"
        b"/JPEGImages/2007_4.jpg, /SegmentationClassAug/2007_4.png\r\n2007_5 1\r\n"
    )
    assert names(tmp_path / "v.txt", wrong) == [f"2007_{number}" for number in range(1, 5)]
    assert wrong == ["v.txt:6: not the name of one sample: '2007_5 1'; correct the line"]
    listing = camvid_root / "train.txt"
    before = listing.read_text()
    for old, new in (("/SegNet/CamVid/", ""), ("/SegNet/CamVid/", r"C:\data\CamVid" + "\\"), (" ", ","), (" ", "\t")):
        listing.write_text(before.replace(old, new))
        assert (
            len(CamVid(root=str(camvid_root)).pairs["train"]) == 3
            and list(CamVid(root=str(camvid_root)).problems()) == []
        )


def test_one_table_may_have_a_column_for_the_split(root: Path) -> None:
    text = "image,mask,split\na.JPG,a.png,Train\nb.JPG,b.png,valid\nd.x.JPG,d.x.png,train\n"
    folder = dataset(root, text, to="all.csv", lists={"train": "all.csv", "val": "all.csv"})
    assert list(folder.problems()) == [] and folder.splits() == {"train": ["a", "d.x"], "val": ["b"]}
    assert dataset(root, text, to="all.csv").splits()["train"] == ["a", "b", "d.x"], "a list of its own is taken whole"


def test_an_unknown_split_in_a_table_is_named(root: Path) -> None:
    (root / "all.csv").write_text("image,split\na.JPG,train\nb.JPG,val\nd.x.JPG,dev\n")
    folder = Folder(root=str(root), **LABELS, lists={"train": "all.csv", "val": "all.csv"})
    assert folder.splits() == {"train": ["a"], "val": ["b"]}
    assert folder.problems()[0].startswith("all.csv:4: split 'dev' is unknown; allowed: train, training")
