"""Validation in batches, counted on the device: the same counts as frame by frame; nothing is measured twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from pipeline.errors import UserError
from pipeline.evaluation.accuracy import predicted
from pipeline.evaluation.confusion import BYTE, ConfusionMatrix
from pipeline.export.torch_engine import TorchEngine
from pipeline.frames import Array, resize_frame, resize_label_map
from pipeline.labels import LabelSpec
from pipeline.prepared import Prepared
from pipeline.training import counting
from pipeline.training.counting import PairCounter, confusion, sources
from pipeline.training.evaluation import frames_at_once, measure
from pipeline.training.processes import accelerator

CPU = torch.device("cpu")
LABELS = LabelSpec(names=("a", "b", "c", "d"), palette=((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)))


class Bright:
    """An engine whose labels are the frame's brightness, in four classes and at half size: exact in any batch."""

    device, input_size, output_size = CPU, (8, 12), (4, 6)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, frames: Tensor) -> Tensor:
        self.batches.append(len(frames))
        return frames[:, ::2, ::2, 1] // 64

    def run(self, frames: Array) -> Array:
        return self.predict(torch.from_numpy(frames)).numpy()


class Sizes:
    """Random frames whose labels have three sizes, one of them that of the predictions."""

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        random = np.random.default_rng(index)
        size = [(17, 23), (4, 6), (9, 5)][index % 3]
        label = random.choice([0, 1, 2, 3, 255], size).astype(np.uint8)
        return random.integers(0, 256, (*size, 3), dtype=np.uint8), label


def frame_by_frame(engine: Any, split: Any, indices: Any, labels: LabelSpec = LABELS) -> list[list[int]]:
    matrix = ConfusionMatrix(num_classes=labels.num_classes, ignore_index=labels.ignore_index)
    for _, label, prediction in predicted(engine, split, indices):
        matrix.add(label, prediction)
    return matrix.counts.tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("batch", "threads", "batches"), [(1, 1, [1] * 13), (4, 3, [4] * 4), (12, 2, [7, 7]), (13, 1, [13]), (99, 8, [13])]
)
def test_batches_count_what_frames_count(batch: int, threads: int, batches: list[int]) -> None:
    engine: Any = Bright()
    indices = [11, *range(3, 9), 0, *range(20, 25)]
    expected = frame_by_frame(engine, Sizes(), indices)
    assert np.count_nonzero(expected) == 16, "all pairs of classes occur"
    engine.batches.clear()
    split: Any = Sizes()
    matrix = confusion(engine, split, labels=LABELS, indices=indices, batch=batch, threads=threads)
    assert matrix.counts.tolist() == expected
    assert engine.batches == batches, "of one size, without a nearly empty one at the end"


@pytest.mark.parametrize("pixels", [2**22, 800, 1])
@pytest.mark.parametrize("batch", [1, 5, 13])
def test_pairs_counted_on_the_device_are_those_of_the_host(
    pixels: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "PIXELS", pixels)
    engine, split, indices = Bright(), Sizes(), [11, *range(3, 9), 0, *range(20, 25)]
    counter = PairCounter(CPU, engine.output_size)
    for start in range(0, len(indices), batch):
        samples = [split[index] for index in indices[start : start + batch]]
        frames = np.stack([resize_frame(frame, engine.input_size) for frame, _ in samples])
        counter.add([label for _, label in samples], engine.predict(torch.from_numpy(frames)))
    matrix = ConfusionMatrix(num_classes=LABELS.num_classes, ignore_index=LABELS.ignore_index)
    matrix.add_pairs(counter.read())
    assert matrix.counts.tolist() == frame_by_frame(engine, split, indices)


def test_no_frames_have_no_counts() -> None:
    engine, split = (Bright(), Sizes())
    assert confusion(engine, split, labels=LABELS, indices=range(0), batch=4).counts.sum() == 0  # type: ignore[arg-type]


def test_an_id_without_a_class_is_refused() -> None:
    engine: Any = Bright()
    split: Any = Sizes()
    two = LabelSpec(names=("a", "b"), palette=((0, 0, 0), (1, 1, 1)))
    with pytest.raises(UserError, match=r"id 3 among labels or predictions; allowed: 0\.\.1"):
        confusion(engine, split, labels=two, indices=range(3), batch=2)


