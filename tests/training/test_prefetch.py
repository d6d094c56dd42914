"""The next batches: fetched early where a GPU computes, and in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from pipeline.training import prefetch
from pipeline.training.prefetch import Group, Prefetch


def groups(fetched: list[int], count: int = 3) -> Iterator[Group]:
    for number in range(count):
        fetched.append(number)
        images = torch.full((2, 3, 4, 6), number, dtype=torch.uint8)
        yield [(images, images[:, 0], torch.tensor([number, number]))]


def build(source: Iterator[Group], device: str) -> Prefetch:
    return Prefetch(source, device=torch.device(device), memory_format=torch.channels_last)


def test_a_cpu_fetches_nothing_early_and_copies_nothing() -> None:
    fetched: list[int] = []
    batches = build(groups(fetched), "cpu")
    batches.load()
    assert fetched == []
    ((images, *_),) = next(batches)
    assert fetched == [0] and images.is_contiguous()
    assert [int(group[0][2][0]) for group in batches] == [1, 2]


class Streams:
    """Stands in for torch.cuda: notes which stream waits for which."""

    def __init__(self) -> None:
        self.waits: list[tuple[str, str]] = []

    def make(self, name: str) -> Any:
        return type(name, (), {"wait_stream": lambda this, other: self.waits.append((name, type(other).__name__))})()


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    streams = Streams()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: streams.make("Copying"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams.make("Computing"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    monkeypatch.setattr(prefetch.Prefetch, "_copied", lambda self, group: group)
    return streams


def test_a_gpu_gets_the_next_group_while_it_computes(streams: Streams) -> None:
    fetched: list[int] = []
    batches = build(groups(fetched), "cuda")
    seen = []
    for group in batches:
        seen.append(int(group[0][2][0]))
        assert streams.waits == len(seen) * [("Computing", "Copying")]
        batches.load()
        batches.load()  # one group ahead, not two
        assert fetched == list(range(min(len(seen) + 1, 3)))
    assert seen == [0, 1, 2]
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and its driver; this machine has none")
def test_what_arrives_on_a_gpu_is_what_was_sent() -> None:
    fetched: list[int] = []
    source = ([[part.pin_memory() for part in batch] for batch in group] for group in groups(fetched, count=20))
    batches = Prefetch(source, device=torch.device("cuda"), memory_format=torch.channels_last)
    numbers = []
    for ((images, target, indices),) in batches:
        batches.load()
        assert images.is_cuda and target.is_cuda and not indices.is_cuda
        assert images.is_contiguous(memory_format=torch.channels_last)
        number = int(indices[0])
        assert bool((images == number).all()) and bool((target == number).all())
        numbers.append(number)
    assert numbers == list(range(20))
