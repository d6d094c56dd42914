"""Frames without labels in batches: which ones join; parts, processes and the identity of a run."""

from __future__ import annotations

import logging
from itertools import chain
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest
import torch

from pipeline.errors import UserError
from pipeline.prepared import Prepared, Unlabelled
from pipeline.settings import params
from pipeline.training import data, processes, run
from pipeline.training.settings import TrainingSettings, without_labels
from tests.training.conftest import Bench, in_two_processes, join_the_other
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
    join_the_other(rank, port)
    bench = Bench(Prepared(Path(dataset)))
    task = bench.image_by_image(bench.labelling("kd", "both"))
    started(bench, task, Path(folder) / f"curves-{rank}", Unlabelled(Path(unlabelled)))
    processes.leave()
    torch.save(task.state_dict(), Path(folder) / f"{rank}.pt")


def test_two_processes_give_what_one_gives(bench: Bench, frames: Unlabelled, tmp_path: Path) -> None:
    in_two_processes(in_process, str(tmp_path), str(bench.prepared.artifact.path), str(frames.artifact.path))
    alone = bench.image_by_image(bench.labelling("kd", "both"))
    started(bench, alone, tmp_path / "alone", frames)
    for rank in (0, 1):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(shared[name], value, rtol=1e-3, atol=1e-3, msg=name)


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
