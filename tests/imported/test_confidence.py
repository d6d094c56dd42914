"""The confidence of imported networks: from logits, probabilities or one channel; refused for other outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.imported.description import Description
from pipeline.imported.onnx_artifact import import_network
from tests.imported.conftest import deep, ending

node = helper.make_node
TWO = {"classes": ["background", "road"], "palette": [[0, 0, 0], [128, 64, 128]]}
LOGITS = [node("Identity", ["deep"], ["scores"])]
SIGMOID = [node("Sigmoid", ["deep"], ["scores"])]
Floats = npt.NDArray[np.float64]


def sigmoid(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logits)))


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=0))
    return np.asarray(powers / powers.sum(axis=0))


def require_confidence(description: Description, frames: Any, probabilities: Callable[[Floats], Floats]) -> None:
    """Import the network, and compare its confidence with the probability of each label, in levels of 255.

    Args:
        probabilities: from logits (K, h, w) to the probability of each class, (K or 2, h, w).
    """
    import_network(description, description.file.parent / "onnx", frames=lambda size: frames)
    converted = artifact.load(description.file.parent / "onnx", kind="onnx")
    assert converted.meta["confidence"]["shape"] == converted.meta["output"]["shape"]
    for precision, most in (("fp32", 0.6), ("fp16", 2.0)):
        session = onnxruntime.InferenceSession(
            str(converted.file(f"{precision}.onnx")), providers=["CPUExecutionProvider"]
        )
        for frame in frames:
            shares = 255 * probabilities(deep(description.model, frame).astype(np.float64))
            labels, levels = session.run(None, {"frames": frame[None]})
            assert levels.shape == labels.shape and levels.dtype == np.uint8 and np.ptp(levels) > 20
            expected = np.take_along_axis(shares, labels.astype(np.int64), axis=0)
            assert np.abs(levels - expected).max() < most, precision


@pytest.mark.parametrize(
    ("nodes", "probabilities"),
    [
        (LOGITS, softmax),
        ([node("Softmax", ["deep"], ["scores"], axis=1)], softmax),
        ([node("LogSoftmax", ["deep"], ["scores"], axis=1)], softmax),
        (SIGMOID, sigmoid),
    ],
)
def test_a_channel_per_class(make: Any, described: Any, frames: Any, nodes: Any, probabilities: Any) -> None:
    """Probabilities are used unchanged: a second softmax would make them nearly equal."""
    model = ending(make(opset=13), nodes, TensorProto.FLOAT)
    require_confidence(described(model, confidence=True), frames, probabilities)


@pytest.mark.parametrize(
    ("nodes", "keys"), [(LOGITS, {}), (SIGMOID, {}), (SIGMOID, {"threshold": 0.6}), (LOGITS, {"threshold": 0.25})]
)
def test_one_channel(make_single: Any, described: Any, frames: Any, nodes: Any, keys: Any) -> None:
    """With another threshold the less probable class may be the label: its confidence is then below a half."""
    model = ending(make_single, nodes, TensorProto.FLOAT)

    def both(logits: Floats) -> Floats:
        return np.stack([1 - sigmoid(logits[0]), sigmoid(logits[0])])

    require_confidence(described(model, **TWO, **keys, confidence=True), frames, both)


def test_one_channel_that_is_neither_is_refused(make_single: Any, described: Any, frames: Any) -> None:
    nodes = [node("Sigmoid", ["deep"], ["s"]), node("Mul", ["s", "most"], ["scores"])]
    description = described(
        ending(make_single, nodes, TensorProto.FLOAT, most=np.float32(255)), **TWO, threshold=127, confidence=True
    )
    with pytest.raises(UserError, match=r"neither probabilities .* so they give no confidence"):
        import_network(description, description.file.parent / "onnx", frames=lambda size: frames)
    assert not (description.file.parent / "onnx").exists()


def test_a_label_map_has_no_confidence(make: Any, described: Any) -> None:
    with pytest.raises(UserError, match=r"confidence: a map of class ids has no probabilities"):
        described(make(output="labels"), output="labels", confidence=True)


@pytest.fixture
def make_single(single: Any) -> onnx.ModelProto:
    model: onnx.ModelProto = single(opset=13)
    return model
