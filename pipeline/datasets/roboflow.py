"""Roboflow's export "Semantic Segmentation Masks": folders train, valid and test, each with images and masks.

The mask of ``NAME.jpg`` is ``NAME_mask.png`` in the same folder, one channel of ids. The file ``_classes.csv`` in each
folder has the names of the ids, with the header ``Pixel Value, Class``.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from pipeline.datasets._annotated import Annotated, AnnotatedDataset
from pipeline.datasets._classes import Classes, Palette, Rest, named_classes
from pipeline.datasets._images import read_mask
from pipeline.datasets._licence import UNSTATED, Stated
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
        root: folder that contains ``train/``, ``valid/`` and, if the export has it, ``test/``.
        classes: class -> names in _classes.csv, or a list of these names; null: all names, sorted by id.
        palette: one RGB colour per class; null: VOC's colours.
        ignore: names in _classes.csv whose pixels are ignored.
        rest: pixels of other names: ``error`` (refuse them), or ``ignore``.
        stated: the option ``licence``, see ``_licence.py``.

    Raises:
        UserError: ``root`` is not set, there is no class, or the options contradict each other.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        classes: Classes | None = None,
        palette: Palette | None = None,
        ignore: list[str] | None = None,
        rest: Rest = "error",
        stated: Stated = UNSTATED,
    ) -> None:
        super().__init__("roboflow", root_folder("roboflow", root, holds="train/ and valid/"))
        self.licence = stated.read()
        names: dict[int, str] = {}
        folders = sorted(path for path in self.root.iterdir() if path.is_dir() and path.name.lower() in FOLDERS)
        for folder in folders:
            for raw, label in _classes(folder / "_classes.csv", self.wrong).items():
                if names.setdefault(raw, label) != label:
                    self.wrong.append(
                        f"{folder}/_classes.csv: {raw} is {label!r}, but {names[raw]!r} in another split; correct one"
                    )
        if not names:
            raise UserError("; ".join(self.wrong) or f"{self.root}: no folder train and no valid; export it again")
        self.coding = named_classes(
            "roboflow",
            classes,
            palette=palette,
            ignore=ignore,
            background=None,
            rest=rest,
            file_labels=[names[raw] for raw in sorted(names)],
            declared=True,
        )
        self.labels = self.coding.labels
        self.wrong += self.coding.unknown(dict.fromkeys(names.values(), "in _classes.csv"))
        self.masks = Coding(
            ids={raw: self.coding.train_id(label) for raw, label in names.items()},
            allowed=f"allowed: {sorted(names)}, the ids in _classes.csv",
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
    """Names by id. Appends errors of the file to ``wrong``."""
    names: dict[int, str] = {}
    for number, line in lines(path, wrong):
        row = [cell.strip() for cell in next(csv.reader(io.StringIO(line), skipinitialspace=True), [])]
        while row and not row[-1]:
            del row[-1]
        if not names and [cell.lower() for cell in row] == HEAD:
            continue
        if len(row) != 2 or not row[0].isdecimal() or int(row[0]) > LARGEST_ID or not row[1] or int(row[0]) in names:
            wrong.append(
                f"{path}:{number}: got {line!r}; allowed: 'pixel value, class', with each id once; export it again"
            )
        else:
            names[int(row[0])] = row[1]
    return names
