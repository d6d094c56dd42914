"""Weights of whole smp networks: names, shapes and class order are converted to ours, or one clear message."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline import artifact, licence, models
from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.models import SegNetwork
from pipeline.models.weights import network_artifact
from pipeline.models.weights.normalisation import IMAGENET_MEAN, IMAGENET_STD

THEIRS = ["Car", "road", "traffic light", "sky"]
OURS = ("road", "car", "traffic_light")
OPTIONS: dict[str, Any] = {
    "architecture": "fpn",
    "encoder": "tu-tf_mobilenetv3_small_minimal_100",
    "options": {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32},
}
KEYWORDS = {"encoder_name": OPTIONS["encoder"], "encoder_weights": None, **OPTIONS["options"]}


@pytest.fixture(scope="module")
def foreign() -> nn.Module:
    """Another project's network: four classes in its own order, batch norm's statistics not the initial ones."""
    torch.manual_seed(7)
    network = smp.create_model("fpn", classes=len(THEIRS), **KEYWORDS).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean, 0, 0.2)
    return network


def build(weights: Path | str, classes: tuple[str, ...] = OURS, **options: Any) -> SegNetwork:
    arguments = {**OPTIONS, "weights": str(weights), **options}
    return models.build("smp", arguments, num_classes=len(classes), classes=classes).eval()


def expected(foreign: nn.Module, image: Tensor) -> Tensor:
    """Logits of our classes by hand: rows 1, 0 and 2 of the owner's head."""
    with torch.inference_mode():
        head = foreign.segmentation_head[0]  # type: ignore[index]
        rows: Tensor = head(foreign.decoder(foreign.encoder(image)))  # type: ignore[operator]
        return rows[:, [1, 0, 2]]


def close(computed: Tensor, reference: Tensor) -> None:
    """Equal except for the rounding of a convolution with another number of channels."""
    torch.testing.assert_close(computed, reference, rtol=1e-5, atol=1e-5)


