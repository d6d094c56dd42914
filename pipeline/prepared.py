"""The prepared data set: what `prepare` wrote, read by training, calibration, checks and the report.

Layout: ``<split>/images/<name>.png`` (BGR as OpenCV reads it), ``<split>/labels/<name>.png`` (train ids), meta.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import artifact
from pipeline.errors import Faults, UserError, closest
from pipeline.frames import Array, read_frame, read_label_map
from pipeline.labels import LabelSpec


@dataclass(frozen=True)
class Split:
    """One split of a prepared data set; ``split[i]`` is ``(frame BGR (H, W, 3), train ids (H, W))``."""

    root: Path
    name: str
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        return self.frame(index), self.label(index)

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        return (self[index] for index in range(len(self)))

    def frame(self, index: int) -> Array:
        return read_frame(self.root / self.name / "images" / f"{self.names[index]}.png")

    def label(self, index: int) -> Array:
        return read_label_map(self.root / self.name / "labels" / f"{self.names[index]}.png")


class Prepared:
    """A prepared data set on disk.

    Raises:
        UserError: the folder is no data set artifact, or files of it are missing.
    """

    def __init__(self, path: Path) -> None:
        self.artifact = artifact.load(path, kind="dataset", verify=False)
        if not isinstance(self.artifact.meta.get("splits"), dict):
            raise UserError(f"{path / artifact.META}: names no splits; {artifact.AGAIN}")
        self.splits: dict[str, list[str]] = self.artifact.meta["splits"]

    @property
    def labels(self) -> LabelSpec:
        return self.artifact.labels

    @property
    def facts_hash(self) -> str:
        """sha256 of meta.json: of the files and of everything else, such as the order of samples and the classes."""
        return artifact.sha256(self.artifact.path / artifact.META)

    @property
    def name(self) -> str:
        return str(self.artifact.meta["dataset"])

    def class_pixels(self, split: str) -> list[int]:
        """Labelled pixels of each class in a split, as `prepare` counted them."""
        counted = self.artifact.meta.get("class_pixels", {}).get(split)
        if counted is None:
            raise UserError(f"{self.artifact.path / artifact.META}: counts no classes of {split}; {artifact.AGAIN}")
        return [int(count) for count in counted]

    def require_classes(self) -> None:
        """Refuse a data set that nothing can be learnt from, by the counts of meta.json as far as it has them.

        Raises:
            UserError: train or val shows fewer than two classes.
        """
        faults = Faults(f"data set {self.artifact.path}")
        for split in ("train", "val"):
            counted = split in self.artifact.meta.get("class_pixels", {})
            if counted and (shortage := self.labels.shortage(split, self.class_pixels(split))):
                faults.add(shortage)
        faults.raise_if_any(advice="correct the labels or the classes, and make it again with: dvc repro -f prepare")

    def split(self, name: str) -> Split:
        if name not in self.splits:
            raise UserError(f"{self.artifact.path} has no split '{name}'; {closest(name, self.splits)}")
        return Split(root=self.artifact.path, name=name, names=self.splits[name])
