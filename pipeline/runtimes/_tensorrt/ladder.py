"""Attempts to build an INT8 engine, one rung after the other; the reason of each failed attempt is kept.

1. ``strongly_typed``: the INT8 file as it is.
2. ``layers_released``: the layers that the error names lose their Q/DQ, at most five times.
3. ``weakly_typed``: TensorRT 10 only; the file as it is, but the builder chooses types and may use INT8 and float16.

No rung builds an engine without INT8 layers.
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
    """Builds a file once. Raises BuildError, NoInt8Error, or UserError for a problem that no other rung solves."""

    def __call__(self, onnx_file: Path, *, strongly_typed: bool) -> Built: ...


def climb(onnx_file: Path, attempt: Attempt, *, release: Release | None, weakly: str | None) -> Built:
    """The engine of the first rung that succeeds; its facts have this ``rung`` and the errors of the rungs before it.

    Args:
        release: removes Q/DQ; None on a machine without the onnx package.
        weakly: why this library has no third rung; None if it has one.

    Raises:
        UserError: all rungs fail, with the reason of each; or the file has a problem that no rung solves.
    """
    failed: dict[str, str] = {}
    try:
        return _on("strongly_typed", attempt(onnx_file, strongly_typed=True), failed)
    except BuildError as error:
        failed["strongly_typed"], first = str(error), error
    if release is None:
        failed["layers_released"] = "skipped: this machine has no onnx package; build it with dvc repro convert"
    else:
        try:
            return _on("layers_released", released(onnx_file, attempt, release, nodes=first.nodes), failed)
        except BuildError as error:
            failed["layers_released"] = str(error)
    if weakly is not None:
        failed["weakly_typed"] = f"skipped: {weakly}"
    else:
        try:
            return _on("weakly_typed", attempt(onnx_file, strongly_typed=False), failed)
        except BuildError as error:
            failed["weakly_typed"] = str(error)
    raise UserError("no INT8 engine\n" + "\n".join(f"  {rung}: {reason}" for rung, reason in failed.items()))


def released(onnx_file: Path, attempt: Attempt, release: Release, *, nodes: Collection[str]) -> Built:
    """Remove Q/DQ from the named nodes and build again; after an error, also from the nodes that it names.

    Raises:
        BuildError: the error names no layer that still has Q/DQ, no INT8 layer is left, or all five rounds fail.
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
    raise BuildError(f"failed in {ROUNDS} rounds{_after(done)}: {reason}")


def _after(done: Collection[str]) -> str:
    return f" after releasing {', '.join(done)}" if done else ""


def _on(rung: str, built: Built, failed: dict[str, str]) -> Built:
    return Built(built.plan, {**built.facts, "rung": rung, "failed_rungs": failed})
