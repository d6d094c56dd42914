"""Adaptive pooling: equal to torch's, and small in ONNX for every size of the feature map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from pipeline import models
from pipeline.export.graphs import CoreGraph
from pipeline.export.onnx_file import export
from pipeline.models._pooling import MatrixAvgPool2d, replace_adaptive_pooling


@pytest.mark.parametrize("bins", [(1, 1), (2, 2), (3, 3), (6, 6), (2, 5), (7, 1)])
def test_matrix_pooling_is_adaptive_pooling(bins: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    for height in range(1, 20):
        for width in (1, 2, 5, 6, 7, 12, 31):
            features = torch.randn(2, 3, height, width, dtype=torch.float64, generator=generator)
            expected = nn.AdaptiveAvgPool2d(bins)(features)
            torch.testing.assert_close(MatrixAvgPool2d(bins)(features), expected, rtol=1e-13, atol=1e-13)


def test_only_pooling_into_several_bins_is_replaced() -> None:
    kept = [nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((None, 2))]
    net = nn.Sequential(*kept, nn.AdaptiveAvgPool2d(3), nn.Sequential(nn.AdaptiveAvgPool2d((2, 4))))
    features = torch.randn(1, 2, 7, 9, dtype=torch.float64)
    expected = net[3][0](features)  # type: ignore[index]
    replace_adaptive_pooling(net)
    assert list(net[:2]) == kept
    assert [type(net[2]), type(net[3][0])] == [MatrixAvgPool2d, MatrixAvgPool2d]  # type: ignore[index]
    torch.testing.assert_close(net[3][0](features), expected)  # type: ignore[index]


def test_pspnet_exports_small_where_no_bin_divides(tmp_path: Path, run_onnx: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    options = {"architecture": "pspnet", "encoder": "resnet18"}
    network = models.build("smp", options, num_classes=5).eval()
    size = (104, 136)  # stride 8: a feature map of 13 x 17
    file = tmp_path / "core.onnx"
    export(CoreGraph(network), torch.zeros(1, 3, *size), file, inputs="x", outputs="logits")
    kinds = Counter(node.op_type for node in onnx.load(file).graph.node)
    assert sum(kinds.values()) < 150
    assert not {"Gather", "GatherND", "GatherElements", "Slice", "ScatterND"} & set(kinds)
    assert kinds["MatMul"] == 6

    library = smp.create_model("pspnet", encoder_name="resnet18", encoder_weights=None, classes=5).eval()
    library.load_state_dict(network.net.state_dict())  # type: ignore[union-attr]
    image = torch.randn(1, 3, *size)
    with torch.inference_mode():
        features = library.decoder(library.encoder(image))
        expected = library.segmentation_head[0](features).numpy()
    np.testing.assert_allclose(run_onnx(file, image.numpy()), expected, atol=1e-4)
