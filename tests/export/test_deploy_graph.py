"""The deploy graph is the plain pipeline: BGR to RGB, /255, mean and std, network, bilinear, argmax, uint8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.export.graphs import CoreGraph, DeployGraph
from pipeline.export.onnx_file import export
from pipeline.export.torch_engine import TorchEngine
from pipeline.frames import Array
from pipeline.models import SegNetwork

SIZE = (32, 48)


@pytest.fixture(scope="module")
def frame() -> Array:
    return np.random.default_rng(5).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def assert_same_labels(labels: Array, scores: Any) -> None:
    """Labels are equal where the best class leads by more than rounding errors; this must be nearly everywhere."""
    assert labels.dtype == np.uint8
    assert labels.shape == scores.shape[1:]
    ordered = np.sort(scores, axis=0)
    decided = ordered[-1] - ordered[-2] > 1e-4
    assert decided.mean() > 0.99
    assert np.array_equal(labels[decided], scores.argmax(axis=0)[decided])
    assert len(np.unique(labels)) > 1


@pytest.mark.parametrize("label_stride", [1, 2, 4])
def test_exported_graph_is_the_plain_pipeline(
    tiny: SegNetwork,
    frame: Array,
    label_stride: int,
    tmp_path: Path,
    plain_scores: Callable[..., Any],
    run_onnx: Callable[..., Any],
) -> None:
    scores = plain_scores(tiny, frame, label_stride=label_stride)
    graph = DeployGraph(tiny, input_size=SIZE, label_stride=label_stride)
    export(graph, torch.zeros(1, *SIZE, 3, dtype=torch.uint8), tmp_path / "g.onnx", inputs="frames", outputs="labels")
    assert_same_labels(run_onnx(tmp_path / "g.onnx", frame[None])[0], scores)
    engine = TorchEngine(tiny, input_size=SIZE, label_stride=label_stride)
    assert engine.output_size == (SIZE[0] // label_stride, SIZE[1] // label_stride)
    assert_same_labels(engine.run(frame[None])[0], scores)


def test_a_real_student_is_the_plain_pipeline(
    student: Any, plain_scores: Callable[..., Any], run_onnx: Callable[..., Any]
) -> None:
    scores = plain_scores(student.network, student.frames[0], label_stride=1)
    labels = run_onnx(student.onnx.file("fp32.onnx"), student.frames[0][None])[0]
    assert_same_labels(labels, scores)
    assert sorted(np.unique(labels)) == [0, 1, 2, 3, 4]


def test_core_graph_gives_the_logits(student: Any, run_onnx: Callable[..., Any]) -> None:
    image = torch.randn(1, 3, 128, 192, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = student.network(image).logits
    np.testing.assert_allclose(run_onnx(student.onnx.file("core.onnx"), image.numpy()), logits.numpy(), atol=1e-4)
    assert CoreGraph(student.network)(image).shape == logits.shape


def test_torch_engine_does_not_change_the_training_mode(tiny: SegNetwork, frame: Array) -> None:
    engine = TorchEngine(tiny, input_size=SIZE)
    for training in (True, False):
        tiny.train(training)
        engine.run(frame[None])
        assert tiny.training is training