def test_a_file_gives_the_owners_logits_in_our_order(tmp_path: Path, foreign: nn.Module) -> None:
    file = tmp_path / "foreign.pth"
    torch.save({"state_dict": {f"module.model.{k}": v for k, v in foreign.state_dict().items()}}, file)
    network = build(file, weights_classes=THEIRS)
    image = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        close(network(image).logits, expected(foreign, image))
    assert network.initial_weights == {
        "source": "foreign.pth",
        "sha256": artifact.sha256(file),
        "classes": {"road": "road", "car": "Car", "traffic_light": "traffic light"},
        "random": [],
    }


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "net.", "_orig_mod.module.", "model.net."])
def test_prefixes_of_wrappers_are_removed_and_logged(
    tmp_path: Path, foreign: nn.Module, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    save_file({f"{prefix}{k}": v for k, v in foreign.state_dict().items()}, tmp_path / "x.safetensors")
    assert not build(tmp_path / "x.safetensors", weights_classes=THEIRS).initial_weights["random"]
    assert (f"x.safetensors: names of tensors are read without '{prefix}'" in caplog.text) == bool(prefix)
    assert "uses 3 of its 4 classes; not: sky" in caplog.text


def test_a_folder_of_save_pretrained(tmp_path: Path, foreign: nn.Module) -> None:
    foreign.save_pretrained(tmp_path / "hub")  # type: ignore[operator]
    config = tmp_path / "hub/config.json"
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        close(build(tmp_path / "hub", weights_classes=THEIRS)(image).logits, expected(foreign, image))
    with pytest.raises(UserError, match="does not name its 4 classes"):
        build(tmp_path / "hub")
    facts = json.loads(config.read_text())
    config.write_text(json.dumps({**facts, "id2label": dict(enumerate(THEIRS))}))
    assert build(tmp_path / "hub").initial_weights["source"] == "hub/model.safetensors"
    wrong = {"encoder": "resnet18", "options": {**OPTIONS["options"], "decoder_dropout": 0.5}}
    with pytest.raises(UserError) as caught:
        build(tmp_path / "hub", **wrong)
    assert "2 problems" in str(caught.value)
    assert f"model.encoder: got 'resnet18'; the weights are of {OPTIONS['encoder']}" in str(caught.value)
    assert "model.options.decoder_dropout: got 0.5; the weights are of 0.2" in str(caught.value)
    with pytest.raises(UserError, match=r"model.architecture: got 'unet'; the weights are of fpn"):
        build(tmp_path / "hub", architecture="unet", options={})


def test_an_artifact_of_segpress_knows_its_classes(tmp_path: Path, foreign: nn.Module) -> None:
    labels = LabelSpec(names=("sky", "car", "road", "traffic light"), palette=((0, 0, 0),) * 4)
    donor = build(write(tmp_path, foreign), classes=labels.names, weights_classes=THEIRS)
    options = {**OPTIONS, "weights": "elsewhere.pth", "weights_classes": THEIRS, "class_map": {}}
    network_artifact.save(
        tmp_path / "teacher", donor, name="smp", options=options, labels=labels, input_size=(64, 96), facts={}
    )
    reloaded, stored = network_artifact.load(tmp_path / "teacher")
    assert stored.meta["model"]["options"] == OPTIONS, "what chose the first weights is not needed again"
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(reloaded(image).logits, donor(image).logits)
        for weights in (tmp_path / "teacher", tmp_path / "teacher/weights.safetensors"):
            close(build(weights)(image).logits, expected(foreign, image))
    (tmp_path / "teacher/weights.safetensors").write_bytes(b"changed")
    with pytest.raises(UserError, match="was changed after it was written"):
        build(tmp_path / "teacher")


def test_the_licence_of_a_checkpoint_is_kept(tmp_path: Path, foreign: nn.Module) -> None:
    state = {k: v.contiguous() for k, v in foreign.state_dict().items()}
    save_file(state, tmp_path / "x.safetensors", metadata={"license": "cc-by-nc-4.0"})
    network = build(tmp_path / "x.safetensors", weights_classes=THEIRS)
    assert network.initial_weights["licence"]["commercial"] is False
    torch.save({"state_dict": state, "license": "MIT"}, tmp_path / "x.pth")
    assert build(tmp_path / "x.pth", weights_classes=THEIRS).initial_weights["licence"]["name"] == "MIT"
    foreign.save_pretrained(tmp_path / "hub")  # type: ignore[operator]
    config = tmp_path / "hub/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "license": "apache-2.0"}))
    assert build(tmp_path / "hub", weights_classes=THEIRS).initial_weights["licence"]["commercial"] is True
    labels = LabelSpec(names=OURS, palette=((0, 0, 0),) * 3)
    sources = [licence.data({"dataset": "camvid"}), *licence.weights(network.initial_weights)]
    network_artifact.save(
        tmp_path / "ours", network, name="smp", options=OPTIONS, labels=labels, input_size=(64, 96),
        facts={"licences": sources},
    )  # fmt: skip
    stated = build(tmp_path / "ours").initial_weights["licence"]
    assert (stated["name"], stated["commercial"]) == ("not stated, cc-by-nc-4.0", False), "of its data and weights"


def test_an_artifact_with_best_and_last_weights_gives_the_best_ones(tmp_path: Path, foreign: nn.Module) -> None:
    """As every training writes it."""
    labels = LabelSpec(names=OURS, palette=((0, 0, 0),) * 3)
    donor = build(write(tmp_path, foreign), weights_classes=THEIRS)
    last = {name: torch.zeros_like(tensor) for name, tensor in donor.state_dict().items()}
    facts = {"best_step": 1, "metrics": {}, "last": {"step": 2, "metrics": {}}}
    network_artifact.save(
        tmp_path / "teacher", donor, name="smp", options=OPTIONS, labels=labels, input_size=(64, 96), facts=facts,
        last=last,
    )  # fmt: skip
    network = build(tmp_path / "teacher")
    file = tmp_path / "teacher" / network_artifact.WEIGHTS
    assert network.initial_weights["sha256"] == artifact.sha256(file)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in donor.state_dict().items())
    assert not any(tensor.any() for tensor in build(tmp_path / "teacher/last.safetensors").state_dict().values())


def write(folder: Path, network: nn.Module, **changes: Tensor | None) -> Path:
    """A checkpoint of the network; tensors under the given names (``__`` for a dot) are replaced, or left out."""
    state = {**network.state_dict(), **{name.replace("__", "."): tensor for name, tensor in changes.items()}}
    save_file({k: v.contiguous() for k, v in state.items() if v is not None}, folder / "x.safetensors")
    return folder / "x.safetensors"


