"""The teacher's output on whole frames: the part of a crop, the training with it, and what it needs."""

from __future__ import annotations

import copy
import logging
import os
import pickle
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.errors import UserError
from pipeline.prepared import Prepared, Unlabelled
from pipeline.training import augment as augmenting
from pipeline.training import data, frame_outputs, memory, processes, rounds
from pipeline.training.augment import Augmentation
from pipeline.training.distillation import DistillationTask
from pipeline.training.frame_outputs import FrameOutputs
from pipeline.training.learner import Learner
from pipeline.training.run import Trained


def cropping(prepared: Prepared, **changes: Any) -> Augmentation:
    options: dict[str, Any] = {"crop": (64, 96), "input_size": (64, 96), "scale": (0.6, 1.7), "colour": 0.0}
    return data.augmentation(**{**options, **changes}, labels=prepared.labels)


def kept(whole: torch.Tensor, size: tuple[int, int]) -> FrameOutputs:
    """The output for one frame, which has one tensor."""
    outputs = FrameOutputs([size])
    outputs.add([whole])
    return outputs


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.6, 0.8), (1.3, 1.7)])
@pytest.mark.parametrize("crop", [(64, 96), (32, 64), (96, 128)])
def test_a_part_shows_what_its_crop_shows(
    prepared: Prepared, scale: tuple[float, float], crop: tuple[int, int]
) -> None:
    """The frame itself as output: its part is the crop, mirrored, enlarged and padded as it is."""
    split, augment = prepared.split("train"), cropping(prepared, crop=crop, scale=scale)
    differences = []
    for seed in range(12):
        generator = np.random.default_rng(seed)
        frame, label = split[seed % len(split)]
        frame = np.asarray(augmenting.cv2.GaussianBlur(frame, (0, 0), 3), np.uint8)  # filters differ at sharp edges
        window = augment.window(label.shape, generator)
        image, target = augment.cut(frame, label, window, generator)
        whole = torch.from_numpy(frame[..., ::-1].copy()).permute(2, 0, 1)
        outputs = kept(whole, crop)
        (part,) = outputs.crop(0, torch.from_numpy(window.to_frame()))
        inside = torch.from_numpy(target != augment.padding)
        differences.append((part.float() - torch.from_numpy(image).float()).abs()[:, inside].mean())
        if scale == (1.0, 1.0):
            assert float((part.float() - torch.from_numpy(image).float()).abs()[:, inside].max()) <= 0.25, "float16"
    assert max(differences) < 1.0, "grey levels; a shift by one pixel gives more than 2"


def known(bench: Any, loss: str, *, frames: Unlabelled | None = None, **options: Any) -> DistillationTask:
    labels: Any = {} if frames is None else {"labels": "both"}
    task = bench.labelling(loss, **labels, **options) if labels else bench.distillation(loss, **options)
    assert isinstance(task, DistillationTask)
    task.cached = True
    return task


