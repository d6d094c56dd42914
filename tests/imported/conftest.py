"""Small networks to import, built by hand in the form of common exporters, and their descriptions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from ruamel.yaml import YAML

from pipeline import artifact
from pipeline.frames import write_png
from pipeline.imported import description
from pipeline.imported.description import Description

SIZE = (48, 64)
CLASSES = ["sky", "road", "car"]
PALETTE = [[10, 20, 30], [128, 64, 128], [0, 0, 142]]


def network(
    *,
    layout: str = "NCHW",
    output: str = "logits",
    stride: int = 1,
    opset: int = 12,
    size: tuple[Any, Any] = SIZE,
    heads: int = 1,
    names: tuple[str, str] = ("input", "scores"),
    classes: int = 3,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Convolution, batch normalisation, PRelu, convolution. With NHWC, it transposes inside, as TensorFlow does.

    Logits have a standard deviation near 1, and every class has some pixels of :func:`frames`.
    """
    rng = np.random.default_rng(3)
    weights = {
        "normalise.weight": rng.normal(0, 0.6, (8, 3, 3, 3)),  # names that the deploy graph uses itself
        "bn_scale": rng.uniform(0.5, 1.5, 8),
        "bn_bias": rng.normal(0, 0.3, 8),
        "bn_mean": rng.normal(0, 0.3, 8),
        "bn_var": rng.uniform(0.5, 1.5, 8),
        "slope": rng.uniform(0.05, 0.4, (8, 1, 1)),
        "last.weight": rng.normal(0, 0.3, (classes, 8, 1, 1)),
        "unused": rng.normal(0, 1, (4, 4)),
    }
    image, result = names
    node = helper.make_node
    nodes = [node("Transpose", [image], ["planes"], perm=[0, 3, 1, 2])] if layout == "NHWC" else []
    first = "planes" if layout == "NHWC" else image
    nodes += [
        node("Conv", [first, "normalise.weight"], ["c"], pads=[1, 1, 1, 1], strides=[stride, stride]),
        node("BatchNormalization", ["c", "bn_scale", "bn_bias", "bn_mean", "bn_var"], ["n"]),
        node("PRelu", ["n", "slope"], ["labels"]),
        node("Conv", ["labels", "last.weight"], ["deep"]),
    ]
    height, width = (side if isinstance(side, str) else side // stride for side in size)
    shape: list[Any] = [1, classes, height, width]
    if output == "labels":
        nodes.append(node("ArgMax", ["deep"], [result], axis=1, keepdims=1))
        output_info = helper.make_tensor_value_info(result, TensorProto.INT64, [1, 1, height, width])
    elif layout == "NHWC":
        nodes.append(node("Transpose", ["deep"], [result], perm=[0, 2, 3, 1]))
        output_info = helper.make_tensor_value_info(result, TensorProto.FLOAT, [1, height, width, classes])
    else:
        nodes.append(node("Identity", ["deep"], [result]))
        output_info = helper.make_tensor_value_info(result, TensorProto.FLOAT, shape)
    outputs = [output_info]
    for index in range(1, heads):
        nodes.append(node("Sigmoid", ["deep"], [f"head{index}"]))
        outputs.append(helper.make_tensor_value_info(f"head{index}", TensorProto.FLOAT, shape))
    image_shape = [1, *size, 3] if layout == "NHWC" else [1, 3, *size]
    graph = helper.make_graph(
        nodes,
        "imported",
        [helper.make_tensor_value_info(image, kind, image_shape)],
        outputs,
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


@pytest.fixture
def make() -> Callable[..., onnx.ModelProto]:
    return network


@pytest.fixture
def described(tmp_path: Path) -> Callable[..., Description]:
    """``described(model, **keys)`` writes model.onnx and own.yaml, and reads the description; None removes a key."""

    def write(model: onnx.ModelProto | None, /, **keys: Any) -> Description:
        if model is not None:
            onnx.save(model, tmp_path / "model.onnx")
        values = {
            "model": "model.onnx",
            "output": "logits",
            "channel_order": "RGB",
            "classes": CLASSES,
            "palette": PALETTE,
            **keys,
        }
        with (tmp_path / "own.yaml").open("w") as stream:
            YAML().dump({key: value for key, value in values.items() if value is not None}, stream)
        return description.load(tmp_path / "own.yaml")

    return write


@pytest.fixture(scope="session")
def frames() -> list[npt.NDArray[np.uint8]]:
    """Four smooth frames whose channels all differ."""
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (6, 8, 3), dtype=np.uint8) for _ in range(4)]
    return [np.asarray(cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_CUBIC), np.uint8) for image in coarse]


@pytest.fixture
def dataset(tmp_path: Path, frames: Any) -> Path:
    """A prepared data set of these frames: seven classes of noise and ignored pixels, two frames per split."""
    names = ["sky", "road", "lane", "car", "bus", "pole", "tree"]
    meta = {
        "dataset": "noise",
        "classes": names,
        "palette": [[index, index, index] for index in range(7)],
        "ignore_index": 200,
        "splits": {"train": ["a", "b"], "val": ["c", "d"]},
    }
    rng = np.random.default_rng(1)
    with artifact.create(tmp_path / "dataset", kind="dataset", meta=meta) as folder:
        for index, (split, name) in enumerate((("train", "a"), ("train", "b"), ("val", "c"), ("val", "d"))):
            label = rng.integers(0, 8, SIZE).astype(np.uint8)
            label[label == 7] = 200
            write_png(folder / split / "images" / f"{name}.png", frames[index])
            write_png(folder / split / "labels" / f"{name}.png", label)
    return tmp_path / "dataset"


def ending(model: onnx.ModelProto, nodes: list[onnx.NodeProto], kind: int, **constants: Any) -> onnx.ModelProto:
    """The network with other nodes from ``deep``, its logits, to ``scores``."""
    del model.graph.node[-1]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in constants.items())
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("scores", kind, None))
    return model


def deep(file: Path, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The tensor ``deep`` of the file for RGB / 255: (K, h, w)."""
    model = onnx.load(file)
    model.graph.output.append(helper.make_tensor_value_info("deep", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = (frame[:, :, ::-1].astype(np.float32) / 255).transpose(2, 0, 1)[None]
    return session.run(["deep"], {"input": np.ascontiguousarray(image)})[0][0]


@pytest.fixture(scope="session")
def single(frames: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., onnx.ModelProto]:
    """``single(**options)``: a network of one channel, which is above 0 on half of all pixels."""

    def build(**options: Any) -> onnx.ModelProto:
        model = network(classes=1, **options)
        file = tmp_path_factory.mktemp("single") / "model.onnx"
        onnx.save(model, file)
        middle = np.median([deep(file, frame) for frame in frames])
        model.graph.initializer.append(numpy_helper.from_array(np.float32([-middle]), "last.bias"))
        model.graph.node[-2].input.append("last.bias")
        return model

    return build
