"""Frames without labels in a batch: which are drawn, their targets, what each term sees, divided batches, resuming."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest
import torch
import torch.multiprocessing as mp
from ruamel.yaml import YAML
from torch import Tensor

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.losses import DistillationLoss
from pipeline.models import SegOutput
from pipeline.models.weights import network_artifact
from pipeline.prepared import Prepared, Unlabelled
from pipeline.settings import params
from pipeline.training import data, processes, rounds, run
from pipeline.training.memory import estimate
from pipeline.training.settings import TrainingSettings, without_labels
from pipeline.training.students import distill
from pipeline.training.unlabelled import check_parts, ready_for_unlabelled
from tests.training.conftest import Bench
from tests.training.conftest import without_labels as rendered

ROOT = Path(__file__).parents[2]
Modes = Literal["soft", "hard", "both"]
IGNORE, PADDING = 255, 254
#: Crops are larger than frames: some pixels are padding.
UNEVEN: dict[str, Any] = {**Bench.SGD, "crop": (96, 128), "class_balance": 0.5, "batch_size": 4, "unlabelled_images": 2}


def drawn(*, accumulate: int = 1, number: int = 1, first: int = 0, **options: Any) -> list[list[tuple[int, int]]]:
    """The images of each update of 8, over all processes, in the order of the batch."""
    values = {"length": 10, "unlabelled": 7, "per_update": 3, "steps": 9, "seed": 1, **options}
    values |= {"images": 8 // accumulate // number, "accumulate": accumulate, "processes": number, "first": first}
    each = [list(data.Draws(process=process, **values)) for process in range(number)]
    parts = [part for group in zip(*each, strict=True) for part in group]
    size = accumulate * number
    return [list(chain(*parts[start : start + size])) for start in range(0, len(parts), size)]


def test_an_update_has_the_same_frames_however_it_is_divided_and_resumed() -> None:
    whole = drawn()
    for options in ({"accumulate": 4}, {"number": 2}, {"accumulate": 2, "number": 2}):
        assert drawn(**options) == whole  # type: ignore[arg-type]
    assert drawn(first=5) == whole[5:]
    assert drawn(seed=2) != whole
    for update in whole:
        assert [index >= 10 for index, _ in update] == [False, False, True, False, False, True, False, True]


def test_both_kinds_are_drawn_equally_often_and_labelled_ones_as_without_the_others() -> None:
    images = list(chain(*drawn(steps=70)))
    labelled = [image for image in images if image[0] < 10]
    others = [image for image in images if image[0] >= 10]
    assert len(labelled) == 350 and sorted(labelled) == sorted({(i, turn) for i in range(10) for turn in range(35)})
    assert len(others) == 210 and sorted(others) == sorted({(10 + i, turn) for i in range(7) for turn in range(30)})
    assert list(chain(*drawn(steps=5, per_update=0, unlabelled=0))) == labelled[:40]


def test_how_many_of_a_batch() -> None:
    assert [without_labels(size, share=0.5) for size in (2, 3, 4, 16)] == [1, 2, 2, 8]
    assert without_labels(8, share=0.01) == 1 and without_labels(8, share=0.99) == 7, "at least one of each"
    with pytest.raises(UserError, match=r"batch_size: got 1; with frames without labels .* raise it to 2 or more"):
        without_labels(1, share=0.5)
    recipe = params.load(ROOT / "params.yaml", kinds=()).distill.model_copy(update={"steps": None, "epochs": 2.0})
    steps = [
        TrainingSettings.of(recipe, images=40, input_size=(64, 96), seed=0, share=share).steps for share in (0.0, 0.5)
    ]
    assert steps == [20, 40], "an epoch is a pass over the images with labels"


def test_an_unlabelled_crop_is_ignored_its_padding_stays(prepared: Prepared, frames: Unlabelled) -> None:
    augment = data.augmentation(
        crop=(96, 128), input_size=(64, 96), scale=(0.75, 1.0), colour=0.5, labels=prepared.labels
    )
    crops = data.Crops(prepared.split("train"), augment, seed=0, unlabelled=frames.split())
    assert len(crops) == 17
    image, target, index, flag = crops[12, 0]  # type: ignore[misc]
    assert flag is True and index == 12 and crops.name(12) == frames.names[2]
    assert set(target.unique().tolist()) == {IGNORE, PADDING}
    assert (image[:, target == PADDING] == 0).all() and (image[:, target == IGNORE] > 0).any()
    assert crops[3, 0][3] is False and crops.name(3) == prepared.splits["train"][3]  # type: ignore[misc]


class Spy(DistillationLoss):
    """Keeps the targets and outputs that a loss gets."""

    uses_labels = True

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        self.target, self.student, self.teacher = target, student, teacher
        return {"spy": student.logits.mean()}


@pytest.fixture
def batch(bench: Bench, frames: Unlabelled) -> tuple[Tensor, Tensor, tuple[bool, ...]]:
    """Four crops, the second and the fourth without labels."""
    augment = data.augmentation(
        crop=(96, 128), input_size=(64, 96), scale=(0.75, 1.5), colour=0.5, labels=bench.prepared.labels
    )
    crops = data.Crops(bench.prepared.split("train"), augment, seed=0, unlabelled=frames.split())
    items = [crops[index, 0] for index in (0, 12, 1, 13)]
    targets = torch.stack([item[1] for item in items])
    targets[0, 40:44] = IGNORE  # void pixels of a labelled frame
    return torch.stack([item[0] for item in items]), targets, (False, True, False, True)


def test_targets_of_losses_pixel_by_pixel(bench: Bench, batch: Any) -> None:
    task = bench.labelling("ifvd", "soft")
    task.loss, task.padding = Spy(), PADDING
    x, target, flags = batch
    logits = torch.zeros(4, 11, 24, 32)
    logits[:, 3, :, :16], logits[:, 7, :, 16:] = 9.0, 9.0  # probability above 0.99
    logits[:, :, 5] = 0.0  # and one row is uncertain
    with mock.patch.object(task, "teach", lambda x, student: replace(student.detach(), logits=logits)):
        task(x, target, unlabelled=flags)
    expected = target.long().masked_fill(target == PADDING, IGNORE)
    cells = torch.full((24, 32), 3)
    cells[:, 16:], cells[5] = 7, IGNORE
    labels = cells.repeat_interleave(4, 0).repeat_interleave(4, 1)  # stride 4
    for image in (1, 3):
        padded = (target[image] == PADDING).view(24, 4, 32, 4).permute(0, 2, 1, 3).flatten(2).any(dim=2)
        assert padded.any() and not padded.all()
        expected[image] = labels.masked_fill(padded.repeat_interleave(4, 0).repeat_interleave(4, 1), IGNORE)
    assert torch.equal(task.loss.target, expected)  # type: ignore[arg-type]
    assert (task.loss.target[0, 40:44] == IGNORE).all(), "void pixels of labelled frames stay void"  # type: ignore[index]


@pytest.mark.parametrize("labels", ["soft", "hard", "both"])
def test_the_cross_entropy_is_that_of_the_labelled_frames_alone(bench: Bench, batch: Any, labels: Modes) -> None:
    task = bench.image_by_image(bench.labelling("kd", labels))
    task.padding, task.unlabelled_share = PADDING, 0.5  # type: ignore[attr-defined]
    task.class_weights = torch.linspace(0.5, 2, 11)
    x, target, flags = batch
    mixed, alone = task(x, target, unlabelled=flags), task(x[::2], target[::2])
    assert float(task.weight(target)) == float(task.weight(target[::2]))
    assert float(mixed["ce"].detach()) == pytest.approx(float(alone["ce"].detach()), rel=1e-6)
    gradients = []
    for terms in (mixed, alone):
        task.zero_grad()
        terms["ce"].backward(retain_graph=True)
        gradients.append(torch.cat([p.grad.flatten() for p in task.network.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    void = target[1::2].long().fill_(IGNORE)
    task.zero_grad()
    task(x[1::2], void, unlabelled=(True, True))["ce"].backward()
    assert all(p.grad is None or not p.grad.any() for p in task.network.parameters()), "no labels, no gradient"


def test_what_each_mode_gives_a_loss_and_the_labels(bench: Bench, batch: Any) -> None:
    x, target, flags = batch
    target = target.masked_fill(target == PADDING, IGNORE)
    terms = {}
    for labels in ("soft", "hard", "both"):
        task = bench.image_by_image(bench.labelling("kd", labels))  # type: ignore[arg-type]
        task.unlabelled_share = 0.5  # type: ignore[attr-defined]
        task.pseudo and task.pseudo.thresholds.fill_(0.2)  # type: ignore[attr-defined,operator,union-attr]
        terms[labels] = {name: float(value.detach()) for name, value in task(x, target, unlabelled=flags).items()}
    every, labelled = (
        float(bench.image_by_image(bench.distillation("kd"))(images, ids)["kd"].detach())
        for images, ids in ((x, target), (x[::2], target[::2]))
    )
    assert set(terms["soft"]) == {"loss", "ce", "kd"} and set(terms["hard"]) == {"loss", "ce", "kd", "pseudo_ce"}
    assert terms["soft"]["kd"] == pytest.approx(every, rel=1e-5) == terms["both"]["kd"]
    assert terms["hard"]["kd"] == pytest.approx(labelled, rel=1e-5) and every != pytest.approx(labelled, rel=1e-3)
    assert terms["hard"]["pseudo_ce"] == pytest.approx(terms["both"]["pseudo_ce"], rel=1e-6)
    with torch.no_grad():  # by plain loops
        student, teacher = task.predict(x, None).logits, task.teach(x, task.predict(x, None)).logits  # type: ignore[attr-defined]
    total = 0.0
    for image in (1, 3):
        for row in range(24):
            for column in range(32):
                p = teacher[image, :, row, column].softmax(0)
                if p.max() >= 0.2:
                    total -= float(student[image, :, row, column].log_softmax(0)[p.argmax()])
    assert terms["both"]["pseudo_ce"] == pytest.approx(total / (2 * 24 * 32), rel=1e-4) and total > 0


@pytest.mark.parametrize("name", ["cirkd", "i2ckd", "idd", "ifvd", "pfs", "kd", "fitnet"])
@pytest.mark.parametrize("labels", ["soft", "hard", "both"])
def test_losses_with_and_without_labels(bench: Bench, batch: Any, name: str, labels: Modes) -> None:
    x, target, flags = batch
    task = bench.labelling(name, labels)
    task.padding, task.unlabelled_share = PADDING, 0.5
    torch.manual_seed(0)
    if task.pseudo is not None:
        task.pseudo.thresholds.fill_(0.15)
    terms = task(x, target, unlabelled=flags)
    terms["loss"].backward()
    assert terms["loss"].isfinite() and ("pseudo_ce" in terms) == (labels != "soft")
    nothing = bench.labelling(name, labels)
    nothing.padding, nothing.unlabelled_share = PADDING, 0.5
    torch.manual_seed(0)
    if nothing.pseudo is not None:
        nothing.pseudo.thresholds.fill_(1.1)  # nobody is that sure
    other = nothing(x, target, unlabelled=flags)
    own = [term for term in terms if term.startswith(name)]
    changed = any(not torch.equal(terms[term], other[term]) for term in own)
    assert own and changed == (task.loss.uses_labels and labels != "hard"), "labels reach the losses that use them"
    assert labels == "soft" or (other["pseudo_ce"] == 0 and terms["pseudo_ce"] > 0)


def test_the_student_alone_learns_from_hard_labels(bench: Bench, batch: Any) -> None:
    x, target, flags = batch
    task = bench.labelling("none", "hard")
    task.padding, task.unlabelled_share = PADDING, 0.5
    assert task.teacher_runs and not bench.labelling("none", "soft").teacher_runs
    assert task.pseudo is not None
    task.pseudo.thresholds.fill_(0.15)
    assert float(task(x, target, unlabelled=flags)["pseudo_ce"].detach()) > 0
    task.label_with(task.network)
    assert not task.teacher_runs, "from the second round on its student labels"
    with mock.patch.object(task.teacher, "forward", mock.Mock(side_effect=AssertionError)):
        task(x, target, unlabelled=flags)


def test_networks_that_label_count_in_the_estimate_of_the_memory(bench: Bench) -> None:
    network = bench.network()
    weights = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    task = bench.labelling("none", "hard")
    parts = estimate(task, shape=(2, 64, 96), optimizer="sgd").parts
    assert parts["teacher"] == weights and "labelling network" not in parts
    task.label_with(task.network)
    parts = estimate(task, shape=(2, 64, 96), optimizer="sgd").parts
    assert parts["labelling network"] == weights and "teacher" not in parts


@pytest.mark.parametrize("labels", ["soft", "hard", "both"])
def test_labels_stay_when_the_terms_of_the_loss_have_ended(bench: Bench, batch: Any, labels: Modes) -> None:
    x, target, flags = batch
    task = bench.labelling("kd", labels)
    task.padding, task.unlabelled_share, task.balance.until = PADDING, 0.5, 0.0
    runs = mock.Mock(wraps=task.teacher.forward)
    with mock.patch.object(task.teacher, "forward", runs):
        terms = task(x, target, unlabelled=flags)
    assert set(terms) == {"loss", "ce"} | ({"pseudo_ce"} if labels != "soft" else set())
    assert runs.called == (labels != "soft")


def test_auto_weights_are_measured_against_the_labels_alone(bench: Bench, batch: Any) -> None:
    """The reference of a weight is the cross-entropy with labels, not that with the teacher's predictions."""
    x, target, flags = batch
    fits = []
    for labels in ("soft", "both"):
        task = bench.image_by_image(bench.labelling("kd", labels, weight="auto"))  # type: ignore[arg-type]
        task.padding, task.unlabelled_share = PADDING, 0.5  # type: ignore[attr-defined]
        task.begin(1, steps=9)
        assert float(task(x, target, unlabelled=flags)["kd"].detach()) == 0.0, "not measured yet"
        task.finish()
        fits.append(float(task.balance.fit))  # type: ignore[attr-defined,arg-type]
    assert fits[0] == pytest.approx(fits[1], rel=1e-5) and fits[0] != 0


