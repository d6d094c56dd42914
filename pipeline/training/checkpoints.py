"""Checkpoints of an unfinished run: atomic, checked when they are read, never those of another run.

DVC does not track them. Each run has a folder: ``<root>/<key>/step-00000120/`` is an artifact of
``state.safetensors`` and ``state.json``; ``<root>/<key>/run.json`` holds the run's identity.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.training import tensor_tree
from pipeline.training.identity import Identity

log = logging.getLogger(__name__)

RUN, LOCK, TENSORS, SKELETON = "run.json", "lock", "state.safetensors", "state.json"
MIB = 2**20


class Checkpoints:
    """The checkpoints of one run; as a context manager it locks them, so that no other process writes them.

    Args:
        root: folder of all runs of one network.
        identity: of this run.
        every_seconds: least seconds between two checkpoints; the interval grows so that writing takes no more than a
            twentieth of the time. 0 writes a checkpoint whenever losses were read.
        keep: how many of the newest checkpoints are kept, at least 2: the older one replaces a damaged newest one.

    Raises:
        UserError: on entering: another process trains the same run, or the folder cannot be written.
    """

    def __init__(self, root: Path, identity: Identity, *, every_seconds: float, keep: int = 2) -> None:
        self.root, self.identity = root, identity
        self.folder = root / identity.key
        self._every, self._keep = every_seconds, max(2, keep)
        self._written, self._took = time.monotonic(), 0.0

    def __enter__(self) -> Checkpoints:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / LOCK).open("a+")
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written ({error.strerror}); free the place") from error
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not inherited by loader processes
        except (BlockingIOError, PermissionError):
            self._lock.seek(0)
            other = self._lock.read() or "?"
            self._lock.close()
            raise UserError(f"{self.folder}: process {other} trains the same run; wait for it or end it") from None
        except OSError as error:
            log.warning("%s: cannot be locked (%s); see that no other process trains the same run", self.folder, error)
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        for torn in self.folder.glob(".*"):
            shutil.rmtree(torn, ignore_errors=True) if torn.is_dir() else torn.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        wait = max(self._every, 20 * self._took) if self._every else 0.0
        return time.monotonic() - self._written >= wait

    def write(self, step: int, state: Mapping[str, Any], *, circumstances: Mapping[str, Any]) -> None:
        """Write the state after a step; older checkpoints are removed once it is complete.

        Args:
            step: updates done so far.
            state: nested mappings of tensors and plain values.
            circumstances: conditions that may change when the run resumes, such as the device.

        Raises:
            UserError: it cannot be written, e.g. because the disk is full; earlier checkpoints are kept.
        """
        started = time.monotonic()
        skeleton, tensors = tensor_tree.split(state)
        try:
            artifact.write_text(self.folder / RUN, artifact.dump_json(self.identity.facts))
            shutil.rmtree(self._path(step), ignore_errors=True)  # a damaged one that was skipped
            with artifact.create(self._path(step), kind="checkpoint", meta={"step": step, **circumstances}) as folder:
                save_file(tensors, folder / TENSORS)
                (folder / SKELETON).write_text(json.dumps(skeleton), encoding="utf-8")
        except (OSError, SafetensorError) as error:
            kept = f"that of step {max(self.steps())} is kept" if self.steps() else "there is none before it"
            size = sum(tensor.nbytes for tensor in tensors.values()) / MIB
            raise UserError(
                f"{self.folder}: the checkpoint of step {step} cannot be written ({error}); {kept}. It needs "
                f"{size:.0f} MiB: free them and run again"
            ) from error
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self._path(old), ignore_errors=True)
        self._took = time.monotonic() - started
        self._written = time.monotonic()

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-" + 8 * "[0-9]"))

    def newest(self) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """Step, state and circumstances of the newest undamaged checkpoint; a warning names each damaged one.

        None without any; a warning then names each other run of the same network with checkpoints, and how it differs.
        """
        for step in reversed(self.steps()):
            try:
                checkpoint = artifact.load(self._path(step), kind="checkpoint")
                skeleton = json.loads(checkpoint.file(SKELETON).read_text("utf-8"))
                return step, tensor_tree.join(skeleton, load_file(checkpoint.file(TENSORS))), checkpoint.facts
            except (UserError, OSError, ValueError, KeyError, SafetensorError) as error:
                log.warning("the checkpoint of step %d is damaged and is not used: %s", step, error)
        self._name_others()
        return None

    def remove(self) -> None:
        """Remove the checkpoints of this run: it is finished."""
        ended = self.folder.with_name(f".{self.folder.name}.ended")
        with contextlib.suppress(OSError):
            self.folder.rename(ended)  # an interruption then leaves all checkpoints or none
            shutil.rmtree(ended, ignore_errors=True)
            self.root.rmdir()  # fails, and is not needed, when other runs have checkpoints there

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _name_others(self) -> None:
        for file in sorted(self.root.glob(f"*/{RUN}")):
            if file.parent == self.folder or not list(file.parent.glob("step-*")):
                continue
            try:
                differences = self.identity.differences(artifact.read_json(file, advice="remove it"))
            except (UserError, OSError) as error:
                log.warning("%s", error)
                continue
            size = sum(part.stat().st_size for part in file.parent.rglob("*") if part.is_file()) / MIB
            more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
            log.warning(
                "starting at step 0: the unfinished run in %s (%.0f MiB) is another run (%s%s); remove the folder if "
                "you will not resume it",
                file.parent, size, "; ".join(differences[:5]), more,
            )  # fmt: skip
