"""Ring buffers and the choice of pixels, against plain Python."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipeline.losses._queues import ClassQueues, random_members


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_ring_buffers_equal_a_deque() -> None:
    draw = torch.Generator().manual_seed(1)
    queues = ClassQueues(num_classes=3, length=5, channels=2)
    expected: list[deque[tuple[float, ...]]] = [deque(maxlen=5) for _ in range(3)]
    written = [0, 0, 0]
    for n in (2, 0, 4, 7, 20, 1):
        vectors = torch.randn(n, 2, generator=draw)
        classes = torch.randint(0, 2, (n,), generator=draw)  # class 2 does not occur
        queues.append(vectors, classes)
        for vector, c in zip(vectors.tolist(), classes.tolist(), strict=True):
            expected[c].append(tuple(vector))
            written[c] += 1
        for c in range(3):
            filled = int(queues.filled[c])
            assert filled == len(expected[c])
            assert int(queues.pointer[c]) == written[c] % 5
            assert sorted(map(tuple, queues.vectors[c, :filled].tolist())) == sorted(expected[c])
    assert not queues.vectors.requires_grad


def test_only_filled_slots_are_sampled() -> None:
    queues = ClassQueues(num_classes=3, length=8, channels=1)
    assert queues.sample(4, generator()).shape == (0, 1)
    queues.append(torch.arange(1.0, 12.0)[:, None], torch.tensor([0] * 9 + [1] * 2))
    sampled = queues.sample(4, generator())[:, 0].tolist()
    assert len(sampled) == 4 + 2 and len(set(sampled)) == 6
    assert set(sampled[:4]) <= set(range(2, 10)) and set(sampled[4:]) == {10.0, 11.0}


def test_full_classes_share_their_slots() -> None:
    queues = ClassQueues(num_classes=2, length=6, channels=1)
    queues.append(torch.arange(12.0)[:, None], torch.tensor([0] * 6 + [1] * 6))
    sampled = queues.sample(3, generator())[:, 0]
    assert torch.equal(sampled[:3] + 6, sampled[3:])


def test_chosen_pixels_are_of_their_class_and_no_more_than_asked() -> None:
    labels = torch.randint(-1, 6, (3, 40), generator=generator())  # K = 5: -1 and 5 belong to no class
    chosen = random_members(labels, each=4, num_classes=5)
    image, classes = chosen // 40, labels.flatten()[chosen]
    assert len(set(chosen.tolist())) == len(chosen)
    for n in range(3):
        for c in range(5):
            members = int((labels[n] == c).sum())
            assert int(((image == n) & (classes == c)).sum()) == min(4, members)
    keys = (image * 5 + classes).tolist()
    assert keys == sorted(keys) and set(classes.tolist()) <= set(range(5))


def test_every_member_can_be_chosen() -> None:
    labels = torch.tensor([[0, 1, 0, 0, 1, 0]])
    torch.manual_seed(0)
    seen = {int(i) for _ in range(100) for i in random_members(labels, each=1, num_classes=2)}
    assert seen == set(range(6))


def append_in_process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    queues = ClassQueues(num_classes=2, length=4, channels=1)
    own = torch.tensor([[1.0], [2.0], [3.0]]) if rank == 0 else torch.tensor([[4.0]])
    queues.append(own, torch.tensor([0, 1, 0]) if rank == 0 else torch.tensor([1]))
    queues.append(own[:0], torch.zeros(0, dtype=torch.int64))
    torch.save(queues.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
def test_two_processes_hold_the_vectors_of_both(tmp_path: Path) -> None:
    mp.spawn(append_in_process, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert first["vectors"][0, :2, 0].tolist() == [1, 3] and first["vectors"][1, :2, 0].tolist() == [2, 4]
    assert first["filled"].tolist() == [2, 2]
