"""Cityscapes, fine annotations: 19 classes, 1024x2048 (Cordts et al. 2016).

Files below the root: ``leftImg8bit/<split>/<city>/*_leftImg8bit.png`` and ``gtFine/<split>/<city>/`` with
``*_gtFine_labelIds.png``, ``*_gtFine_labelTrainIds.png`` or both. Ids, names and colours are those of
cityscapesscripts/helpers/labels.py. The test split is not read: its labels are placeholders without classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.datasets._masks import Coding
from pipeline.datasets._pairs import Pair, PairDataset, by_stem, root_folder, unpaired
from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.labels import IGNORE_INDEX, LabelSpec
from pipeline.licence import Licence

#: id, name and colour of each class in train-id order; every other id is void.
CLASSES = (
    (7, "road", (128, 64, 128)), (8, "sidewalk", (244, 35, 232)), (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)), (13, "fence", (190, 153, 153)), (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)), (20, "traffic sign", (220, 220, 0)), (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)), (23, "sky", (70, 130, 180)), (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)), (26, "car", (0, 0, 142)), (27, "truck", (0, 0, 70)), (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)), (32, "motorcycle", (0, 0, 230)), (33, "bicycle", (119, 11, 32)),
)  # fmt: skip
HIGHEST_ID = 33
FULL, TRAIN = "_labelIds", "_labelTrainIds"
LABEL_IDS = Coding(
    ids=dict.fromkeys(range(HIGHEST_ID + 1), IGNORE_INDEX) | {raw: train for train, (raw, _, _) in enumerate(CLASSES)},
    allowed=f"allowed: 0..{HIGHEST_ID}",
)
TRAIN_IDS = Coding(
    ids={IGNORE_INDEX: IGNORE_INDEX} | {train: train for train in range(len(CLASSES))},
    allowed=f"allowed: 0..{len(CLASSES) - 1} and {IGNORE_INDEX} (ignored)",
)


class Cityscapes(PairDataset):
    """Cityscapes from a local folder.

    Args:
        root: folder that contains ``leftImg8bit/`` and ``gtFine/``; a relative path is relative to the root of the
            project.

    Raises:
        UserError: ``root`` is not set, or is not a folder.
    """

    title = "Cityscapes"
    labels = LabelSpec(
        names=tuple(name for _, name, _ in CLASSES),
        palette=tuple(colour for *_, colour in CLASSES),
        original_ids=tuple(raw for raw, *_ in CLASSES),
        original_ignored=0,  # unlabeled
    )
    coding = LABEL_IDS
    licence = Licence(
        name="Cityscapes licence",
        url="https://www.cityscapes-dataset.com/license/",
        commercial=False,
        note="non-commercial use such as research, teaching and publications; the data must not be passed on",
    )

    def __init__(self, *, root: str | None = None) -> None:
        super().__init__()
        self.root = root_folder("cityscapes", root, holds="leftImg8bit/ and gtFine/")
        for split in ("train", "val"):
            images = self._files("leftImg8bit", split, "_leftImg8bit")
            masks = self._files("gtFine", split, f"_gtFine{TRAIN}") | self._files("gtFine", split, f"_gtFine{FULL}")
            self.wrong += unpaired(images, masks)
            self.pairs[split] = {name: Pair(images[name], masks[name]) for name in images if name in masks}

    def _files(self, tree: str, split: str, tail: str) -> dict[str, Path]:
        """Files of all cities of a split, by frame name, in the order of the cities and frames."""
        cities = sorted(folder for folder in (self.root / tree / split).glob("*") if folder.is_dir())
        files: dict[str, Path] = {}
        for city in cities:
            files |= by_stem(city, self.wrong, suffixes=[".png"], tail=tail)
        return files

    def raw_files(self) -> Iterable[Path]:
        """The files of all pairs, and the second mask that may be next to the first."""
        for file in super().raw_files():
            yield file
            if file.stem.endswith(FULL):
                yield _twin(file)

    def read_label(self, mask: Path) -> Array:
        """Train ids of a mask file. If a frame has masks of both kinds, they must agree."""
        if mask.stem.endswith(TRAIN):
            return _not_placeholder(mask, self.decoded(mask, TRAIN_IDS))
        label = self.decoded(mask, LABEL_IDS)
        twin = _twin(mask)
        if twin.is_file():
            other = self.decoded(twin, TRAIN_IDS)
            differing = other.size if other.shape != label.shape else int(np.count_nonzero(other != label))
            if differing:
                raise UserError(
                    f"{twin}: {differing} of {other.size} pixels differ from {mask.name} (by the official table of "
                    "ids); create it again with cityscapesscripts, or remove one of the two"
                )
        return _not_placeholder(mask, label)


def _twin(mask: Path) -> Path:
    """The path of the mask of train ids that belongs to a mask of all ids."""
    return mask.with_name(mask.stem.removesuffix(FULL) + TRAIN + mask.suffix)


def _not_placeholder(mask: Path, label: Array) -> Array:
    if (label == IGNORE_INDEX).all():
        raise UserError(
            f"{mask}: no pixel has a class, as in the placeholders of the test split; remove it and its image"
        )
    return label
