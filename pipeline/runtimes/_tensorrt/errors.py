"""Errors of TensorRT as readable sentences, and the nodes that they name."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from pipeline.errors import UserError

#: Places in NVIDIA's source code, which do not help a user.
SOURCE_PLACES = (re.compile(r"\s*In \w+ at \S+:\d+"), re.compile(r"^\[?[\w./]+(?:::\w+)*::\d+\]\s*"))
#: TensorRT-RTX adds this after every other error on a machine without a driver.
NO_DRIVER = "cudaError 35"
#: A node's name, in the two forms in which parsers print nodes.
DUMPED = re.compile(r'^(?:Node )?name: "?([^"\n]+?)"?\s*$', re.MULTILINE)
#: Layers that are compiled as one, by the names of the first and the last.
REGION = re.compile(r"ForeignNode\[(.+?)\.\.\.(.+?)\]")
QUANTISING = ("QuantizeLinear", "DequantizeLinear")
#: Codes for operators that the parser supports in no precision, at all or in this form.
UNSUPPORTED = re.compile(r"\.UNSUPPORTED_NODE(_ATTR|_INPUT|_SHAPE|_DYNAMIC)?$")
#: Names of types that other files of the same network do not use.
SMALL_TYPES = re.compile(r"\b(half|float16|fp16|bfloat16|int8|fp8)\b", re.IGNORECASE)
#: Words of messages about types, or about scales and zero-points.
TYPES = re.compile(r"\b(types?|precision|half|float16|fp16|int8|scales?|zero.?point|quanti\w+)\b", re.IGNORECASE)


class BuildError(UserError):
    """TensorRT cannot parse or build a network in this form; another form of it may work.

    Attributes:
        nodes: names of the ONNX nodes that the error is about, if the library names them.
    """

    def __init__(self, reason: str, *, nodes: Collection[str] = ()) -> None:
        super().__init__(reason)
        self.nodes = frozenset(nodes)


def readable(texts: Collection[str]) -> str:
    """Messages as one line, without repetitions, places in NVIDIA's sources and the repeated error about the driver.

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
        lines: the log of the parser; older libraries name the node only there.
        library: name and version, for the message.
    """
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    reason = "; ".join(f"{node_of(error)}: {readable([error.desc()])}" for error in errors) or readable(lines)
    for error in errors:
        code, operator = str(error.code()), error.node_operator() if hasattr(error, "node_operator") else ""
        if code.endswith("MODEL_DESERIALIZE_FAILED"):
            return UserError(
                f"{library} cannot parse it: it is not an ONNX file, or is truncated; write it again ({reason})"
            )
        unknown = "Plugin not found" in error.desc() or UNSUPPORTED.search(code)
        if unknown and operator not in QUANTISING and not SMALL_TYPES.search(error.desc()):
            unsupported = "a form of the operator" if re.search(r"_NODE_\w+$", code) else "an operator"
            return UserError(
                f"{library} cannot parse it: {node_of(error)}: {unsupported} that it does not support in any "
                f"precision; use a network without it, or another convert.runtime ({reason})"
            )
    nodes = {error.node_name() for error in errors if hasattr(error, "node_name")} - {""}
    logged = {name for text in lines for name in DUMPED.findall(text)} - nodes
    at = f" at {', '.join(sorted(logged))}" if logged else ""
    advice = "for INT8, add the layer to quantize.float_layers"
    if TYPES.search(reason):
        advice = f"try another precision or, {advice}"
    else:
        advice += "; if the float files fail too, use a network without that layer, or another convert.runtime"
    return BuildError(f"{library} cannot parse it{at}: {reason}; {advice}", nodes=nodes | logged)


def node_of(error: Any) -> str:
    """The node of a parser error: its index and, if the library names them, its name and operator."""
    known = [getattr(error, key)() for key in ("node_name", "node_operator") if hasattr(error, key)]
    return f"node {error.node()}" + (f" ({', '.join(known)})" if any(known) else "")


def named_nodes(text: str, names: Sequence[str]) -> list[str]:
    """The names that a text contains as whole words; if none, all names of the regions whose ends it contains.

    Args:
        names: names of the network's layers, in order.

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
