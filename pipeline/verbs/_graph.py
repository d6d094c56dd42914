"""Stages of dvc.yaml that run in a folder of their own, without DVC: a machine with a card may lack it.

A folder is laid out like the checkout (``params.yaml``, ``artifacts/``, ``results/``), so the commands, dependencies,
params and outputs of dvc.yaml hold in it as they are.
"""

from __future__ import annotations

import fcntl
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.settings import yaml_file
from pipeline.settings.params import Params
from pipeline.verbs._repository import ROOT
from pipeline.verbs._steps import Step, run_stage, section

#: Folder of everything that stages write, except results.
ARTIFACTS = "artifacts"


def steps(folder: Path, names: Sequence[str], *, student: str = "", until: float | None = None) -> list[Step]:
    """Stages as steps in a folder with a params.yaml.

    Args:
        names: keys of the stages in dvc.yaml, in order.
        student: for stages that run once per student.
        until: time (``time.monotonic``) after which a running stage is stopped.
    """
    graph = yaml_file.read(ROOT / "dvc.yaml", sections=["stages"])["stages"]
    values = yaml_file.read(folder / "params.yaml", sections=Params.model_fields)
    return [_step(name, graph[name], folder, student=student, values=values, until=until) for name in names]


def _step(
    name: str, stage: Mapping[str, Any], folder: Path, *, student: str, values: Mapping[str, Any], until: float | None
) -> Step:
    body = stage.get("do", stage)

    def resolved(text: str) -> str:
        return text.replace("${key}", student).replace("${dataset}", str(values["dataset"]))

    def paths(*kinds: str) -> Iterator[Path]:
        for kind in kinds:
            for entry in body.get(kind, ()):
                yield folder / resolved(entry if isinstance(entry, str) else next(iter(entry)))

    inputs: dict[str, Any] = {path.relative_to(folder).as_posix(): path for path in paths("deps")}
    inputs["params"] = section(values, [resolved(key) for key in body.get("params", ())])
    _, _, *arguments = shlex.split(resolved(body["cmd"]))
    return Step(
        name,
        list(paths("outs", "metrics", "plots")),
        inputs,
        partial(run_stage, name, *arguments, folder=folder, until=until),
        always=bool(body.get("always_changed")),
    )


def link(folder: Path, places: Iterable[str], *, source: Path, renamed: Mapping[str, str] | None = None) -> None:
    """Let a folder use artifacts of another one: symbolic links, which replace older ones.

    Args:
        places: such as ``artifacts/dataset``; those that the source lacks are left out.
        renamed: other paths in the source.
    """
    for place in places:
        target, linked = source / (renamed or {}).get(place, place), folder / place
        linked.parent.mkdir(parents=True, exist_ok=True)
        if linked.is_symlink():
            linked.unlink()
        if target.exists():
            linked.symlink_to(target.resolve())


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a run's folder; without ``wait`` yields False where another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            yield False
        else:
            yield True
