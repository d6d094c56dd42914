"""Roboflow's export "Semantic Segmentation Masks": folders train, valid and test with images and masks side by side.

Beside ``NAME.jpg`` lies ``NAME_mask.png``, one channel of ids; ``_classes.csv`` in each folder names them, under the
head ``Pixel Value, Class``.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from pipeline.datasets._annotated import Annotated, AnnotatedDataset
from pipeline.datasets._classes import Classes, Palette, Rest, named_classes
from pipeline.datasets._images import read_mask
from pipeline.datasets._lists import lines
from pipeline.datasets._masks import Coding
from pipeline.datasets._pairs import by_stem, root_folder, unpaired
from pipeline.datasets._splits import FOLDERS
from pipeline.errors import UserError
from pipeline.frames import Array

TAIL = "_mask"
HEAD = ["pixel value", "class"]
LARGEST_ID = (1 << 16) - 1


class Roboflow(AnnotatedDataset):
    """Roboflow's semantic segmentation masks.

    Args:
        root: folder that holds ``train/``, ``valid/`` and perhaps ``test/``.
        classes: class -> names in _classes.csv, or a list of them; null: all of them, by their ids.
        palette: one RGB colour a class; null: VOC's colours.
        ignore: names in _classes.csv whose pixels count nowhere.
        rest: pixels of other names: ``fault``, or ``ignore``.

    Raises:
        UserError: no root, no class, or options that contradict each other.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        classes: Classes | None = None,
        palette: Palette | None = None,
        ignore: list[str] | None = None,
        rest: Rest = "fault",
    ) -> None:
        super().__init__("roboflow", root_folder("roboflow", root, holds="train/ and valid/"))
        named: dict[int, str] = {}
        folders = sorted(path for path in self.root.iterdir() if path.is_dir() and path.name.lower() in FOLDERS)
        for folder in folders:
            for raw, label in _classes(folder / "_classes.csv", self.wrong).items():
                if named.setdefault(raw, label) != label:
                    self.wrong.append(
                        f"{folder}/_classes.csv: {raw} is {label!r}; in another split it is {named[raw]!r}"
                    )
        if not named:
            raise UserError("; ".join(self.wrong) or f"{self.root}: no folder train or valid; export it again")
        self.coding = named_classes(
            "roboflow",
            classes,
            palette=palette,
            ignore=ignore,
            background=None,
            rest=rest,
            there=[named[raw] for raw in sorted(named)],
            declared=True,
        )
        self.labels = self.coding.labels
        self.wrong += self.coding.unknown(dict.fromkeys(named.values(), "in _classes.csv"))
        self.masks = Coding(
            ids={raw: self.coding.train_id(label) for raw, label in named.items()},
            allowed=f"allowed: {sorted(named)}, as _classes.csv says",
        )
        self.samples = {"train": {}, "val": {}}
        for folder in folders:
            split = FOLDERS[folder.name.lower()]
            files = by_stem(folder, self.wrong)
            masks = {name.removesuffix(TAIL): path for name, path in files.items() if name.endswith(TAIL)}
            images = {name: path for name, path in files.items() if not name.endswith(TAIL)}
            self.wrong += unpaired(images, masks)
            for name, image in images.items():
                if name in masks:
                    self._keep(split, name, Annotated(image, str(image), mask=masks[name]))
        self._finish()

    def read_label(self, sample: Annotated, mask: Path) -> Array:
        """Train ids (H, W) uint8 of a mask file."""
        return self.masks.decode(mask, read_mask(mask))


def _classes(path: Path, wrong: list[str]) -> dict[int, str]:
    """Names by id; what is wrong with the file is added to ``wrong``."""
    found: dict[int, str] = {}
    for number, line in lines(path, wrong):
        row = [cell.strip() for cell in next(csv.reader(io.StringIO(line), skipinitialspace=True), [])]
        while row and not row[-1]:
            del row[-1]
        if not found and [cell.lower() for cell in row] == HEAD:
            continue
        if len(row) != 2 or not row[0].isdecimal() or int(row[0]) > LARGEST_ID or not row[1] or int(row[0]) in found:
            wrong.append(f"{path}:{number}: not 'pixel value, class' with an id of its own: {line!r}; export it again")
        else:
            found[int(row[0])] = row[1]
    return found
