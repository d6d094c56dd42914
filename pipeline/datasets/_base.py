"""The contract of a data set: class names, colours, disjoint splits, frames and label maps of train ids."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.datasets._walk import walk
from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.licence import Licence


class Dataset(ABC):
    """A labelled data set as `prepare` reads it.

    The constructor of a plugin takes keyword-only options (the plugin's section in params.yaml). If the root folder is
    missing, it raises ``UserError``, which says what to do. It collects all other errors for ``problems``. It reads no
    images: ``prepare`` reads them and reports all errors together.
    """

    labels: LabelSpec
    #: Licence of images and labels; None: not stated. `prepare` writes it into meta.json.
    licence: Licence | None = None

    @abstractmethod
    def splits(self) -> dict[str, Sequence[str]]:
        """Sample names of each split, in a fixed order. ``train`` and ``val`` always exist; splits are disjoint."""

    def problems(self) -> Sequence[str]:
        """Errors in list files and folders; ``prepare`` reports them together with the errors in single samples."""
        return ()

    def absence(self, absent: Sequence[str]) -> str | None:
        """Why these classes have no pixel in any split, and what to do. None: the reason is unknown."""
        return None

    def warnings(self) -> Sequence[str]:
        """Ambiguities in the files, and how the plugin reads them; ``prepare`` prints them."""
        return ()

    def raw_files(self) -> Iterable[Path]:
        """The files that ``read`` depends on, missing files included: `prepare` runs again when one of them changes.

        The default is every file below ``root`` that is not hidden, or no file if there is no ``root``. A plugin that
        reads fewer files overrides this method.
        """
        for folder, names in walk(getattr(self, "root", Path(os.devnull))):
            yield from map(folder.joinpath, names)

    def image_file(self, split: str, name: str) -> Path | None:
        """The image file of a sample that ``read`` can read; None: the frame is not in a file.

        ``prepare`` keeps this file where it decodes to the frame that ``read`` returns.
        """
        return None

    @abstractmethod
    def read(self, split: str, name: str) -> tuple[Array, Array]:
        """Read one sample. Several threads may call this method at the same time.

        Returns:
            frame (H, W, 3) BGR uint8, and label map (H, W) uint8 of train ids; ignored pixels are
            ``labels.ignore_index``.

        Raises:
            UserError: the sample does not exist; a file is missing or unreadable; sizes differ; an id is out of range.
                The message names the file.
        """


PLUGIN = Dataset