def test_predictions_are_resized_as_opencv_does() -> None:
    """Every pair of a few sizes, and random ones: larger, smaller, odd, equal in one direction."""
    random = np.random.default_rng(0)
    sizes = [(1, 1), (2, 3), (64, 96), (65, 97), (128, 192), (360, 480), (368, 480), (375, 1242), (512, 1024)]
    sizes += [(int(h), int(w)) for h, w in random.integers(1, 700, (12, 2))]
    for old in sizes:
        ids = random.integers(0, 256, old, dtype=np.uint8)
        for new in sizes:
            rows, columns = sources(old[0], new[0]), sources(old[1], new[1])
            resized = torch.from_numpy(ids)[rows[:, None], columns].numpy()
            assert np.array_equal(resized, resize_label_map(ids, new)), (old, new)


def test_pairs_of_all_ids_are_counted_and_read_as_a_copy() -> None:
    counter = PairCounter(CPU, (2, 3))
    label = np.array([[255, 255, 0], [0, 7, 255]], np.uint8)
    prediction = torch.tensor([[[255, 255, 0], [255, 9, 0]], [[1, 1, 1], [1, 1, 1]]], dtype=torch.uint8)
    counter.add([label], prediction)  # the second prediction has no label
    counter.add([label], prediction)
    counter.read()[:] = 0
    pairs = counter.read()
    assert pairs.shape == (BYTE, BYTE) and pairs.dtype == np.int64
    counts = {(int(true), int(other)): int(pairs[true, other]) for true, other in zip(*pairs.nonzero(), strict=True)}
    assert counts == {(255, 255): 4, (0, 0): 2, (0, 255): 2, (7, 9): 2, (255, 0): 2}


def test_a_network_counts_the_same_frame_by_frame(bench: Any) -> None:
    network, split, labels = bench.network(), bench.prepared.split("val"), bench.prepared.labels
    engine = TorchEngine(network, input_size=(64, 96))
    expected = frame_by_frame(engine, split, range(3), labels)
    assert confusion(engine, split, labels=labels, indices=range(3)).counts.tolist() == expected
    together = confusion(engine, split, labels=labels, indices=range(3), batch=3).counts
    assert together.sum() == np.sum(expected)
    moved = np.abs(together - expected).sum() / together.sum()
    assert moved < 1e-3, "only where two classes are nearly equal"


def test_logits_of_a_frame_have_the_same_bits_for_any_strides(bench: Any) -> None:
    """OpenCV's frame with a new first axis (its stride is 0), a batch of one, and a batch in another layout."""
    network, (frame, _) = bench.network(), bench.prepared.split("val")[0]
    engine, logits = TorchEngine(network, input_size=(64, 96)), []
    network.register_forward_hook(lambda module, inputs, output: logits.append(output.logits))
    confusion(engine, bench.prepared.split("val"), labels=bench.prepared.labels, indices=[0])
    engine.run(frame[np.newaxis])
    engine.run(np.stack([frame]))
    engine.run(np.ascontiguousarray(np.stack([frame]).transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1))
    assert len(logits) == 4 and all(torch.equal(logits[0], other) for other in logits[1:])


@pytest.mark.parametrize(
    ("images", "crop", "expected"),
    [(16, (368, 480), 16), (8, (512, 1024), 2), (2, (512, 512), 1), (1, (32, 32), 1), (3, (2048, 2048), 6)],
)
def test_a_gpu_validates_as_many_pixels_at_once_as_it_trains(images: int, crop: tuple[int, int], expected: int) -> None:
    size = (368, 480) if crop == (368, 480) else (1024, 2048)
    assert frames_at_once(images, crop=crop, input_size=size, device=torch.device("cuda", 1)) == expected
    assert frames_at_once(images, crop=crop, input_size=size, device=CPU) == 1


