"""torchvision's networks: equal to the library's, with true declarations, and able to load the library's weights."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as library
from torch import Tensor, nn
from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights

from pipeline import artifact, models
from pipeline.errors import UserError
from pipeline.models import SegNetwork
from pipeline.models.torchvision import NETWORKS, STAGES
from pipeline.models.weights import published

MATRIX = [(architecture, encoder) for architecture, encoders in NETWORKS.items() for encoder in encoders]
VOC = LRASPP_MobileNet_V3_Large_Weights.DEFAULT.meta["categories"]


def build(architecture: str, encoder: str, classes: tuple[str, ...] = tuple("abcde"), **options: Any) -> SegNetwork:
    arguments = {"architecture": architecture, "encoder": encoder, **options}
    return models.build("torchvision", arguments, num_classes=len(classes), classes=classes).eval()


def original(architecture: str, encoder: str, num_classes: int, **options: Any) -> nn.Module:
    """The library's network with other statistics of batch norm than the initial ones."""
    torch.manual_seed(1)
    name = f"{architecture}_{encoder}"
    network = library.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes, **options).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.7, 1.5)
    checked: nn.Module = network
    return checked


def test_every_network_of_the_library_is_there() -> None:
    names = library.list_models(module=library.segmentation)
    assert sorted(f"{architecture}_{encoder}" for architecture, encoder in MATRIX) == sorted(names)


@pytest.mark.parametrize(("architecture", "encoder"), [("fcn", "resnet50"), ("lraspp", "mobilenet_v3_large")])
def test_normalisation_and_encoder_are_the_librarys(architecture: str, encoder: str) -> None:
    network = build(architecture, encoder)
    transforms = library.get_model_weights(f"{architecture}_{encoder}").DEFAULT.transforms()
    assert (list(network.mean), list(network.std)) == (transforms.mean, transforms.std)
    assert network.encoder is network.net.backbone


def test_stages_are_the_librarys_own_levels() -> None:
    """C0 to C5 of MobileNetV3 as torchvision's segmentation code finds them."""
    features = library.mobilenet_v3_large(weights=None, dilated=True).features
    levels = [0, *(i for i, block in enumerate(features) if getattr(block, "_is_cn", False)), len(features) - 1]
    assert tuple(map(str, levels)) == STAGES["mobilenet"][0]


