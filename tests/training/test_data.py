"""Crops and random draws: equal for every number of workers; labels are never interpolated."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from pipeline.errors import UserError
from pipeline.prepared import Prepared
from pipeline.training import data


def crops(prepared: Prepared, *, seed: int = 0, crop: tuple[int, int] = (64, 64)) -> data.Crops:
    augment = data.augmentation(crop=crop, input_size=(64, 96), scale=(0.5, 2.0), colour=0.5, labels=prepared.labels)
    return data.Crops(prepared.split("train"), augment, seed=seed)


def test_shapes_types_and_ids(prepared: Prepared) -> None:
    image, target, index = crops(prepared)[0, 0]
    assert index == 0
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8
    assert target.shape == (64, 64) and target.dtype == torch.uint8
    allowed = {*range(prepared.labels.num_classes), prepared.labels.ignore_index, prepared.labels.padding}
    assert set(torch.unique(target).tolist()) <= allowed


def test_workers_and_start_do_not_change_a_crop(prepared: Prepared) -> None:
    def load(*, workers: int, first: int = 0) -> list[list[torch.Tensor]]:
        draws = data.Draws(length=10, steps=4, images=4, seed=1, first=first)
        return list(data.batches(crops(prepared), draws, workers=workers))

    alone = load(workers=0)
    torch.manual_seed(99)
    assert len(alone) == 4
    for batches in (load(workers=2), alone[:2] + load(workers=0, first=2)):
        assert all(
            torch.equal(a, b) for one, two in zip(alone, batches, strict=True) for a, b in zip(one, two, strict=True)
        )


def test_seed_and_draw_change_a_crop(prepared: Prepared) -> None:
    reference = crops(prepared)[0, 0][0]
    assert not torch.equal(reference, crops(prepared)[0, 1][0])
    assert not torch.equal(reference, crops(prepared, seed=1)[0, 0][0])
    state = torch.random.get_rng_state()
    crops(prepared)[0, 0]
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_frame_is_one_message(prepared: Prepared, workers: int) -> None:
    class Damaged(data.Crops):
        def __getitem__(self, item: tuple[int, int]) -> Any:
            raise UserError("x.png: not a readable image; restore the file")

    damaged = Damaged(prepared.split("train"), crops(prepared).augment, seed=0)
    with pytest.raises(UserError) as caught:
        list(data.batches(damaged, data.Draws(length=10, steps=1, images=2, seed=0), workers=workers))
    assert str(caught.value) == "x.png: not a readable image; restore the file"


def test_a_loader_process_that_is_ended_is_one_message(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    # torch looks after its processes every 5 s
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))

    class Ending(data.Crops):
        def __getitem__(self, item: tuple[int, int]) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

    ending = Ending(prepared.split("train"), crops(prepared).augment, seed=0)
    with pytest.raises(UserError, match=r"a process that loads crops was ended \(DataLoader worker .*lower workers"):
        list(data.batches(ending, data.Draws(length=10, steps=1, images=2, seed=0), workers=1))


def test_draws_cover_everything_before_they_repeat() -> None:
    draws = [pair for part in data.Draws(length=5, steps=6, images=2, seed=0) for pair in part]
    assert len(draws) == 12
    assert sorted(index for index, turn in draws if turn == 0) == list(range(5))
    assert sorted(index for index, turn in draws if turn == 1) == list(range(5))
    assert len([1 for _, turn in draws if turn == 2]) == 2
    assert draws != [pair for part in data.Draws(length=5, steps=6, images=2, seed=1) for pair in part]


def test_processes_and_parts_divide_what_one_process_draws() -> None:
    whole = list(data.Draws(length=7, steps=5, images=8, seed=3))
    shared = [data.Draws(length=7, steps=5, images=2, seed=3, accumulate=2, process=p, processes=2) for p in (0, 1)]
    assert [len(draws) for draws in shared] == [10, 10]
    parts = [list(draws) for draws in shared]
    for step, batch in enumerate(whole):
        together = [pair for part in (2 * step, 2 * step + 1) for process in (0, 1) for pair in parts[process][part]]
        assert together == batch


def test_class_weights_against_hand_counts(prepared: Prepared) -> None:
    split, labels = prepared.split("train"), prepared.labels
    counts = sum(np.bincount(split.label(i).ravel(), minlength=256)[: labels.num_classes] for i in range(len(split)))
    share = counts / counts.sum()
    weights = data.class_weights(prepared, balance=0.5)
    assert weights is not None
    present = share > 0
    ratio = weights.numpy()[present] * np.sqrt(share[present])
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
    assert float((weights.numpy() * share).sum()) == pytest.approx(1.0, rel=1e-5)
    assert data.class_weights(prepared, balance=0) is None
