"""Rename the tensors and nodes of an imported network, so that no later step of ours uses the same names."""

from __future__ import annotations

import onnx

from pipeline.quantization.graph import OURS

#: Names of the network's image and result in the deploy graph.
IMAGE, RESULT = "image", "result"
#: Prefixes that ONNX Runtime adds to the name of a weight when it folds something into it. Reports show the name
#: without them.
FOLDED = ("ConvBnFusion_W_", "ConvMulFusion_W_")

#: Characters that later steps put between the name of a tensor and a suffix.
SEPARATORS = "_|"


def rename(model: onnx.ModelProto) -> None:
    """Rename everything, in place: image and result get our names, all others the prefix ``network.net.``.

    No name in the deploy graph around the network has this prefix. Quantisation adds suffixes such as ``_scale`` or
    ``|half`` to the name of a tensor. A name that could be another name with such a suffix gets a dot at its end,
    because no suffix ends with a dot.
    """
    graph = model.graph
    new = {graph.input[0].name: IMAGE, graph.output[0].name: RESULT}
    names = dict.fromkeys(name for node in graph.node for name in (*node.input, *node.output) if name)
    taken = set(new.values())
    for name in sorted(names.keys() - new.keys()):
        renamed = next((name.removeprefix(prefix) for prefix in FOLDED if name.startswith(prefix)), name)
        renamed = OURS + renamed.removeprefix(OURS)
        while renamed in taken:
            renamed += "_"
        new[name] = renamed
        taken.add(renamed)
    for name, renamed in new.items():
        if not taken.isdisjoint(renamed[:index] for index, letter in enumerate(renamed) if letter in SEPARATORS):
            while (renamed := f"{renamed}.") in taken:
                pass
            new[name] = renamed
            taken.add(renamed)
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = new.get(value.name, value.name)
    used: set[str] = set()
    for index, node in enumerate(graph.node):
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
        node.name = OURS + (node.name.removeprefix(OURS) or f"{node.op_type}_{index}")
        if node.name in used:
            node.name = f"{node.name}_{index}"
        used.add(node.name)


def unused(graph: onnx.GraphProto, name: str) -> str:
    """The name itself, or with underscores at its end if a tensor of the graph already has it."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    while name in taken:
        name += "_"
    return name