@pytest.mark.parametrize(("architecture", "encoder"), [each for each in MATRIX if each[1] != "resnet101"])
def test_a_checkpoint_gives_the_librarys_output(tmp_path: Path, architecture: str, encoder: str) -> None:
    auxiliary = {} if architecture == "lraspp" else {"aux_loss": True}
    theirs = original(architecture, encoder, 4, **auxiliary)
    torch.save({"model": {f"module.{name}": value for name, value in theirs.state_dict().items()}}, tmp_path / "x.pth")
    options = {"weights": str(tmp_path / "x.pth"), "weights_classes": list("dxcb")}
    network = build(architecture, encoder, ("b", "c", "d"), **options)
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected: Tensor = theirs(image)["out"][:, [3, 2, 0]]
        upsampled = F.interpolate(network(image).logits, size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsampled, expected, rtol=1e-4, atol=1e-5)
    assert network.initial_weights["random"] == []
    if not auxiliary:
        return
    network = build(architecture, encoder, ("b", "c", "d"), **options, aux_loss=True)
    with torch.inference_mode():
        expected = theirs(image)["aux"][:, [3, 2, 0]]
        assert network(image).aux is None
        for module in network.modules():  # its modules stay in eval mode, as in `theirs`
            module.training = module is network
        aux = network(image).aux
        network.eval().auxiliary_in_eval(True)
        assert aux is not None and torch.equal(network(image).aux, aux)
    aux = F.interpolate(aux, size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(aux, expected, rtol=1e-4, atol=1e-5)


def test_an_artifact_of_lraspp_is_read_again(tmp_path: Path) -> None:
    """Its two classifiers are one here, in the artifact too."""
    donor = build("lraspp", "mobilenet_v3_large")
    torch.save(donor.state_dict(), tmp_path / "own.pth")
    options = {"weights": str(tmp_path / "own.pth"), "weights_classes": list("abcde")}
    reloaded = build("lraspp", "mobilenet_v3_large", **options)
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(reloaded(image).logits, donor(image).logits)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache with LRASPP's file as if it were published, under the name that its own sha256 gives it."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save(original("lraspp", "mobilenet_v3_large", 21).state_dict(), folder / "x.pth")
    digest = hashlib.sha256((folder / "x.pth").read_bytes()).hexdigest()
    file = (folder / "x.pth").rename(folder / f"lraspp_mobilenet_v3_large-{digest[:8]}.pth")
    entry = LRASPP_MobileNet_V3_Large_Weights.DEFAULT
    changed = SimpleNamespace(
        DEFAULT=SimpleNamespace(
            url=f"https://download.pytorch.org/models/{file.name}", meta=entry.meta, transforms=entry.transforms
        )
    )
    monkeypatch.setattr(library, "get_model_weights", lambda name: changed)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return file


def test_published_weights_know_their_classes(cache: Path, tmp_path: Path) -> None:
    """From the cache, and as a file of any name whose sha256 is the published one."""
    classes = ("person", "background", "TV monitor")
    options: dict[str, Any] = {"class_map": {"background": "__background__"}}
    default = build("lraspp", "mobilenet_v3_large", classes, weights="default", **options)
    assert default.initial_weights["source"] == cache.name
    assert default.initial_weights["classes"]["TV monitor"] == "tvmonitor" and "tvmonitor" in VOC
    file = cache.rename(tmp_path / "mine.pth")
    from_file = build("lraspp", "mobilenet_v3_large", classes, weights=str(file), **options)
    assert from_file.initial_weights == {**default.initial_weights, "source": "mine.pth"}
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(default(image).logits, from_file(image).logits)


def test_a_download_happens_only_on_request(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []

    def download(url: str, target: str, *, hash_prefix: str, progress: bool) -> None:
        requests.append((url, hash_prefix))
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    build("lraspp", "mobilenet_v3_large")
    build("lraspp", "mobilenet_v3_large", tuple(VOC), weights="default")
    assert not requests, "null needs nothing, and what is in the cache is not fetched again"
    cache.unlink()
    with pytest.raises(UserError, match=r"could not be downloaded \(no route to host\); download it elsewhere"):
        build("lraspp", "mobilenet_v3_large", weights="default")
    assert requests == [(f"https://download.pytorch.org/models/{cache.name}", cache.stem.split("-")[1])]


def test_digests_of_the_librarys_own_names() -> None:
    """The name of a published file ends with the first digits of its sha256; by them the file is recognised."""
    for architecture, encoder in MATRIX:
        weights = library.get_model_weights(f"{architecture}_{encoder}").DEFAULT
        digest = weights.url.rsplit("-", 1)[1].removesuffix(".pth")
        known = artifact_like(sha256=digest + "0" * 56)
        assert published.recognised(known, weights).classes == tuple(weights.meta["categories"])
        other = replace(known, sha256="f" * 64 if digest[0] != "f" else "0" * 64)
        assert published.recognised(other, weights).classes is None


def artifact_like(sha256: str) -> Any:
    return published.Checkpoint(source="x.pth", sha256=sha256, tensors={})


@pytest.mark.parametrize(("encoder", "prefix"), [("mobilenet_v3_large", "features."), ("resnet50", "")])
def test_an_encoder_from_a_classifier(tmp_path: Path, encoder: str, prefix: str) -> None:
    donor = library.get_model(encoder, weights=None)
    torch.save(donor.state_dict(), tmp_path / "x.pth")
    network = build("deeplabv3", encoder, encoder_weights=str(tmp_path / "x.pth"))
    assert network.encoder is not None
    assert all(
        torch.equal(value, donor.state_dict()[prefix + name]) for name, value in network.encoder.state_dict().items()
    )
    assert network.initial_weights == {
        "source": "x.pth",
        "sha256": artifact.sha256(tmp_path / "x.pth"),
        "random": ["classifier"],
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "deeplabv33", "encoder": "resnet50"}, "did you mean 'deeplabv3'"),
        (
            {"architecture": "fcn", "encoder": "mobilenet_v3_large"},
            "no fcn with 'mobilenet_v3_large'; allowed: resnet101",
        ),
        ({"architecture": "lraspp", "encoder": "mobilenet_v3_large", "aux_loss": True}, "no auxiliary classifier"),
        (
            {"architecture": "fcn", "encoder": "resnet50", "weights": "default", "encoder_weights": "imagenet"},
            r"model.encoder_weights: got 'imagenet'; leave it out",
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        models.build("torchvision", options, num_classes=2, classes=("a", "b"))
