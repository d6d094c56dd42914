"""What TensorRT says when it fails, as sentences, and the nodes that it names."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from pipeline.errors import UserError

#: Where in NVIDIA's sources a message was made: nothing that a user can act on.
SOURCE_PLACES = (re.compile(r"\s*In \w+ at \S+:\d+"), re.compile(r"^\[?[\w./]+(?:::\w+)*::\d+\]\s*"))
#: What TensorRT-RTX repeats after any other error on a machine without a driver.
NO_DRIVER = "cudaError 35"
#: A node's name in the two forms in which the parser has dumped nodes.
DUMPED = re.compile(r'^(?:Node )?name: "?([^"\n]+?)"?\s*$', re.MULTILINE)
#: Layers that are compiled as one, by the names of the first and the last.
REGION = re.compile(r"ForeignNode\[(.+?)\.\.\.(.+?)\]")
QUANTISING = ("QuantizeLinear", "DequantizeLinear")
#: Codes for what the parser has in no precision.
UNSUPPORTED = re.compile(r"\.UNSUPPORTED_NODE(_ATTR|_INPUT|_SHAPE|_DYNAMIC)?$")
#: Words for types that another file of the same network has not.
SMALL_TYPES = re.compile(r"\b(half|float16|fp16|bfloat16|int8|fp8)\b", re.IGNORECASE)
#: Words by which a message is about types, or scales and zero-points.
TYPES = re.compile(r"\b(types?|precision|half|float16|fp16|int8|scales?|zero.?point|quanti\w+)\b", re.IGNORECASE)


class BuildError(UserError):
    """A network that TensorRT could not take or build as it stands; another form of it may do.

    Attributes:
        nodes: names of the ONNX nodes that it is about, as far as the library tells.
    """

    def __init__(self, reason: str, *, nodes: Collection[str] = ()) -> None:
        super().__init__(reason)
        self.nodes = frozenset(nodes)


def readable(texts: Collection[str]) -> str:
    """Messages as one line: repetitions, places in NVIDIA's sources and the echo of a missing driver left out.

    Example:
        >>> readable(["[a.cpp::b::7] Error Code 2: OutOfMemory (size 3. In b at /_src/a.cpp:7)", "", "lost.\\nlost."])
        'Error Code 2: OutOfMemory (size 3.); lost'
    """
    lines = [line.strip() for text in texts for line in text.splitlines()]
    lines = [line for line in lines if NO_DRIVER not in line] or lines
    for place in SOURCE_PLACES:
        lines = [place.sub("", line) for line in lines]
    sentences = dict.fromkeys(line.strip(" .") for line in lines)
    return "; ".join(sentence for sentence in sentences if sentence)


def parser_failure(parser: Any, lines: Collection[str], *, library: str) -> UserError:
    """Why a file did not parse; a :class:`BuildError` where another form of the network may parse.

    Args:
        lines: what was logged meanwhile: an older library names the node there only.
        library: name and version, for the message.
    """
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    what = "; ".join(f"{node_of(error)}: {readable([error.desc()])}" for error in errors) or readable(lines)
    for error in errors:
        code, operator = str(error.code()), error.node_operator() if hasattr(error, "node_operator") else ""
        if code.endswith("MODEL_DESERIALIZE_FAILED"):
            return UserError(f"{library} cannot parse it: it is no ONNX file, or is cut off; make it again ({what})")
        unknown = "Plugin not found" in error.desc() or UNSUPPORTED.search(code)
        if unknown and operator not in QUANTISING and not SMALL_TYPES.search(error.desc()):
            lacking = "a form of the operator" if re.search(r"_NODE_\w+$", code) else "an operator"
            return UserError(
                f"{library} cannot parse it: {node_of(error)}: {lacking} that it does not have, in any precision; "
                f"take a network without it, or another convert.runtime ({what})"
            )
    nodes = {error.node_name() for error in errors if hasattr(error, "node_name")} - {""}
    logged = {name for text in lines for name in DUMPED.findall(text)} - nodes
    at = f" at {', '.join(sorted(logged))}" if logged else ""
    advice = "for INT8, the layer there among quantize.float_layers"
    if TYPES.search(what):
        advice = f"try another precision or, {advice}"
    else:
        advice = (
            f"try, {advice}; where the float files fail too, a network without that layer, or another convert.runtime"
        )
    return BuildError(f"{library} cannot parse it{at}: {what}; {advice}", nodes=nodes | logged)


def node_of(error: Any) -> str:
    """The node that a parser error is about, by index and, where the library tells it, by name and operator."""
    known = [getattr(error, key)() for key in ("node_name", "node_operator") if hasattr(error, key)]
    return f"node {error.node()}" + (f" ({', '.join(known)})" if any(known) else "")


def named_nodes(text: str, names: Sequence[str]) -> list[str]:
    """Which of these names stand in a text as whole words; where none does, all of a region whose ends it names.

    Args:
        names: of the network's layers, in order.

    Example:
        >>> named_nodes("no implementation for node b.conv + relu_1.", ["conv", "b.conv", "relu", "relu_1"])
        ['b.conv', 'relu_1']
        >>> named_nodes("cannot compile {ForeignNode[b...d]}", ["a", "b", "c", "d", "e"])
        ['b', 'c', 'd']
    """
    alone = REGION.sub("", text)
    whole = [name for name in names if re.search(rf"(?<![\w/])(?<!\w\.){re.escape(name)}(?![\w/])(?!\.\w)", alone)]
    if whole:
        return whole
    place = {name: index for index, name in enumerate(names)}
    regions = [ends for ends in REGION.findall(text) if set(ends) <= place.keys()]
    return [name for first, last in regions for name in names[place[first] : place[last] + 1]]