def test_all_misfits_are_reported_at_once_and_nothing_is_loaded(tmp_path: Path, foreign: nn.Module) -> None:
    name = "decoder.p5.weight"
    state = foreign.state_dict()
    changes = {name.replace(".", "__"): state[name][:1], "decoder__p4__skip_conv__bias": None}
    changes |= {
        "criterion__weight": torch.ones(4),
        "segmentation_head__0__weight": state["segmentation_head.0.weight"] / 0,
    }
    with pytest.raises(UserError) as caught:
        build(write(tmp_path, foreign, **changes), weights_classes=THEIRS)
    message = str(caught.value)
    assert message.startswith("model.weights: x.safetensors does not fit the network: 4 problems")
    assert "1 tensors missing in the file: decoder (1: decoder.p4.skip_conv.bias)" in message
    assert "1 tensors unexpected in the file: criterion (1: criterion.weight)" in message
    assert f"decoder (1: {name} {tuple(state[name][:1].shape)} for {tuple(state[name].shape)})" in message
    assert "1 tensors not finite: segmentation_head (1: segmentation_head.0.weight)" in message


def test_allowed_prefixes_start_random_and_are_recorded(tmp_path: Path, foreign: nn.Module) -> None:
    file = write(tmp_path, foreign, decoder__p4__skip_conv__bias=None, criterion__weight=torch.ones(4))
    allowed = {"allow_missing": ["decoder.p4"], "allow_unexpected": ["criterion"], "weights_classes": THEIRS}
    assert build(file, **allowed).initial_weights["random"] == ["decoder.p4"]
    with pytest.raises(
        UserError, match=r"allow_missing: no tensor of the network is under 'decodr'; did you mean 'dec"
    ):
        build(file, **{**allowed, "allow_missing": ["decodr"]})
    with pytest.raises(UserError, match=r"1 tensors missing.*decoder.p4.skip_conv.bias"):
        build(file, **{**allowed, "allow_missing": ["decoder.p"]})  # a part of a name is no prefix


def test_classes_that_the_file_lacks(tmp_path: Path, foreign: nn.Module) -> None:
    file, classes = write(tmp_path, foreign), ("road", "cycle", "auto")
    with pytest.raises(UserError, match=r"the checkpoint has no class 'cycle'.*\n.*'auto'"):
        build(file, classes, weights_classes=THEIRS)
    with pytest.raises(UserError, match=r"weights_classes names 3 classes; the classifier of x.safetensors has 4"):
        build(file, classes, weights_classes=THEIRS[:3])
    torch.manual_seed(5)
    network = build(file, classes, weights_classes=THEIRS, class_map={"auto": "car"}, new_classes="some")
    torch.manual_seed(5)
    fresh = models.build("smp", OPTIONS, num_classes=3)
    own, theirs, random = (
        net.state_dict()["segmentation_head.0.weight"]
        for net in (network.net, foreign, fresh.net)  # type: ignore[union-attr,operator]
    )
    assert torch.equal(own[0], theirs[1]) and torch.equal(own[2], theirs[0]) and torch.equal(own[1], random[1])
    assert network.initial_weights["random"] == ["class cycle"]
    assert network.initial_weights["classes"] == {"road": "road", "auto": "Car"}


def test_a_new_classifier_needs_no_class_names(tmp_path: Path, foreign: nn.Module) -> None:
    network = build(write(tmp_path, foreign), ("a", "b"), new_classes="all")
    assert network.initial_weights["random"] == ["segmentation_head.0"] and network.initial_weights["classes"] == {}
    assert torch.equal(
        network.net.state_dict()["decoder.p5.weight"],  # type: ignore[union-attr,operator]
        foreign.state_dict()["decoder.p5.weight"],
    )


def test_an_encoder_out_of_a_whole_network_or_with_timms_names(tmp_path: Path, foreign: nn.Module) -> None:
    whole, bare = write(tmp_path, foreign), tmp_path / "timm.pth"
    encoder = foreign.encoder.state_dict()  # type: ignore[union-attr,operator]
    torch.save({name.removeprefix("model."): value for name, value in encoder.items()}, bare)
    wrapped = tmp_path / "wrapped.pth"
    torch.save({f"module.{name}": value for name, value in foreign.state_dict().items()}, wrapped)
    around = ["decoder", "segmentation_head"]
    for file, unexpected in ((whole, around), (wrapped, around), (bare, [])):
        options = {**OPTIONS, "encoder_weights": str(file), "allow_unexpected": unexpected}
        network = models.build("smp", options, num_classes=2)
        assert network.encoder is not None
        assert all(torch.equal(network.encoder.state_dict()[name], value) for name, value in encoder.items())
        assert network.initial_weights["random"] == around
    with pytest.raises(UserError, match=r"unexpected in the file: decoder \("):
        models.build("smp", {**OPTIONS, "encoder_weights": str(whole)}, num_classes=2)


