"""How an INT8 engine comes about where the first attempt fails: rung by rung, with the reason why each one failed.

1. ``strongly_typed``: the INT8 file as it stands.
2. ``layers_released``: the layers that the error names lose their Q/DQ, at most five times.
3. ``weakly_typed``: TensorRT 10 only; the file as it stands, types left to the builder within INT8 and float16.

There is no rung in float: what is called INT8 has INT8 layers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import UserError
from pipeline.runtimes._base import Release
from pipeline.runtimes._tensorrt.errors import BuildError

ROUNDS = 5


class NoInt8Error(UserError):
    """The network has no layer whose operands are both INT8."""


@dataclass(frozen=True)
class Built:
    """A serialised engine and how it was built."""

    plan: Any
    facts: dict[str, Any]


class Attempt(Protocol):
    """Builds a file once. Raises BuildError, NoInt8Error, or UserError for what no rung can mend."""

    def __call__(self, onnx_file: Path, *, strongly_typed: bool) -> Built: ...


def climb(onnx_file: Path, attempt: Attempt, *, release: Release | None, weakly: str | None) -> Built:
    """The engine of the first rung that holds; its facts name the ``rung`` and why the ones before it failed.

    Args:
        release: takes Q/DQ away; None on a machine without the onnx package.
        weakly: why this library has no third rung; None when it has it.

    Raises:
        UserError: no rung holds, with the reason of each; or the file has a problem that no rung mends.
    """
    failed: dict[str, str] = {}
    try:
        return _on("strongly_typed", attempt(onnx_file, strongly_typed=True), failed)
    except BuildError as error:
        failed["strongly_typed"], first = str(error), error
    if release is None:
        failed["layers_released"] = "left out: this machine has no onnx package; build it with dvc repro convert"
    else:
        try:
            return _on("layers_released", released(onnx_file, attempt, release, nodes=first.nodes), failed)
        except BuildError as error:
            failed["layers_released"] = str(error)
    if weakly is not None:
        failed["weakly_typed"] = f"left out: {weakly}"
    else:
        try:
            return _on("weakly_typed", attempt(onnx_file, strongly_typed=False), failed)
        except BuildError as error:
            failed["weakly_typed"] = str(error)
    raise UserError("no INT8 engine\n" + "\n".join(f"  {rung}: {reason}" for rung, reason in failed.items()))


def released(onnx_file: Path, attempt: Attempt, release: Release, *, nodes: Collection[str]) -> Built:
    """Take Q/DQ from the named nodes and build again, with those that the next error names, and so on.

    Raises:
        BuildError: the error names no layer that still has Q/DQ, no INT8 layer is left, or five rounds did not do.
    """
    named, done = set(nodes), list[str]()
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(1, ROUNDS + 1):
            file = Path(scratch) / f"released-{number}.onnx"
            before, done = done, release(onnx_file, file, nodes=named)
            if done == before:
                raise BuildError(f"the error names no{' further' if done else ''} layer with Q/DQ{_after(done)}")
            try:
                built = attempt(file, strongly_typed=True)
            except NoInt8Error:
                raise BuildError(f"no INT8 layer is left{_after(done)}") from None
            except BuildError as error:
                named |= error.nodes
                reason = str(error)
            else:
                return Built(built.plan, {**built.facts, "released": done})
    raise BuildError(f"given up after {ROUNDS} rounds{_after(done)}: {reason}")


def _after(done: Collection[str]) -> str:
    return f" after releasing {', '.join(done)}" if done else ""


def _on(rung: str, built: Built, failed: dict[str, str]) -> Built:
    return Built(built.plan, {**built.facts, "rung": rung, "failed_rungs": failed})
