"""A temporary file or folder beside a target, renamed on success.

So a target is old, complete or absent, never incomplete, also if the program is killed (but not after a power cut). If
a run fails, its incomplete file stays under another name if it is useful.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from pipeline.errors import UserError
from pipeline.video.names import room_for_name, temporary_prefix

log = logging.getLogger(__name__)

_OLD = "-old"  # suffix of the temporary name for the folder that is being replaced

T = TypeVar("T", bound="Staged")  # typing.Self needs Python 3.11


class Staged(ABC):
    """A context manager. Entering creates the temporary file (which shows that the target can be written), a normal
    exit moves it to ``path``, and an exception removes it unless it is useful. Used once.

    Attributes:
        path: the target.
        place: path of the temporary file, ``NAME.partial-...``; None before and after.
        of_use: whether the temporary file is kept if the run fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place: Path | None = None
        self.of_use = False

    def __enter__(self: T) -> T:
        assert self.place is None, f"{type(self).__name__} was entered before; make a new one"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._check_name()
            self.make()
        except BaseException as error:
            self.discard()
            if isinstance(error, OSError):
                raise self.unwritable(error) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
                self.commit()
                self.of_use = False
            elif self.of_use:
                with contextlib.suppress(UserError, OSError):  # the first error is reported
                    self.finish()
        except OSError as problem:
            raise self.unwritable(problem) from problem
        finally:
            if self.of_use:
                log.warning("%s: not finished; what was written until then is in %s", self.path, self.place)
                self.place = None
            self.discard()

    def _check_name(self) -> None:
        """Raise UserError for a name that is too long; otherwise only renaming would fail, after all the work."""
        longest = room_for_name(self.path.parent)
        size = len(os.fsencode(self.path.name))
        if size > longest:
            raise UserError(f"{self.path}: the name has {size} bytes; at most {longest} are allowed here: shorten it")

    def unwritable(self, error: Exception) -> UserError:
        reason = getattr(error, "strerror", None) or error
        return UserError(f"{self.path}: cannot be written ({reason}); free the place or name another one")

    @abstractmethod
    def make(self) -> None:
        """Create ``place`` beside the target, with the permissions of a new file or folder."""

    def finish(self) -> None:  # noqa: B027 - only an encoder has something to finish
        """Complete the temporary file."""

    @abstractmethod
    def commit(self) -> None:
        """Rename ``place`` to the target."""

    @abstractmethod
    def discard(self) -> None:
        """Remove ``place`` if it is still there."""


class StagedFile(Staged):
    """One file."""

    def make(self) -> None:
        if self.path.is_dir():
            raise UserError(f"{self.path}: is a folder; name a file")
        if self.path.exists() and not self.path.is_file():
            raise UserError(f"{self.path}: is a device or a pipe, and a file would take its place; name a file")
        prefix = temporary_prefix(self.path.stem, ".partial-", self.path.suffix, self.path.parent)
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=self.path.suffix, dir=self.path.parent)
        self.place = Path(name)
        os.close(handle)
        self.place.chmod(0o644)  # mkstemp's 0600 would hide the result from a web server

    def commit(self) -> None:
        assert self.place is not None
        self.place.replace(self.path)

    def discard(self) -> None:
        if self.place is not None:
            self.place.unlink(missing_ok=True)


class StagedText(StagedFile):
    """One text file whose content is known only at the end: :meth:`put` it before leaving."""

    def put(self, text: str) -> None:
        assert self.place is not None
        try:
            self.place.write_text(text, encoding="utf-8")
        except OSError as error:
            raise self.unwritable(error) from error


class StagedFolder(Staged):
    """A folder that is replaced as a whole, and only if it holds the file ``mark``.

    Args:
        path: the folder.
        mark: name of a file that every folder of ours holds.
        content: text of that file.
    """

    def __init__(self, path: Path, *, mark: str, content: str) -> None:
        super().__init__(path)
        self._mark = mark
        self._content = content
        self._whole = path

    def make(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: is a file; name a folder")
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / self._mark).is_file():
            raise UserError(
                f"{self.path}: holds files that segpress did not write (there is no {self._mark} among them), and the "
                "whole folder would be replaced; name a new folder"
            )
        self._whole = self.path.resolve()  # a link stays: what it points to is replaced
        here = Path.cwd()
        if self._whole == here or self._whole in here.parents:
            raise UserError(f"{self.path}: is where you are, and the whole folder would be replaced; name a new folder")
        if self.path.is_dir():
            with os.scandir(self.path) as entries:
                inside = next((entry.name for entry in entries if entry.is_dir(follow_symlinks=False)), None)
            if inside is not None:
                raise UserError(
                    f"{self.path}: holds the folder {inside}, and the whole of it would be replaced; name a new folder"
                )
        prefix = temporary_prefix(self._whole.name, ".partial-", _OLD, self._whole.parent)
        self.place = Path(tempfile.mkdtemp(prefix=prefix, dir=self._whole.parent))
        self.place.chmod(0o755)
        (self.place / self._mark).write_text(self._content, encoding="utf-8")

    def commit(self) -> None:
        assert self.place is not None
        old = self.place.with_name(self.place.name + _OLD)
        try:
            if self._whole.exists():
                self._whole.rename(old)
            self.place.rename(self._whole)
        except BaseException:
            if old.exists() and not self._whole.exists():
                old.rename(self._whole)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def discard(self) -> None:
        if self.place is not None:
            shutil.rmtree(self.place, ignore_errors=True)