@pytest.mark.parametrize("encoder", ["resnet10t", "mobilenetv3_small_050", "convnext_atto", "regnetx_002"])
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_a_classifier_of_timm_is_an_encoder(
    tmp_path: Path, encoder: str, wrapper: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    donor = timm.create_model(encoder, pretrained=False).state_dict()
    torch.save({"state_dict": {wrapper + name: value for name, value in donor.items()}}, tmp_path / "x.pth")
    options = {"architecture": "unet", "encoder": f"tu-{encoder}", "encoder_weights": str(tmp_path / "x.pth")}
    network = models.build("smp", options, num_classes=2)
    assert network.encoder is not None
    own = network.encoder.state_dict()
    for name, value in own.items():
        short = name.removeprefix("model.")
        assert torch.equal(value, donor[short] if short in donor else donor[short.replace("_", ".", 1)]), name
    assert f"{len(donor) - len(own)} tensors of it are not used: " in caplog.text


def test_tensors_are_allowed_by_their_names_in_the_file_or_here(tmp_path: Path) -> None:
    donor = timm.create_model("resnet10t", pretrained=False).state_dict()
    tensors = {f"backbone.{name}": value for name, value in donor.items() if not name.startswith("layer4")}
    torch.save({**tensors, "backbone.extra.weight": torch.ones(1)}, tmp_path / "x.pth")
    options = {"architecture": "unet", "encoder": "tu-resnet10t", "encoder_weights": str(tmp_path / "x.pth")}
    for extra in ("extra", "model.extra", "backbone.extra"):
        for missing in ("layer4", "model.layer4"):
            allowed = {"allow_unexpected": [extra], "allow_missing": [missing]}
            assert missing in models.build("smp", {**options, **allowed}, num_classes=2).initial_weights["random"]
    with pytest.raises(
        UserError, match=r"1 tensors unexpected in the file: \w+ \(1: (backbone\.|model\.)?extra.weight"
    ):
        models.build("smp", {**options, "allow_missing": ["layer4"]}, num_classes=2)


def test_a_checkpoint_that_states_another_normalisation(
    tmp_path: Path, foreign: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    half, numbers = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, "model.mean: [0.5, 0.5, 0.5], model.std: [0.5"
    donor = build(write(tmp_path, foreign), classes=THEIRS, weights_classes=THEIRS, **half)
    labels = LabelSpec(names=THEIRS, palette=((0, 0, 0),) * 4)
    network_artifact.save(
        tmp_path / "teacher",
        donor,
        name="smp",
        options={**OPTIONS, **half},
        labels=labels,
        input_size=(64, 96),
        facts={},
    )
    foreign.save_pretrained(tmp_path / "hub")  # type: ignore[operator]
    config = {"image_mean": [127.5] * 3, "image_std": [127.5] * 3}
    (tmp_path / "hub/preprocessor_config.json").write_text(json.dumps(config))
    imagenet = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
    for folder, source in (("teacher", "weights.safetensors"), ("hub", "hub/model.safetensors")):
        caplog.clear()
        for options in (half, {}, {"mean": half["mean"]}):
            network = build(tmp_path / folder, weights_classes=THEIRS, **options)
            assert (network.mean, network.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
            assert network.initial_weights["normalisation"] == half
        assert "another normalisation" not in caplog.text
        chosen = build(tmp_path / folder, weights_classes=THEIRS, **imagenet)
        assert (chosen.mean, chosen.std) == (IMAGENET_MEAN, IMAGENET_STD)
        assert f"{source} was trained with another normalisation than model.mean: [0.485" in caplog.text
        assert numbers in caplog.text


def test_a_checkpoint_that_states_nothing_gets_imagenets_normalisation(tmp_path: Path, foreign: nn.Module) -> None:
    torch.save(foreign.state_dict(), tmp_path / "x.pth")
    network = build(tmp_path / "x.pth", weights_classes=THEIRS)
    assert (network.mean, network.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert "normalisation" not in network.initial_weights


def test_averaged_weights_are_taken_by_their_key(tmp_path: Path, foreign: nn.Module) -> None:
    state = foreign.state_dict()
    average = {f"module.{name}": value + 1 for name, value in state.items()}
    torch.save({"model": state, "model_ema": {**average, "n_averaged": torch.tensor(5)}}, tmp_path / "x.pth")
    for key, expected in (("model_ema", average["module.decoder.p5.bias"]), (None, state["decoder.p5.bias"])):
        network = build(tmp_path / "x.pth", weights_classes=THEIRS, weights_key=key)
        assert torch.equal(network.net.state_dict()["decoder.p5.bias"], expected)  # type: ignore[union-attr,operator]


def test_half_precision_is_read_and_integers_are_not(tmp_path: Path, foreign: nn.Module) -> None:
    halves = {name: value.half() for name, value in foreign.state_dict().items()}  # counters of batch norm, too
    torch.save(halves, tmp_path / "half.pth")
    network = build(tmp_path / "half.pth", weights_classes=THEIRS)
    bias = network.net.state_dict()["decoder.p5.bias"]  # type: ignore[union-attr,operator]
    assert bias.dtype == torch.float32 and torch.equal(bias, halves["decoder.p5.bias"].float())
    torch.save({**halves, "decoder.p5.bias": torch.zeros(16, dtype=torch.int8)}, tmp_path / "int.pth")
    with pytest.raises(UserError, match=r"of another kind of number.*decoder.p5.bias torch.int8 for torch.float32"):
        build(tmp_path / "int.pth", weights_classes=THEIRS)


def test_a_duplicate_tensor_is_an_error(tmp_path: Path, foreign: nn.Module) -> None:
    state = {f"model.{name}": value for name, value in foreign.state_dict().items()}
    torch.save({**state, "decoder.p5.bias": torch.zeros(16)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"1 tensors unexpected in the file: decoder \(1: decoder.p5.bias \(again\)\)"):
        build(tmp_path / "x.pth", weights_classes=THEIRS)


def test_classifiers_that_cannot_be_one(tmp_path: Path, foreign: nn.Module) -> None:
    file = write(tmp_path, foreign, segmentation_head__0__bias=torch.zeros(3))  # one per class of ours
    with pytest.raises(UserError, match=r"its classifiers differ in their numbers of classes"):
        build(file, weights_classes=THEIRS)
    file = write(tmp_path, foreign, segmentation_head__0__weight=torch.zeros(4, 7, 1, 1))
    with pytest.raises(UserError, match=r"segmentation_head.0.weight \(4, 7, 1, 1\) for \(3, 32, 1, 1\)"):
        build(file, weights_classes=THEIRS)
    file = write(tmp_path, foreign, segmentation_head__0__weight=torch.tensor(1.0))
    with pytest.raises(UserError, match=r"its classifiers differ"):
        build(file, weights_classes=THEIRS)


def test_a_folder_that_smp_did_not_write(tmp_path: Path, foreign: nn.Module) -> None:
    write(tmp_path, foreign).rename(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "segformer"}))
    with pytest.raises(UserError, match=r"smp did not write its config.json"):
        build(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(UserError, match=r"config.json: not JSON"):
        build(tmp_path)


def test_weights_and_encoder_weights_exclude_each_other(tmp_path: Path, foreign: nn.Module) -> None:
    with pytest.raises(UserError, match=r"model.encoder_weights: got 'imagenet'; leave it out"):
        build(write(tmp_path, foreign), encoder_weights="imagenet")


def test_a_network_of_the_hub(tmp_path: Path, foreign: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign.save_pretrained(tmp_path / "cache")  # type: ignore[operator]
    requests = []

    def download(repo: str, file: str, *, revision: str | None) -> str:
        requests.append((repo, file, revision))
        if not (tmp_path / "cache" / file).is_file():
            raise EntryNotFoundError(f"404: {file}")
        return str(tmp_path / "cache" / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    network = build("hf://someone/a.network@v1", weights_classes=THEIRS)
    assert requests == [("someone/a.network", file, "v1") for file in ("config.json", "model.safetensors")]
    assert network.initial_weights["source"] == "hf://someone/a.network@v1"
    assert network.initial_weights["sha256"] == artifact.sha256(tmp_path / "cache/model.safetensors")
    (tmp_path / "cache/model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has neither model.safetensors nor pytorch_model.bin"):
        build("hf://someone/a.network")
    (tmp_path / "cache/config.json").unlink()
    with pytest.raises(UserError, match=r"has no config.json"):
        build("hf://someone/a.network")


@pytest.mark.parametrize(
    "error",
    [LocalEntryNotFoundError("offline"), OSError("no route to host"), ValueError("bad name")],
)
def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def download(*arguments: Any, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(UserError, match=r"hf://a/b: no connection to the hub.*download the folder elsewhere"):
        build("hf://a/b")


@pytest.mark.parametrize("name", ["hf://", "hf://name", "hf://a/b/c", "hf://a/b@", "hf://a/../b"])
def test_invalid_names_of_hub_networks(name: str) -> None:
    with pytest.raises(UserError, match="allowed: hf://owner/name or hf"):
        build(name)