@pytest.fixture
def predictions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Number of frames, and whether autocast was on in the network, of every call of the engine."""
    seen: list[tuple[int, bool]] = []
    predict = TorchEngine.predict

    def counted(self: TorchEngine, frames: Tensor) -> Tensor:
        def note(module: Any, inputs: tuple[Tensor, ...]) -> None:
            assert inputs[0].dtype == torch.float32, "normalisation is in fp32"
            seen.append((len(frames), torch.is_autocast_enabled("cpu")))

        handle = self.graph.network.register_forward_pre_hook(note)
        labels: Tensor = predict(self, frames)
        handle.remove()
        return labels

    monkeypatch.setattr(TorchEngine, "predict", counted)
    return seen


@pytest.fixture
def fresh_accelerator() -> Iterator[None]:
    """accelerate keeps one precision per process, as for one run."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def val_again(network: Any, prepared: Prepared) -> Any:
    AcceleratorState._reset_state()
    return measure(network, prepared, input_size=(64, 96), accelerator=accelerator(precision="fp32"))["val"]


@pytest.mark.parametrize("options", [{}, {"ema": 0.5}, {"store": "decoded"}, {"precision": "bf16"}])
@pytest.mark.usefixtures("fresh_accelerator")
def test_the_best_weights_are_not_measured_again(
    bench: Any, predictions: list[Any], options: dict[str, Any], tmp_path: Path
) -> None:
    task = bench.supervised()
    facts = bench.train(task, tmp_path, steps=5, validate_every=2, **options).facts
    assert predictions == [(1, False)] * 9, "3 frames after steps 2, 4 and 5, each on its own, in fp32"
    assert facts["metrics"]["val"] == val_again(task.network, bench.prepared)
    assert list(facts["metrics"]) == [split for split in bench.prepared.splits if split != "train"]


@pytest.mark.usefixtures("fresh_accelerator")
def test_validation_in_the_precision_of_training_and_the_result_in_fp32(
    bench: Any, predictions: list[Any], tmp_path: Path
) -> None:
    task = bench.supervised()
    options = {"precision": "bf16", "validation_precision": "training"}
    trained = bench.train(task, tmp_path, steps=4, validate_every=2, **options)
    again = [(1, False)] * (3 if trained.last is None else 6)
    assert predictions == [(1, True)] * 6 + again, "the best and the last weights are measured once more, in fp32"
    assert trained.facts["metrics"]["val"] == val_again(task.network, bench.prepared)


@pytest.mark.usefixtures("fresh_accelerator")
def test_a_training_in_fp32_is_validated_in_fp32(bench: Any, predictions: list[Any], tmp_path: Path) -> None:
    bench.train(bench.supervised(), tmp_path, steps=1, validation_precision="training")
    assert predictions == [(1, False)] * 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and its driver; this machine has none")
def test_counts_on_a_gpu(bench: Any) -> None:
    """Sizes, page-locked memory and counters of the GPU give what the host counts of the GPU's own labels."""
    device = torch.device("cuda")
    random = np.random.default_rng(0)
    labels = [random.integers(0, 256, size, dtype=np.uint8) for size in [(17, 23), (4, 6), (17, 23), (500, 700)]]
    ids = torch.from_numpy(random.integers(0, 256, (5, 4, 6), dtype=np.uint8))
    counters = [PairCounter(place, (4, 6)) for place in (CPU, device)]
    for counter in counters:
        counter.add(labels, ids.to(counter._device))
    assert np.array_equal(counters[0].read(), counters[1].read())
    network, split, spec = bench.network().to(device), bench.prepared.split("val"), bench.prepared.labels
    engine = TorchEngine(network, input_size=(64, 96))
    expected = frame_by_frame(engine, split, range(3), spec)
    assert confusion(engine, split, labels=spec, indices=range(3)).counts.tolist() == expected
    together = confusion(engine, split, labels=spec, indices=range(3), batch=2, threads=4).counts
    assert np.abs(together - expected).sum() / together.sum() < 1e-2, "only where two classes are nearly equal"
    counter, (frame, label) = PairCounter(device, (64, 96)), split[0]
    frames = torch.from_numpy(frame[None]).pin_memory()
    for mode in ("default", "error"):  # the second time, waiting for the GPU is an error
        torch.cuda.set_sync_debug_mode(mode)
        try:
            counter.add([label], engine.predict(frames.to(device, non_blocking=True)))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert counter.read().sum() == 2 * label.size