def started(bench: Bench, task: Any, folder: Path, frames: Unlabelled, **options: Any) -> Any:
    values = {**UNEVEN, "steps": 3, "validate_every": 3, **options}
    return bench.train(task, folder, frames=frames, **values)


@pytest.mark.parametrize("labels", ["soft", "hard", "both"])
def test_parts_of_a_batch_give_what_the_batch_gives(
    bench: Bench, frames: Unlabelled, tmp_path: Path, labels: Modes
) -> None:
    tasks = [bench.image_by_image(bench.labelling("kd", labels)) for _ in range(2)]
    for accumulate, task in zip((1, 2), tasks, strict=True):
        started(bench, task, tmp_path / str(accumulate), frames, accumulate=accumulate)
    start = bench.labelling("kd", labels).state_dict()
    for name, value in tasks[0].state_dict().items():
        torch.testing.assert_close(tasks[1].state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)
    moved = max(
        float((start[name].float() - value.float()).abs().max()) for name, value in tasks[0].state_dict().items()
    )
    assert moved > 0.01


@pytest.mark.parametrize("labels", ["hard", "both"])
def test_parts_without_such_frames_give_what_the_batch_gives(
    bench: Bench, frames: Unlabelled, tmp_path: Path, labels: Modes
) -> None:
    """One frame of 8 in 4 parts, in a later round: the student that labels gets empty batches."""
    tasks = [bench.image_by_image(bench.labelling("kd", labels)) for _ in range(2)]
    for accumulate, task in zip((1, 4), tasks, strict=True):
        task.label_with(bench.network(seed=2))  # type: ignore[attr-defined]
        started(
            bench, task, tmp_path / str(accumulate), frames, accumulate=accumulate, batch_size=8, unlabelled_images=1
        )
    for name, value in tasks[0].state_dict().items():
        torch.testing.assert_close(tasks[1].state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)


