"""Pretrained encoders keep the mean and deviation of their training, from the first step to the exported graph."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file

from pipeline import models
from pipeline.export.graphs import DeployGraph
from pipeline.labels import LabelSpec
from pipeline.models.weights import network_artifact
from pipeline.models.weights.normalisation import IMAGENET_MEAN, IMAGENET_STD

LITE: dict[str, Any] = {
    "architecture": "fpn",
    "encoder": "tu-tf_efficientnet_lite0",
    "options": {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32},
}
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(autouse=True)
def without_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors stay random; the configuration that comes with them is timm's own."""
    create = smp.create_model

    def random(*args: Any, encoder_weights: str | None, **options: Any) -> Any:
        return create(*args, encoder_weights=None, **options)

    monkeypatch.setattr(smp, "create_model", random)


@pytest.mark.parametrize(
    ("encoder", "mean", "std"),
    [
        ("tu-tf_efficientnet_lite0", HALF, HALF),
        ("tu-mobilevit_xxs", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        ("tu-resnet10t", IMAGENET_MEAN, IMAGENET_STD),
    ],
)
def test_the_pretrained_configuration_gives_mean_and_std(
    encoder: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    network = models.build("smp", {**LITE, "encoder": encoder, "encoder_weights": "imagenet"}, num_classes=2)
    assert (network.mean, network.std) == (mean, std)
    own = timm.models.get_pretrained_cfg(encoder.removeprefix("tu-"))
    assert own is not None and (own.mean, own.std) == (mean, std)
    expected = {"mean": list(mean), "std": list(std)}
    assert network.initial_weights["normalisation"] == expected and network.initial_weights["source"] == "imagenet"


def test_the_configuration_is_that_of_the_encoder_not_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """smp does not find that of tu-hf-hub:timm/resnet18.a1_in1k."""

    def unknown(name: str) -> Any:
        raise ValueError(f"{name} does not have pretrained weights and preprocessing parameters")

    monkeypatch.setattr(smp.encoders, "get_preprocessing_params", unknown)
    network = models.build("smp", {**LITE, "encoder_weights": "imagenet"}, num_classes=2)
    assert (network.mean, network.std) == (HALF, HALF)


def test_encoders_of_smp_have_theirs_in_a_file_beside_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"mean": HALF, "std": HALF, "input_space": "RGB", "input_range": [0, 1]}))
    monkeypatch.setattr(smp.encoders, "hf_hub_download", lambda *args, **options: str(config))
    network = models.build("smp", {**LITE, "encoder": "resnet18", "encoder_weights": "imagenet"}, num_classes=2)
    assert (network.mean, network.std) == (HALF, HALF)


def test_random_weights_keep_imagenets() -> None:
    network = models.build("smp", LITE, num_classes=2)
    assert (network.mean, network.std) == (IMAGENET_MEAN, IMAGENET_STD) and not network.initial_weights


def test_a_configuration_of_timm_beside_an_encoder_counts(tmp_path: Path) -> None:
    state = models.build("smp", LITE, num_classes=2).net.encoder.state_dict()  # type: ignore[union-attr,operator]
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "x", "pretrained_cfg": {"mean": HALF, "std": HALF}})
    )
    network = models.build("smp", {**LITE, "encoder_weights": str(tmp_path)}, num_classes=2)
    assert (network.mean, network.std) == (HALF, HALF)


def test_a_file_that_states_none_is_warned_of_where_timm_has_other_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The values in use are ImageNet's; the file may have timm's weights, or others."""
    for encoder, warned in (("tu-tf_efficientnet_lite0", True), ("tu-resnet10t", False)):
        state = models.build("smp", {**LITE, "encoder": encoder}, num_classes=2).net.encoder.state_dict()  # type: ignore[union-attr,operator]
        save_file(state, tmp_path / "model.safetensors")
        options = {**LITE, "encoder": encoder, "encoder_weights": str(tmp_path / "model.safetensors")}
        caplog.clear()
        network = models.build("smp", options, num_classes=2)
        assert (network.mean, network.std) == (IMAGENET_MEAN, IMAGENET_STD)
        text = "model.safetensors states no mean and deviation, so frames are normalised with ImageNet's"
        assert (text in caplog.text) == warned
        assert ("model.mean: [0.5, 0.5, 0.5], model.std: [0.5, 0.5, 0.5]" in caplog.text) == warned
        caplog.clear()
        models.build("smp", {**options, "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}, num_classes=2)
        assert not caplog.text, "the user has chosen"


def test_options_win_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    options = {**LITE, "encoder_weights": "imagenet", "mean": list(IMAGENET_MEAN)}
    with caplog.at_level(logging.WARNING):
        network = models.build("smp", options, num_classes=2)
    assert (network.mean, network.std) == (IMAGENET_MEAN, HALF)
    assert "imagenet was trained with another normalisation than model.mean: [0.485" in caplog.text
    assert "use model.mean: [0.5, 0.5, 0.5], model.std: [0.5, 0.5, 0.5], or leave both out" in caplog.text


def test_the_normalisation_survives_the_artifact_and_is_in_the_deploy_graph(tmp_path: Path) -> None:
    """An artifact holds no option for it: it is built again without initial weights."""
    options = {**LITE, "encoder_weights": "imagenet"}
    network = models.build("smp", options, num_classes=2).eval()
    network_artifact.save(
        tmp_path / "student", network, name="smp", options=options, input_size=(64, 96), facts={},
        labels=LabelSpec(names=("a", "b"), palette=((0, 0, 0), (9, 9, 9))),
    )  # fmt: skip
    loaded, stored = network_artifact.load(tmp_path / "student")
    assert (loaded.mean, loaded.std) == (HALF, HALF)
    assert (stored.meta["mean"], stored.meta["std"]) == ([0.5] * 3, [0.5] * 3)
    assert stored.meta["initial_weights"]["normalisation"] == {"mean": [0.5] * 3, "std": [0.5] * 3}
    white = torch.full((1, 64, 96, 3), 255, dtype=torch.uint8)
    assert torch.allclose(DeployGraph(loaded, input_size=(64, 96)).to_input(white), torch.ones(1, 3, 64, 96))
