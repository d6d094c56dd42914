"""The auxiliary head: only training runs it, and no deployed network has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from pipeline import models
from pipeline.errors import UserError
from pipeline.export.graphs import CoreGraph
from pipeline.export.onnx_file import export
from pipeline.labels import LabelSpec
from pipeline.models import SegNetwork
from pipeline.models.weights import network_artifact

CLASSES = ("road", "car", "sky")
LABELS = LabelSpec(names=CLASSES, palette=((0, 0, 0), (1, 1, 1), (2, 2, 2)), ignore_index=255)
OPTIONS: dict[str, Any] = {
    "architecture": "fpn",
    "encoder": "tu-tf_mobilenetv3_small_minimal_100",
    "options": {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32},
}
DILATED: dict[str, Any] = {
    "architecture": "deeplabv3",
    "encoder": "resnet18",
    "options": {"encoder_output_stride": 8, "decoder_channels": 32},
}


def build(*, seed: int = 0, **options: Any) -> SegNetwork:
    torch.manual_seed(seed)
    return models.build("smp", {**OPTIONS, **options}, num_classes=len(CLASSES), classes=CLASSES)


@pytest.mark.parametrize(
    ("options", "channels", "stride"),
    [
        (DILATED, 256, 8),  # layer3, as in the protocol of CIRKD
        ({**DILATED, "options": {"encoder_output_stride": 16}}, 256, 16),
        ({"architecture": "deeplabv3plus", "encoder": "tu-efficientnet_lite0", "options": {}}, 112, 16),
        ({"architecture": "segformer", "encoder": "mit_b0", "options": {}}, 160, 16),
        ({"architecture": "pspnet", "encoder": "resnet18", "options": {}}, 64, 4),  # smp gives it three stages
    ],
    ids=lambda value: value["architecture"] if isinstance(value, dict) else "",
)
def test_it_is_on_the_last_but_one_stage_while_training(options: dict[str, Any], channels: int, stride: int) -> None:
    network = build(aux_loss=True, **options)
    head = network.auxiliary
    assert isinstance(head, nn.Sequential)
    first, norm, relu, dropout, last = head
    assert (first.in_channels, first.out_channels, first.kernel_size) == (channels, channels // 4, (3, 3))
    assert isinstance(norm, nn.BatchNorm2d) and isinstance(relu, nn.ReLU) and dropout.p == 0.1
    assert last.kernel_size == (1, 1) and last.out_channels == len(CLASSES)
    image = torch.randn(2, 3, 64, 96)
    output = network.train()(image)
    assert output.aux.shape == (2, len(CLASSES), 64 // stride, 96 // stride)
    assert output.stages[-2].shape[1] == channels
    network.eval()
    assert network(image).aux is None
    network.auxiliary_in_eval(True)
    assert torch.equal(network(image).aux, head(output_of(network, image)))
    network.auxiliary_in_eval(False)
    assert network(image).aux is None


def output_of(network: SegNetwork, image: torch.Tensor) -> torch.Tensor:
    stage: torch.Tensor = network(image).stages[-2]
    return stage


def test_the_rest_of_the_network_is_the_same_without_it() -> None:
    plain, with_head = build(), build(aux_loss=True)
    assert plain.auxiliary is None
    theirs = with_head.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in plain.state_dict().items())
    image = torch.randn(1, 3, 64, 96)
    assert torch.equal(plain.eval()(image).logits, with_head.eval()(image).logits)
    assert plain.train()(image.repeat(2, 1, 1, 1)).aux is None
    assert with_head.deployed_parameters == plain.deployed_parameters == sum(p.numel() for p in plain.parameters())


def test_the_exported_graph_has_none(tmp_path: Path) -> None:
    files = []
    for number, network in enumerate((build(), build(aux_loss=True))):
        files.append(tmp_path / f"{number}.onnx")
        export(CoreGraph(network.eval()), torch.randn(1, 3, 64, 96), files[-1], inputs="x", outputs="logits")
    first, second = ([sorted(i.name for i in onnx.load(f).graph.initializer), f.read_bytes()] for f in files)
    assert first == second


def save(path: Path, network: SegNetwork, **options: Any) -> Path:
    network_artifact.save(
        path, network, name="smp", options={**OPTIONS, **options}, labels=LABELS, input_size=(64, 96), facts={}
    )
    return path


def test_an_artifact_keeps_it_and_counts_the_deployed_parameters(tmp_path: Path) -> None:
    network = build(aux_loss=True)
    loaded, stored = network_artifact.load(save(tmp_path / "with", network, aux_loss=True))
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())
    plain, without = network_artifact.load(save(tmp_path / "without", build()))
    assert plain.auxiliary is None and "aux_loss" not in without.meta["model"]["options"]  # as older versions wrote it
    assert stored.meta["parameters"] == without.meta["parameters"] == plain.deployed_parameters


def test_weights_with_it_fit_a_network_without_and_the_other_way_round(tmp_path: Path) -> None:
    folder = save(tmp_path / "with", build(aux_loss=True), aux_loss=True)
    again = build(seed=1, aux_loss=True, weights=str(folder))
    assert again.initial_weights["random"] == []
    plain = build(seed=1, weights=str(folder))
    image = torch.randn(1, 3, 64, 96)
    assert torch.equal(plain.eval()(image).logits, again.eval()(image).logits)
    folder = save(tmp_path / "without", build())
    with pytest.raises(UserError, match=r"(?s)7 tensors missing in the file: auxiliary_head .*allow_missing"):
        build(aux_loss=True, weights=str(folder))
    started = build(aux_loss=True, weights=str(folder), allow_missing=["auxiliary_head"])
    assert started.initial_weights["random"] == ["auxiliary_head"]


def test_rows_of_its_classifier_follow_the_classes(tmp_path: Path) -> None:
    network = build(aux_loss=True)
    folder = save(tmp_path / "with", network, aux_loss=True)
    options = {**OPTIONS, "aux_loss": True, "weights": str(folder)}
    turned = models.build("smp", options, num_classes=3, classes=("sky", "car", "road"))
    state = network.state_dict()
    for name in ("net.auxiliary_head.4.weight", "net.segmentation_head.0.weight"):
        assert torch.equal(turned.state_dict()[name], state[name].flip(0))
