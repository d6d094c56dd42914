"""Which provider of ONNX Runtime computes each node of a session, from the profile of one run.

The profile names what ran, after all optimisations, in every version of ONNX Runtime. A graph that ONNX Runtime saves
has no providers, and the list that a session returns (from 1.24 on) lacks the nodes that are inserted later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

#: Most elements of a tensor of a shape computation: its values are sizes, axes or positions.
SMALL = 64
#: Types of the tensors of shape computations.
WHOLE = frozenset(["int64", "int32", "bool"])
#: Suffix of the events that have a node's kernel, after the node's name.
KERNEL = "_kernel_time"
#: Number of nodes that an error names; the others are counted.
NAMED = 10


@dataclass(frozen=True)
class Node:
    """A node that a session computed.

    Attributes:
        computes_shapes: it reads and writes at most :data:`SMALL` integers. ONNX Runtime puts such nodes on the CPU on
            purpose, and copies no pixels for them.
    """

    name: str
    operator: str
    provider: str
    computes_shapes: bool

    def __str__(self) -> str:
        return f"{self.operator} {self.name}".rstrip()


def watch(options: Any, folder: Path) -> None:
    """Let a session with these options write its profile into a folder."""
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")


def nodes(session: Any) -> list[Node]:
    """The nodes that a session has computed since it was opened with :func:`watch`; ends its profile."""
    return read(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")))


def read(events: Iterable[Mapping[str, Any]]) -> list[Node]:
    """The nodes in the events of a profile, each once, in the order of computation.

    Raises:
        UserError: the profile has no nodes.
    """
    distinct: dict[Node, None] = {}
    for event in events:
        details = event.get("args", {})
        if event.get("cat") == "Node" and "provider" in details:
            name = str(event["name"]).removesuffix(KERNEL)
            distinct[Node(name, details["op_name"], details["provider"], _computes_shapes(details))] = None
    if not distinct:
        raise UserError("its profile names no node, so it is unknown where the nodes run; use another version of it")
    return list(distinct)


def _computes_shapes(details: Mapping[str, Any]) -> bool:
    """Whether a node reads and writes nothing but a few integers."""
    if "input_type_shape" not in details or "output_type_shape" not in details:
        return False
    tensors = [tensor for key in ("input_type_shape", "output_type_shape") for tensor in details[key]]
    return all(kind in WHOLE and prod(shape) <= SMALL for tensor in tensors for kind, shape in tensor.items())


def by_provider(placed: Iterable[Node]) -> dict[str, list[str]]:
    """Operator and name of every node, by provider, for meta.json."""
    listed: dict[str, list[str]] = {}
    for node in placed:
        listed.setdefault(node.provider, []).append(str(node))
    return listed


def check(placed: Iterable[Node], *, provider: str) -> None:
    """Raise UserError when nodes other than shape computations run on another provider; it names them."""
    placed = list(placed)
    elsewhere = [node for node in placed if node.provider != provider and not node.computes_shapes]
    if not elsewhere:
        return
    named = ", ".join(f"{node} ({node.provider})" for node in elsewhere[:NAMED])
    more = f" and {len(elsewhere) - NAMED} more" if len(elsewhere) > NAMED else ""
    raise UserError(
        f"{len(elsewhere)} of its {len(placed)} nodes do not run on {provider}: {named}{more}. Each of them copies its "
        "data to the host and back. Use another precision, convert.runtime: tensorrt, or a network without these layers"
    )
