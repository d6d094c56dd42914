"""Contract of every architecture: declared facts are true, and the output has the form that losses expect."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import models, plugins
from pipeline.errors import UserError
from pipeline.models.torchvision import NETWORKS
from pipeline.models.weights.normalisation import problem

MATRIX = [
    ("deeplabv3", "resnet18"),
    ("deeplabv3plus", "tu-tf_mobilenetv3_small_minimal_100"),
    ("pspnet", "resnet18"),
    ("fpn", "mobilenet_v2"),
    ("unet", "resnet18"),
    ("segformer", "mit_b0"),
]
PLUGINS = {
    "smp": MATRIX,
    "torchvision": [(architecture, encoder) for architecture, encoders in NETWORKS.items() for encoder in encoders],
}


def test_every_plugin_keeps_the_contract() -> None:
    assert sorted(PLUGINS) == models.available()


@pytest.mark.parametrize(
    ("plugin", "architecture", "encoder"), [(plugin, *each) for plugin, matrix in PLUGINS.items() for each in matrix]
)
def test_declared_facts_are_true(plugin: str, architecture: str, encoder: str) -> None:
    network = models.build(plugin, {"architecture": architecture, "encoder": encoder}, num_classes=5).eval()
    facts = network.facts
    with torch.inference_mode():
        output = network(torch.randn(2, 3, 64, 96))
    assert output.logits.shape == (2, 5, 64 // facts.output_stride, 96 // facts.output_stride)
    assert output.embedding.shape == (2, facts.channels, *output.logits.shape[-2:])
    assert tuple(stage.shape[1] for stage in output.stages) == facts.stage_channels
    assert 64 % facts.divisor == 0 and output.aux is None
    assert network.encoder is not None and set(network.encoder.parameters()) < set(network.parameters())
    assert network.initial_weight_options <= set(plugins.keys(type(network))) and not network.initial_weights


@pytest.mark.parametrize(("architecture", "encoder"), MATRIX)
def test_the_encoder_computes_the_stages(architecture: str, encoder: str) -> None:
    network = models.build("smp", {"architecture": architecture, "encoder": encoder}, num_classes=5).eval()
    assert network.encoder is not None
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        stages = [stage for stage in network.encoder(image)[1:] if stage.shape[1]]
        for expected, stage in zip(stages, network(image).stages, strict=True):
            assert torch.equal(expected, stage)
    inside = {id(parameter) for parameter in network.encoder.parameters()}
    outside = [name for name, parameter in network.named_parameters() if id(parameter) not in inside]
    assert inside and any("segmentation_head" in name for name in outside)


def test_output_equals_the_library_before_upsampling() -> None:
    network = models.build("smp", {"architecture": "deeplabv3plus", "encoder": "resnet18"}, num_classes=4).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        logits = network(image).logits
        upsampled = network.net.segmentation_head[2](network.net.segmentation_head[1](logits))  # type: ignore[union-attr,index]
        assert torch.equal(upsampled, network.net(image))  # type: ignore[operator]


def test_a_local_encoder_loads_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    options = {"architecture": "fpn", "encoder": "resnet18"}
    donor = models.build("smp", options, num_classes=2)
    state = {key: value + 1 for key, value in donor.net.encoder.state_dict().items() if not key.startswith("layer4")}  # type: ignore[union-attr,operator]
    file = tmp_path / "encoder.safetensors"
    save_file(state, file)
    with pytest.raises(UserError, match=r"(?s)tensors missing.*layer4.*allow_missing"):
        models.build("smp", {**options, "encoder_weights": str(file)}, num_classes=2)
    loaded = models.build("smp", {**options, "encoder_weights": str(file), "allow_missing": ["layer4"]}, num_classes=2)
    assert torch.equal(loaded.net.encoder.state_dict()["conv1.weight"], state["conv1.weight"])  # type: ignore[union-attr,operator]
    with pytest.raises(UserError, match="unexpected"):
        models.build(
            "smp", {"architecture": "fpn", "encoder": "mobilenet_v2", "encoder_weights": str(file)}, num_classes=2
        )
    file.write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        models.build("smp", {**options, "encoder_weights": str(file)}, num_classes=2)


@pytest.mark.parametrize(
    ("encoder", "file", "missing"),
    [
        ("mobilenet_v2", "mobilenet_v2-imagenet.safetensors", []),
        ("resnet18", "resnet18-imagenet-layer1to3.safetensors", ["layer4"]),
    ],
)
def test_real_imagenet_encoders_load(real_data: Path, encoder: str, file: str, missing: list[str]) -> None:
    weights = real_data / "weights" / file
    options = {"architecture": "fpn", "encoder": encoder, "encoder_weights": str(weights), "allow_missing": missing}
    network = models.build("smp", options, num_classes=2)
    file_weights, loaded = load_file(weights), network.net.encoder.state_dict()  # type: ignore[union-attr,operator]
    assert file_weights and all(torch.equal(loaded[key], value) for key, value in file_weights.items() if key in loaded)


@pytest.mark.parametrize("plugin", sorted(PLUGINS))
def test_another_normalisation(plugin: str) -> None:
    architecture, encoder = PLUGINS[plugin][0]
    options = {"architecture": architecture, "encoder": encoder}
    network = models.build(plugin, {**options, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 1.0]}, num_classes=2)
    assert (network.mean, network.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 1.0))
    assert not {"mean", "std"} & network.initial_weight_options, "a trained network is built again with them"
    for wrong in ({"mean": []}, {"mean": [0.5]}, {"std": [0.5, 0.5]}, {"std": [0.5, 0.0, 0.5]}):
        with pytest.raises(UserError, match=r"model\.(mean|std): got .*; allowed: (three numbers each|0..1, std ab)"):
            models.build(plugin, {**options, **wrong}, num_classes=2)


BYTES = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
USE = "use mean: [0.485, 0.456, 0.406], std: "


@pytest.mark.parametrize(
    ("mean", "std", "advice"),
    [
        (*BYTES.values(), USE + "[0.229, 0.224, 0.225]"),
        (BYTES["mean"], [0.229, 0.224, 0.225], USE + "[0.229, 0.224, 0.225]"),
        (BYTES["mean"][::-1], [1.0, 1.0, 1.0], "blue, green, red; " + USE + "[0.003922, 0.003922, 0.003922]"),
        ([127.5] * 3, [127.5] * 3, "use mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]"),
        ([0.485, 0.456, 0.406], BYTES["std"], USE + "[0.229, 0.224, 0.225]"),
        ([0.0, 0.0, 0.0], [255.0] * 3, "use mean: [0.0, 0.0, 0.0], std: [1.0, 1.0, 1.0]"),
        (BYTES["mean"], None, "use mean: [0.485, 0.456, 0.406]"),
        ([-0.1, 0.5, 0.5], None, "mean: got [-0.1, 0.5, 0.5]; allowed: 0..1"),
        ([31000.0, 31000.0, 31000.0], None, "allowed: 0..1"),
        ([0.5, float("nan"), 0.5], None, "three numbers each"),
        (None, [0.2, 0.2, float("inf")], "three numbers each"),
        (None, [0.2, -0.2, 0.2], "std above 0"),
        ([0.5] * 4, None, "three numbers each"),
        ([0.0] * 3, [1.0] * 3, None),
        (None, None, None),
    ],
)
def test_a_normalisation_of_bytes_gets_the_numbers_to_use(
    mean: list[float] | None, std: list[float] | None, advice: str | None
) -> None:
    message = problem(mean, std)
    assert (message is None) == (advice is None) and (
        advice is None or (message or "").endswith(advice) or advice in (message or "")
    )
    assert advice is None or "use " in advice or "use " not in (message or "")


def test_imagenets_mean_in_the_order_of_opencv_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    options = {"architecture": "fpn", "encoder": "tu-tf_mobilenetv3_small_minimal_100"}
    models.build("smp", {**options, "mean": [0.406, 0.456, 0.485]}, num_classes=2)
    assert "in the order blue, green, red; the order here is red, green, blue" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "deeplabv3pluss", "encoder": "resnet18"}, "did you mean 'deeplabv3plus'"),
        ({"architecture": "fpn", "encoder": "resnet19"}, "did you mean 'resnet18'"),
        ({"architecture": "fpn", "encoder": "tu-no_such_net"}, "tu-no_such_net"),
        ({"architecture": "fpn", "encoder": "resnet18", "options": {"no_such": 1}}, "no_such"),
    ],
)
def test_unknown_names_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        models.build("smp", options, num_classes=2)
