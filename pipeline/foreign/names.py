"""Names inside a foreign network that no pass of ours uses, whatever they are in the file."""

from __future__ import annotations

import onnx

from pipeline.quantization.graph import OURS

#: What the deploy graph calls the image and the result of the network.
IMAGE, RESULT = "image", "result"
#: What ONNX Runtime puts before the name of a weight into which it folds something; reports go by that name.
FOLDED = ("ConvBnFusion_W_", "ConvMulFusion_W_")

#: What our passes put between the name of a tensor and a word of theirs.
SEPARATORS = "_|"


def rename(model: onnx.ModelProto) -> None:
    """Image and result get our names, everything else a name that begins with ``network.net.``, in place.

    Our graph around the network has no name that begins so. Quantisation puts ``_`` or ``|`` and a word behind the name
    of a tensor; a name that is another one with such a word gets a dot at its end, which no word of ours has.
    """
    graph = model.graph
    new = {graph.input[0].name: IMAGE, graph.output[0].name: RESULT}
    names = dict.fromkeys(name for node in graph.node for name in (*node.input, *node.output) if name)
    taken = set(new.values())
    for name in sorted(names.keys() - new.keys()):
        plain = next((name.removeprefix(prefix) for prefix in FOLDED if name.startswith(prefix)), name)
        plain = OURS + plain.removeprefix(OURS)
        while plain in taken:
            plain += "_"
        new[name] = plain
        taken.add(plain)
    for name, plain in new.items():
        if not taken.isdisjoint(plain[:index] for index, letter in enumerate(plain) if letter in SEPARATORS):
            while (plain := f"{plain}.") in taken:
                pass
            new[name] = plain
            taken.add(plain)
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


def free(graph: onnx.GraphProto, name: str) -> str:
    """The name, or one like it that no tensor of the graph has."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    while name in taken:
        name += "_"
    return name
