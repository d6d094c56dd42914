"""``teacher.train: false``: a network from elsewhere becomes the teacher without training, classes in our order."""

from __future__ import annotations

import logging
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from ruamel.yaml import YAML
from torch import nn

from pipeline import artifact, losses, models
from pipeline.errors import UserError
from pipeline.export.torch_engine import TorchEngine
from pipeline.models import SegNetwork
from pipeline.models.weights import network_artifact
from pipeline.models.weights.normalisation import IMAGENET_MEAN, IMAGENET_STD
from pipeline.prepared import Prepared
from pipeline.training.conflicts import warn_of_other_targets
from pipeline.training.evaluation import check_complete, measure
from pipeline.training.processes import accelerator

ROOT = Path(__file__).parents[2]
MODEL: dict[str, Any] = {"architecture": "fpn", "encoder": "tu-tf_mobilenetv3_small_minimal_100"}
SIZE = (64, 96)


@pytest.fixture
def foreign(prepared: Prepared) -> nn.Module:
    """An smp network for the classes of the data set in reverse order, which predicts several of them."""
    torch.manual_seed(4)
    classes = prepared.labels.num_classes
    network = smp.create_model("fpn", encoder_name=MODEL["encoder"], encoder_weights=None, classes=classes).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean, 0, 0.2)
    head = network.segmentation_head[0]
    with torch.no_grad():
        images = torch.stack([tensor(prepared.split("val").frame(index)) for index in range(3)])
        logits = head(network.decoder(network.encoder(images))).transpose(0, 1).flatten(1)  # (K, pixels)
        head.weight /= logits.std(dim=1)[:, None, None, None]
        head.bias.copy_((head.bias - logits.mean(dim=1)) / logits.std(dim=1))
    checked: nn.Module = network
    return checked


def tensor(frame: Any) -> torch.Tensor:
    """A BGR frame as the network's owner normalises it: RGB, ImageNet's mean and deviation."""
    rgb = torch.from_numpy(np.ascontiguousarray(frame[..., ::-1])).permute(2, 0, 1) / 255
    return (rgb - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]


def mean_iou(pairs: list[tuple[Any, Any]], classes: int) -> float:
    """Mean IoU in percent over the classes of the true labels, by counting pixels."""
    ious = []
    for k in range(classes):
        hit = sum(int(((truth == k) & (predicted == k)).sum()) for truth, predicted in pairs)
        union = sum(int((((truth == k) | (predicted == k)) & (truth != 255)).sum()) for truth, predicted in pairs)
        if any((truth == k).any() for truth, _ in pairs):
            ious.append(hit / union)
    return 100 * sum(ious) / len(ious)