def in_process(rank: int, folder: str, dataset: str, unlabelled: str, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    bench = Bench(Prepared(Path(dataset)))
    task = bench.image_by_image(bench.labelling("kd", "both"))
    started(bench, task, Path(folder) / f"curves-{rank}", Unlabelled(Path(unlabelled)))
    processes.leave()
    torch.save(task.state_dict(), Path(folder) / f"{rank}.pt")


def test_two_processes_give_what_one_gives(bench: Bench, frames: Unlabelled, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (str(tmp_path), str(bench.prepared.artifact.path), str(frames.artifact.path), port)
    group = mp.spawn(in_process, args=arguments, nprocs=2, join=False)
    until = time.monotonic() + 240
    try:
        while not group.join(timeout=5):
            assert time.monotonic() < until, "the processes wait for each other"
    finally:
        for process in group.processes:
            process.kill()
    alone = bench.image_by_image(bench.labelling("kd", "both"))
    started(bench, alone, tmp_path / "alone", frames)
    for rank in (0, 1):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(shared[name], value, rtol=1e-3, atol=1e-3, msg=name)


@pytest.fixture
def in_rounds(bench: Bench, frames: Unlabelled, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two rounds of four steps with hard labels and the loss ``i2ckd``."""
    monkeypatch.setattr(run, "estimate", mock.Mock(side_effect=UserError("not estimated in this test")))
    settings = replace(bench.SETTINGS, unlabelled_images=2)

    def learn(task: Any, folder: Path, **options: Any) -> Any:
        start = partial(
            run.train, settings=settings, prepared=bench.prepared, checkpoint_seconds=0.0, unlabelled=frames
        )
        places: dict[str, Any] = {"curves": folder / "curves", "checkpoints": folder / "kept"}
        return rounds.learn(start, task, **{"rounds": 2, "inputs": {}, "title": "test", **places, **options})

    return learn


@pytest.mark.parametrize("steps", [2, 4, 6])
def test_an_interruption_in_any_round_changes_no_bit(
    bench: Bench, in_rounds: Any, tmp_path: Path, steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole, cut, resumed = (bench.labelling("i2ckd", "both") for _ in range(3))
    expected = in_rounds(whole, tmp_path / "whole")
    forward, calls = type(cut).forward, []

    def interrupted(self: Any, *args: Any, **options: Any) -> Any:
        calls.append(self)
        if len(calls) > steps:
            raise KeyboardInterrupt
        return forward(self, *args, **options)

    with mock.patch.object(type(cut), "forward", interrupted), pytest.raises(KeyboardInterrupt):
        in_rounds(cut, tmp_path / "cut")
    caplog.set_level(logging.INFO)
    results = in_rounds(resumed, tmp_path / "cut")
    assert [line for line in caplog.messages if line.startswith("resuming")] == [
        f"resuming after step {step}" for step in {2: [2], 4: [4], 6: [4, 2]}[steps]
    ]
    assert [each.facts for each in results] == [each.facts for each in expected]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for each in results:
        each.finish()
    assert not (tmp_path / "cut/kept").exists()


def test_each_round_starts_afresh_and_the_last_student_labels(bench: Bench, in_rounds: Any, tmp_path: Path) -> None:
    task = bench.labelling("none", "hard")
    start = {name: value.clone() for name, value in task.state_dict().items()}
    seen: list[dict[str, Tensor]] = []
    labellers: list[dict[str, Tensor]] = []
    get_ready = run.ready_for_unlabelled

    def noted(task: Any, *args: Any, **options: Any) -> None:
        seen.append({name: value.clone() for name, value in task.state_dict().items()})
        labellers.extend({n: v.clone() for n, v in network.state_dict().items()} for network in task._labeller)
        get_ready(task, *args, **options)

    with mock.patch.object(run, "ready_for_unlabelled", noted):
        first, second = in_rounds(task, tmp_path)
    for state in seen:
        assert len(seen) == 2 and all(torch.equal(state[name], value) for name, value in start.items())
    (labeller,) = labellers
    alone = bench.labelling("none", "hard")
    (only,) = in_rounds(alone, tmp_path / "alone", rounds=1)
    assert only.facts == first.facts and second.facts != first.facts
    assert all(torch.equal(labeller[name], value) for name, value in alone.network.state_dict().items())


def test_other_frames_and_another_share_are_another_run(
    bench: Bench, frames: Unlabelled, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def begin(used: Unlabelled, **options: Any) -> None:
        caplog.clear()
        with mock.patch.object(run.Trained, "finish"), caplog.at_level(logging.INFO):
            started(
                bench, bench.labelling("kd", "soft"), tmp_path / "c", used, checkpoints=tmp_path / "k",
                checkpoint_seconds=0.0, steps=2, validate_every=2, **options,
            )  # fmt: skip

    begin(frames)
    begin(frames)
    assert "resuming after step 2" in caplog.text
    begin(rendered(tmp_path / "other", count=7, seed=6))
    assert "resuming" not in caplog.text and "inputs.unlabelled changed" in caplog.text
    begin(frames, unlabelled_images=1)
    assert "resuming" not in caplog.text and "settings.unlabelled_images was 2, is 1" in caplog.text


def test_losses_that_see_labelled_images_only_need_one_in_every_part() -> None:
    check_parts(8, parts=4, unlabelled=4)
    with pytest.raises(UserError, match=r"labels: got hard, .* \(4 images in 4 parts, 2 without labels\): raise"):
        check_parts(4, parts=4, unlabelled=2)


def test_frames_that_would_be_padding_are_refused(bench: Bench) -> None:
    """With 255 classes padding has the ignored id."""
    task = bench.labelling("kd", "soft")
    task.padding = task.ignore_index
    with pytest.raises(UserError, match="no id is left for the padding of crops"):
        ready_for_unlabelled(task, bench.SETTINGS, crops=mock.Mock(), accelerator=mock.Mock(), names=[])


@pytest.fixture
def distilled(bench: Bench, frames: Unlabelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the training of a student with a loss and options of ``distill``; returns its meta and costs."""
    monkeypatch.setattr(run, "estimate", mock.Mock(side_effect=UserError("not estimated in this test")))
    network_artifact.save(
        tmp_path / "t", bench.network(seed=1), name="smp", options=bench.OPTIONS, labels=bench.prepared.labels,
        input_size=(64, 96), facts={},
    )  # fmt: skip

    def student(
        loss: str, *, unlabelled: Path | None = frames.artifact.path, length: Mapping[str, Any] = {}, **options: Any
    ) -> Any:
        raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
        raw["input_size"] = [64, 96]
        raw["distill"] |= {"steps": 2, "validate_every": 2, "warmup": 1, "stage0": {"steps": 1}, "unlabelled": options}
        raw["distill"] |= length
        raw["students"] = {"s": {"model": {"name": "smp", **bench.OPTIONS}, "loss": loss}}
        with (tmp_path / "params.yaml").open("w") as stream:
            YAML().dump(raw, stream)
        distill(
            params.load(tmp_path / "params.yaml"), name="s", loss={"name": loss, "options": {loss: {}}},
            dataset=bench.prepared.artifact.path, teacher=tmp_path / "t", curves=tmp_path / "c",
            costs=tmp_path / "costs.json", checkpoints=tmp_path / "k", out=tmp_path / "s", unlabelled=unlabelled,
        )  # fmt: skip
        return artifact.load(tmp_path / "s", kind="network").meta, json.loads((tmp_path / "costs.json").read_text())

    return student


def test_the_student_says_what_it_learned_from(
    distilled: Any, frames: Unlabelled, tmp_path: Path, bench: Bench
) -> None:
    meta, costs = distilled("kd", labels="both", share=0.3, rounds=2, keep=0.25)
    assert meta["unlabelled"] == {
        "facts_hash": frames.facts_hash, "frames": 7, "share": 0.3, "labels": "both", "threshold": 0.9, "keep": 0.25,
        "rounds": 2,
    }  # fmt: skip
    assert meta["parents"]["unlabelled"] == frames.artifact.hash and not (tmp_path / "k").exists()
    for folder in ("c", "c/round1"):
        assert (tmp_path / folder / "plots/metrics/train/pseudo_ce.tsv").is_file()
    assert costs["training_seconds"] > costs["stage0_seconds"] > 0
    meta, _ = distilled("kd", unlabelled=None)
    assert "unlabelled" not in meta and "unlabelled" not in meta["parents"]
    passes = [distilled("none", labels=labels)[1]["teacher_passes"] for labels in ("soft", "hard")]
    assert passes == [0, 1], "the teacher runs for the labels alone, too"


def test_no_frames_are_as_no_artifact(distilled: Any, frames: Unlabelled, tmp_path: Path, bench: Bench) -> None:
    meta = {**bench.prepared.labels.to_meta(), "splits": {"unlabelled": []}}
    with artifact.create(tmp_path / "empty", kind="unlabelled", meta=meta):
        pass
    with mock.patch("pipeline.training.students.Unlabelled", wraps=Unlabelled) as opened:
        assert "unlabelled" not in distilled("kd", unlabelled=tmp_path / "empty", labels="hard")[0]
    opened.assert_called_once()


def test_the_student_alone_with_soft_labels_keeps_whole_batches_and_a_warning(
    distilled: Any, frames: Unlabelled, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    drawn: list[int] = []

    class Noted(data.Draws):
        def __init__(self, **options: Any) -> None:
            drawn.append(options["per_update"])
            super().__init__(**options)

    with mock.patch.object(data, "Draws", Noted):
        meta, _ = distilled("none")
    assert drawn == [2, 0], "in stage 0 the frames teach the encoder"
    assert "unlabelled" not in meta and meta["parents"]["unlabelled"] == frames.artifact.hash
    assert "students.s.loss: got none, which learns nothing from frames without labels" in caplog.text


def test_with_epochs_the_student_alone_has_the_steps_of_the_others(distilled: Any) -> None:
    """Half of a batch of 4 has labels: 0.4 passes over 10 labelled images are 2 steps. Alone it would be 1."""
    length = {"steps": None, "epochs": 0.4}
    assert [distilled(loss, length=length)[0]["last"]["step"] for loss in ("kd", "none")] == [2, 2]


def test_other_frames_in_stage_0_are_another_run_of_the_student_alone(
    distilled: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its task has no such frames, but begins with the weights of stage 0."""
    caplog.set_level(logging.INFO)
    with mock.patch.object(run.Trained, "finish"):
        distilled("none")
        distilled("none")
        assert "resuming after step 2" in caplog.text
        caplog.clear()
        distilled("none", unlabelled=rendered(tmp_path / "other", count=7, seed=6).artifact.path)
        assert "resuming" not in caplog.text and "inputs.stage0.frames changed" in caplog.text
        caplog.clear()
        distilled("none", share=0.25)
        assert "resuming" not in caplog.text


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"rounds": 2}, "distill.unlabelled.rounds: got 2; with labels: soft every round is the same"),
        ({"rounds": 0, "labels": "hard"}, "distill.unlabelled.rounds: got 0; allowed: greater than 0"),
        ({"share": 1.0}, "distill.unlabelled.share: got 1.0; allowed: less than 1"),
        ({"threshold": 1.5}, "distill.unlabelled.threshold: got 1.5; allowed: less than 1"),
        ({"keep": -0.1}, "distill.unlabelled.keep: got -0.1; allowed: greater than or equal to 0"),
        ({"labels": "none"}, "distill.unlabelled.labels: got 'none'; allowed: 'soft', 'hard' or 'both'"),
    ],
)
def test_contradictory_options(options: dict[str, Any], problem: str, tmp_path: Path) -> None:
    raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    raw["distill"]["unlabelled"] |= options
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML().dump(raw, stream)
    with pytest.raises(UserError) as caught:
        params.load(tmp_path / "params.yaml", kinds=())
    assert problem in str(caught.value)