def test_an_unchanged_crop_gets_what_the_teacher_says_of_it(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmenting, "FLIP", 0.0)
    task = known(bench, "pfs")
    crops = data.Crops(bench.prepared.split("train"), cropping(bench.prepared, scale=(1.0, 1.0)), seed=0)
    accelerator = processes.accelerator(precision="fp32")
    crops.outputs = frame_outputs.frame_outputs(task, crops, input_size=(64, 96), accelerator=accelerator)
    assert task.known == ("embedding", "logits") and task.cached_seconds > 0
    for index in range(3):
        image, _, _, *outputs = crops[index, 0]
        assert [x.dtype for x in outputs] == [torch.float16, torch.float16]
        with torch.no_grad():
            student = task.predict(image[None], None)
            seen, given = task.teach(image[None], student), task.teach(image[None], student, [x[None] for x in outputs])
        for field in task.known:
            torch.testing.assert_close(getattr(given, field), getattr(seen, field), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("loss", ["kd", "fitnet", "pfs"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_teacher_does_not_run_while_the_student_trains(
    bench: Any, tmp_path: Path, loss: str, accumulate: int, capsys: pytest.CaptureFixture[str]
) -> None:
    task = known(bench, loss)
    frames, runs = len(bench.prepared.splits["train"]), mock.Mock(wraps=task.teacher.forward)
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    with mock.patch.object(task.teacher, "forward", runs):
        trained = bench.train(task, tmp_path, scale=(0.5, 1.5), accumulate=accumulate)
    assert runs.call_count == 1 + frames, "one crop, for the sizes"
    assert f"{frames}/{frames}" in capsys.readouterr().out, "a bar: it may take hours"
    assert any(not torch.equal(before[name], value) for name, value in task.network.state_dict().items())
    assert trained.facts["metrics"]["val"]["miou"] >= 0


def test_frames_without_labels_are_seen_once_too(bench: Any, frames: Unlabelled, tmp_path: Path) -> None:
    """Their pseudo-labels come from the same output; thresholds are chosen on crops, by the teacher itself."""
    task = known(bench, "kd", frames=frames)
    images = len(bench.prepared.splits["train"]) + len(frames)
    runs = mock.Mock(wraps=task.teacher.forward)
    with mock.patch.object(task.teacher, "forward", runs):
        bench.train(task, tmp_path, frames=frames, unlabelled_images=2)
    assert runs.call_count == len(frames) + 1 + images


def test_the_memory_is_estimated_without_a_teacher_that_does_not_run(bench: Any) -> None:
    """Crops of 64x96 bring 11 logits and 32 channels in float16 for each 4x4 pixels."""
    parts = []
    for cached in (False, True):
        task = known(bench, "pfs")
        task.cached = cached
        parts.append(memory.estimate(task, shape=(2, 64, 96), optimizer="adamw").parts)
    assert "teacher activations" in parts[0] and "teacher activations" not in parts[1]
    assert parts[1]["batch"] - parts[0]["batch"] == 2 * (11 + 32) * 16 * 24 * 2


def test_the_teacher_is_not_compiled_for_one_pass(bench: Any, tmp_path: Path) -> None:
    task = known(bench, "kd")
    with mock.patch.object(task.teacher, "_compiled_call_impl", mock.Mock(side_effect=AssertionError)):
        bench.train(task, tmp_path)


def test_later_rounds_use_what_was_seen_before_the_first(bench: Any, frames: Unlabelled, tmp_path: Path) -> None:
    """Nothing copies it: the estimate of the memory copies a task."""
    task = known(bench, "kd", frames=frames)
    runs, seen = mock.Mock(wraps=task.teacher.forward), []

    def train(task: DistillationTask, *, title: str, curves: Path, **options: Any) -> Trained:
        trained = bench.train(task, curves, frames=frames, unlabelled_images=2, **options)
        seen.append((runs.call_count, task.cached_seconds))
        return trained

    with mock.patch.object(task.teacher, "forward", runs):
        rounds.learn(train, task, rounds=2, inputs={}, title="x", curves=tmp_path, checkpoints=tmp_path / "k")
    assert seen[0] == seen[1] and copy.deepcopy(task.outputs) is task.outputs is not None


def test_a_run_that_resumes_gives_the_same_weights(bench: Any, tmp_path: Path) -> None:
    whole, cut = known(bench, "kd"), known(bench, "kd")
    bench.train(whole, tmp_path / "whole")
    places = {"checkpoints": tmp_path / "checkpoints", "checkpoint_seconds": 0.0}
    with bench.interrupted(cut, after=2), pytest.raises(KeyboardInterrupt):
        bench.train(cut, tmp_path / "cut", **places)
    again = known(bench, "kd")
    bench.train(again, tmp_path / "cut", **places)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name


@pytest.mark.parametrize(("loss", "options"), [("mgd", {}), ("i2ckd", {"layers": ["stage1"]}), ("none", {})])
def test_other_losses_train_as_before(
    bench: Any, tmp_path: Path, loss: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Features that are not kept need the teacher on every crop; the log says so."""
    weights = []
    for cached in (True, False):
        task = known(bench, loss, **options)
        task.cached = cached
        with caplog.at_level(logging.INFO):
            bench.train(task, tmp_path / str(cached))
        weights.append(task.network.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    reason = "a loss reads the teacher's stages, which are not kept, so the teacher runs on every crop"
    assert (reason in caplog.text) == (loss != "none")


@pytest.mark.parametrize(("loss", "advice"), [("kd", "free memory"), ("fitnet", "choose losses that read logits")])
def test_too_little_memory_is_one_error_before_all_frames_are_seen(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str, advice: str
) -> None:
    task = known(bench, loss)
    monkeypatch.setattr(frame_outputs, "free_memory", lambda device: 2**15)
    runs = mock.Mock(wraps=task.teacher.forward)
    with (
        mock.patch.object(task.teacher, "forward", runs),
        pytest.raises(
            UserError,
            match=rf"distill\.teaching\.cached: the teacher's output on 10 frames takes \d\.\d MiB, half .*; {advice}",
        ),
    ):
        bench.train(task, tmp_path)
    assert runs.call_count == 2


def test_a_field_that_is_not_kept_is_nan(bench: Any) -> None:
    """A loss that reads more than it declares stops the training with an error, instead of learning nonsense."""
    task = known(bench, "kd")
    with torch.no_grad():
        student = task.predict(torch.zeros(1, 3, 64, 96, dtype=torch.uint8), None)
        taught = task.teach(torch.zeros(1, 3, 64, 96), student, [student.logits.half()])
    assert torch.isfinite(taught.logits).all() and torch.isnan(taught.embedding).all()


def test_a_frame_of_another_shape_is_seen_whole(bench: Any) -> None:
    """It covers the input size, with sides in multiples of the teacher's divisor."""
    sizes = [(64, 96), (70, 300), (200, 100), (33, 47)]
    divisor = 32

    def seen(size: Sequence[int]) -> tuple[int, ...]:
        frame = np.zeros((*size, 3), np.uint8)
        return tuple(frame_outputs._as_tensor(frame, (64, 96), divisor=divisor).shape)

    assert [seen(size) for size in sizes] == [(1, 3, 64, 96), (1, 3, 64, 288), (1, 3, 192, 96), (1, 3, 64, 96)]


def test_on_cuda_the_outputs_travel_with_the_crops() -> None:
    """They are further tensors of a batch: not the flags of frames without labels."""
    learner = object.__new__(Learner)
    learner.accelerator = mock.Mock(device=torch.device("cpu"))
    flags, logits = torch.tensor([True, False]), torch.zeros(2, 3, 4, 5, dtype=torch.float16)
    assert learner._further([]) == {}
    assert learner._further([flags]) == {"unlabelled": (True, False)}
    both = learner._further([flags, logits])
    assert both["unlabelled"] == (True, False) and both["outputs"][0] is logits


def test_interpolation_is_that_of_torch() -> None:
    """Against F.interpolate where a window covers the whole frame."""
    whole = torch.randn(1, 5, 8, 12)
    window = augmenting.Window((64, 96), (64, 96), slice(0, 64), slice(0, 96), slice(0, 64), slice(0, 96), False)
    (part,) = kept(whole[0], (16, 24)).crop(0, torch.from_numpy(window.to_frame()))
    expected = F.interpolate(whole.half().float(), size=(16, 24), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(part.float(), expected, rtol=1e-3, atol=2e-3)


def test_frames_of_all_sizes_take_one_open_file_in_a_process_that_loads_crops() -> None:
    """400 frames with two tensors each would take 800, and a program may open 1024."""
    random, wholes = torch.Generator().manual_seed(0), []
    outputs = FrameOutputs([(4, 4), (2, 2)])
    for index in range(20):  # the sides grow: the room for them must grow
        wholes.append([torch.randn(3, side + index, 9, generator=random) * 1e5 for side in (4, 2)])
        outputs.add(wholes[-1])
    assert len(outputs) == 20 and outputs.nbytes == 2 * sum(whole.numel() for pair in wholes for whole in pair)
    before = len(os.listdir("/proc/self/fd"))
    sent = ForkingPickler.dumps(outputs)
    assert len(os.listdir("/proc/self/fd")) - before < 10, "some are of the first tensor that a process sends"
    received, whole_frame = pickle.loads(sent), torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    for index, pair in enumerate(wholes):
        for part, whole in zip(received.crop(index, whole_frame), pair, strict=True):
            largest = torch.finfo(torch.float16).max
            grid = F.affine_grid(whole_frame[None], [1, 1, *part.shape[1:]], align_corners=False)
            limited = whole.clamp(-largest, largest).half().float()[None]
            expected = F.grid_sample(limited, grid, padding_mode="border", align_corners=False)[0]
            torch.testing.assert_close(part.float(), expected, rtol=2e-3, atol=1.0)


def test_only_what_a_crop_reads_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same values as from the whole tensor, from the pixels around the crop."""
    read, generator = [], np.random.default_rng(0)
    sample = F.grid_sample

    def counting(x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        read.append(tuple(x.shape[2:]))
        return sample(x, *args, **options)

    monkeypatch.setattr(F, "grid_sample", counting)
    whole, size = torch.randn(3, 40, 60).half(), (16, 24)
    augment = Augmentation(crop=(64, 96), input_size=(64, 96), scale=(0.7, 4.0), padding=255, colour=0.0)
    for _ in range(40):
        to_frame = torch.from_numpy(augment.window((160, 240), generator).to_frame())
        (part,) = kept(whole, size).crop(0, to_frame)
        grid = F.affine_grid(to_frame[None], [1, 1, *size], align_corners=False)
        expected = sample(whole[None].float(), grid, padding_mode="border", align_corners=False)[0]
        torch.testing.assert_close(part.float(), expected, rtol=2e-3, atol=2e-3)
    assert min(h * w for h, w in read) < 40 * 60 / 8 and max(h * w for h, w in read) == 40 * 60