@pytest.fixture
def stage(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run stages/train_teacher.py with an untrained teacher of these options; return its status."""

    def run(**options: Any) -> int:
        raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
        raw["input_size"] = list(SIZE)
        raw["teacher"] = {"model": {"name": "smp", **MODEL, **options}, "train": False}
        with (tmp_path / "params.yaml").open("w") as stream:
            YAML().dump(raw, stream)
        arguments = ["--params", "params.yaml", "--dataset", str(prepared.artifact.path)]
        arguments += ["--curves", "c", "--checkpoints", "k", "--out", "t"]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["train_teacher.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "stages/train_teacher.py"), run_name="__main__")
        return int(ended.value.code or 0)

    return run


def test_a_teacher_in_another_class_order_scores_the_same(
    prepared: Prepared, foreign: nn.Module, stage: Callable[..., int], tmp_path: Path
) -> None:
    names = prepared.labels.names
    theirs = [name.replace("_", " ").title() for name in reversed(names)]
    theirs[0] = "something else"  # the last of ours
    torch.save({"state_dict": foreign.state_dict()}, tmp_path / "theirs.pth")
    assert stage(weights="theirs.pth", weights_classes=theirs, class_map={names[-1]: "something else"}) == 0
    teacher, stored = network_artifact.load(tmp_path / "t")
    engine, pairs = TorchEngine(teacher, input_size=SIZE), []
    with torch.inference_mode():
        for frame, truth in prepared.split("val"):
            logits = foreign.segmentation_head[0](foreign.decoder(foreign.encoder(tensor(frame)[None])))  # type: ignore[operator,index]
            logits = F.interpolate(logits, size=SIZE, mode="bilinear", align_corners=False)
            expected = len(names) - 1 - logits[0].argmax(0).numpy()  # their order is ours in reverse
            assert np.array_equal(engine.run(frame[None])[0], expected)
            pairs.append((truth, expected))
    assert len({int(k) for _, predicted in pairs for k in np.unique(predicted)}) > 3
    assert stored.meta["metrics"]["val"]["miou"] == pytest.approx(mean_iou(pairs, len(names)), abs=0.01)
    assert stored.meta["metrics"]["val"]["miou"] > 1
    assert stored.meta["trained"] is False and "best_step" not in stored.meta
    assert stored.meta["initial_weights"]["source"] == "theirs.pth"
    assert stored.meta["initial_weights"]["sha256"] == artifact.sha256(tmp_path / "theirs.pth")
    assert stored.meta["initial_weights"]["random"] == []
    assert stored.meta["model"]["options"] == MODEL
    assert (tmp_path / "c").is_dir()


def test_a_teacher_that_is_random_in_part_is_refused(
    foreign: nn.Module, stage: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(foreign.state_dict(), tmp_path / "theirs.pth")
    for options, random_part in (
        ({}, "the whole network"),
        ({"weights": "theirs.pth", "new_classes": "all"}, "segmentation_head.0"),
    ):
        assert stage(**options) == 1
        message = capsys.readouterr().err
        assert message.count("error: ") == 1
        assert f"teacher.train is false, but these weights are random: {random_part}; give a checkpoint" in message
        assert not (tmp_path / "t").exists()


def test_a_network_is_complete_without_random_weights() -> None:
    network = models.build("smp", MODEL, num_classes=2)
    network.initial_weights = {"source": "x", "random": []}
    check_complete(network)
    network.initial_weights = {"source": "imagenet", "random": [f"class {i}" for i in range(12)]}
    with pytest.raises(UserError, match=r"class 0, .*class 9 and 2 more; give"):
        check_complete(network)


def test_every_split_but_train_is_measured(prepared: Prepared) -> None:
    torch.manual_seed(0)
    network: SegNetwork = models.build("smp", MODEL, num_classes=prepared.labels.num_classes)
    network.train()
    metrics = measure(network, prepared, input_size=SIZE, accelerator=accelerator(precision="fp32"))
    assert list(metrics) == [split for split in prepared.splits if split != "train"] and "val" in metrics
    assert network.training
    engine = TorchEngine(network, input_size=SIZE)
    pairs = [(truth, engine.run(frame[None])[0]) for frame, truth in prepared.split("val")]
    expected = mean_iou(pairs, prepared.labels.num_classes)
    assert metrics["val"]["miou"] == pytest.approx(expected, abs=1e-3) and expected > 0
    with pytest.raises(UserError, match=r"input_size: got \[60, 96\]; this network needs multiples of 32"):
        measure(network, prepared, input_size=(60, 96), accelerator=accelerator(precision="fp32"))


@pytest.mark.parametrize(
    ("mixture", "class_balance", "teacher", "warnings"),
    [
        (["kd"], 0.5, {"trained": False}, 1),
        (["fitnet", "pfs"], 0.5, {"trained": False}, 1),
        (["dist"], 0.5, {"trained": False}, 1),
        (["aicsd"], 0.5, {"trained": False}, 1),
        (["kd"], 0.0, {"trained": False}, 0),  # no class weights
        (["kd"], 0.5, {"best_step": 3}, 0),  # a teacher of ours
        (["fitnet", "cwd"], 0.5, {"trained": False}, 0),  # no probabilities are compared
        (["none"], 0.5, {"trained": False}, 0),
    ],
)
def test_class_weights_beside_an_untrained_teacher_are_one_warning(
    mixture: list[str], class_balance: float, teacher: dict[str, Any], warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    facts = {"num_classes": 3, "ignore_index": 255, "student_channels": 4, "teacher_channels": 6, "steps": 9}
    with caplog.at_level(logging.WARNING):
        warn_of_other_targets(
            losses.build_all({name: {} for name in mixture}, **facts), class_balance=class_balance, teacher=teacher
        )
    assert len(caplog.records) == warnings
    for record in caplog.records:
        text = record.getMessage()
        assert text.startswith("distill.class_balance: got 0.5, but the teacher was not trained here")
        assert "set distill.class_balance: 0, or" in text and "\n" not in text
