"""The contract of a data set plugin: names, colours, disjoint splits, and frames with train-id label maps."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.frames import Array
from pipeline.labels import LabelSpec


class Dataset(ABC):
    """A labelled data set as `prepare` reads it.

    A plugin's constructor takes keyword-only options (its section in params.yaml). It checks that the root is there
    and raises ``UserError`` with what to do when it is not; other faults it keeps for ``faults``. It does not read
    images: ``prepare`` does, and collects all faults.
    """

    labels: LabelSpec

    @abstractmethod
    def splits(self) -> dict[str, Sequence[str]]:
        """Sample names of each split, in a fixed order. ``train`` and ``val`` are always there; splits are disjoint."""

    def faults(self) -> Sequence[str]:
        """What is wrong with lists and layout; ``prepare`` reports it together with what the reads find."""
        return ()

    def absence(self, absent: Sequence[str]) -> str | None:
        """The likely reason why no pixel of any split shows these classes, and what to do; None: not known."""
        return None

    def warnings(self) -> Sequence[str]:
        """What the files do not decide, and how it was read; ``prepare`` prints it."""
        return ()

    def raw_files(self) -> Iterable[Path]:
        """Files that decide what ``read`` returns, missing ones too: `prepare` runs again when one changes.

        By default all files below ``root`` that are not hidden; none without ``root``. Override it to name fewer.
        """
        seen: set[str] = set()
        for folder, below, files in os.walk(getattr(self, "root", os.devnull), followlinks=True):
            place = os.path.realpath(folder)
            below[:] = [] if place in seen else sorted(name for name in below if not name.startswith("."))
            shown = [] if place in seen else sorted(name for name in files if not name.startswith("."))
            yield from (Path(folder, name) for name in shown)
            seen.add(place)

    @abstractmethod
    def read(self, split: str, name: str) -> tuple[Array, Array]:
        """One sample; may be called from several threads at once.

        Returns:
            frame (H, W, 3) BGR uint8, label map (H, W) uint8 train ids with ``labels.ignore_index`` where ignored.

        Raises:
            UserError: no such sample; unreadable or missing file, sizes differ, id out of range (the message names the
                file).
        """


PLUGIN = Dataset
