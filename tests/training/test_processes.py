"""Two processes that share a batch against one that has it all; refusals of what cannot be shared."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import UserError
from pipeline.prepared import Prepared
from pipeline.training import processes
from pipeline.training.evaluation import measure
from pipeline.training.learner import Learner
from pipeline.training.tasks import SupervisedTask
from tests.training.conftest import Bench, in_two_processes, join_the_other

#: Crops are larger than frames, so labelled pixels are spread unevenly over the halves of a batch.
UNEVEN: dict[str, Any] = {**Bench.SGD, "crop": (96, 128), "class_balance": 0.5, "steps": 3, "validate_every": 3}
CIRKD = {"pixel_queue": 40, "region_queue": 10, "pixel_samples": 64, "region_samples": 16}


def distilled(bench: Bench, *, cached: bool = False, **options: Any) -> SupervisedTask:
    """Students that learn by `kd`, whose mean over images is the same however they are divided."""
    task = bench.distillation("kd", **options)
    task.cached = cached
    return bench.image_by_image(task)


def train_in_process(rank: int, folder: str, dataset: str, port: int) -> None:
    join_the_other(rank, port)
    out, bench = Path(folder), Bench(Prepared(Path(dataset)))
    shared = distilled(bench)
    trained = bench.train(shared, out / f"curves-{rank}", log_every=2, **UNEVEN)
    remembering = bench.distillation("cirkd", **CIRKD)
    bench.train(remembering, out / f"memory-{rank}", steps=3)
    fitting = distilled(bench, weight="auto", cached=True)
    bench.train(fitting, out / f"auto-{rank}", log_every=2, **UNEVEN)
    results = {
        "auto": fitting.state_dict(),
        "kd": shared.state_dict(),
        "cirkd": remembering.loss.state_dict(),
        "facts": trained.facts,
    }

    interrupted = bench.distillation("cirkd", **CIRKD)
    with pytest.raises(KeyboardInterrupt):
        _interrupt_after(interrupted, 2)
        bench.train(
            interrupted, out / f"again-{rank}", steps=3, checkpoints=out / "checkpoints", checkpoint_seconds=0.0
        )
    second = bench.distillation("cirkd", **CIRKD)
    bench.train(second, out / f"again-{rank}", steps=3, checkpoints=out / "checkpoints", checkpoint_seconds=0.0)
    results |= {"student": remembering.network.state_dict(), "resumed student": second.network.state_dict()}

    results["normalised"] = _with_batch_norm(bench, out, rank)
    processes.leave()
    assert not torch.distributed.is_initialized(), "its threads can abort a process that ends"
    torch.save(results, out / f"{rank}.pt")


def _with_batch_norm(bench: Bench, out: Path, rank: int) -> dict[str, Any]:
    """A run whose batch norm learns and whose weights are averaged, as it is and interrupted after its best step."""
    options: dict[str, Any] = {"steps": 5, "validate_every": 1, "lr": 3e-2, "ema": 0.9}
    whole, second = bench.supervised(), bench.supervised()
    expected = bench.train(whole, out / f"whole-{rank}", **options).facts
    accelerator = processes.accelerator(precision="fp32")
    measured = measure(whole.network, bench.prepared, input_size=(64, 96), accelerator=accelerator)
    places: dict[str, Any] = {"checkpoints": out / "normalised", "checkpoint_seconds": 0.0}
    interrupted = bench.supervised()
    with pytest.raises(KeyboardInterrupt):
        _interrupt_after(interrupted, 3)
        bench.train(interrupted, out / f"parted-{rank}", **options, **places)
    resumed = bench.train(second, out / f"parted-{rank}", **options, **places).facts
    return {
        "facts": expected, "of the saved weights": measured, "resumed": resumed,
        "whole": whole.network.state_dict(), "resumed network": second.network.state_dict(),
    }  # fmt: skip


def _interrupt_after(task: SupervisedTask, steps: int) -> None:
    """Stop every process at the start of the same step, as a cut of power does."""
    update = Learner.update

    def interrupted(self: Learner, *args: Any, step: int, **options: Any) -> Any:
        if self.task is task and step > steps:
            raise KeyboardInterrupt
        return update(self, *args, step=step, **options)

    Learner.update = interrupted  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def both(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two")
    in_two_processes(train_in_process, str(folder), str(prepared.artifact.path))
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_two_processes_give_what_one_gives(both: Any, bench: Bench, tmp_path: Path) -> None:
    folder, results = both
    alone = distilled(bench)
    trained = bench.train(alone, tmp_path / "curves", **UNEVEN)
    # Three steps change weights by up to 0.15. Rounding changes them by up to 2.6e-4 with the kernels of AVX2.
    exact = torch.backends.cpu.get_cpu_capability() == "AVX512"
    tolerance = 1e-5 if exact else 1e-3
    for name, value in alone.state_dict().items():
        for rank in (0, 1):
            difference = float((value.float() - results[rank]["kd"][name].float()).abs().max())
            assert difference < tolerance, name
    assert results[0]["facts"] == results[1]["facts"]
    assert results[0]["facts"]["metrics"]["val"]["miou"] == pytest.approx(
        trained.facts["metrics"]["val"]["miou"], abs=0.1
    )
    curve = "plots/metrics/train/loss.tsv"
    rows = [
        [float(line.split("\t")[1]) for line in (place / curve).read_text().splitlines()[1:]]
        for place in (tmp_path / "curves", folder / "curves-0")
    ]
    assert rows[0] == pytest.approx(rows[1], rel=tolerance)
    assert not (folder / "curves-1").exists(), "only the first process writes"


def test_weights_that_fit_themselves_are_the_same_in_both_and_in_one_process(
    both: Any, bench: Bench, tmp_path: Path
) -> None:
    """With the teacher's output on whole frames, which each process computes."""
    alone = distilled(bench, weight="auto", cached=True)
    bench.train(alone, tmp_path / "curves", **UNEVEN)
    first, second = (results["auto"] for results in both[1])
    assert int(first["balance.measured"]) == 3
    assert torch.equal(first["balance.fit"], second["balance.fit"])
    assert float(first["balance.fit"]) == pytest.approx(float(alone.state_dict()["balance.fit"]), rel=1e-3)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(first[name], value, rtol=1e-2, atol=1e-3, msg=name)


def test_the_memory_is_filled_by_both_and_the_same_in_both(both: Any) -> None:
    first, second = (results["cirkd"] for results in both[1])
    memory = [name for name in first if "pixels." in name or "regions." in name]
    assert memory and int(first["pixels.filled"].sum()) > 0
    assert all(torch.equal(first[name], second[name]) for name in memory)


def test_two_processes_go_on_to_the_same_bits(both: Any) -> None:
    for results in both[1]:
        assert all(torch.equal(value, results["resumed student"][name]) for name, value in results["student"].items())


def test_batch_norm_is_the_same_in_both_and_what_is_written_is_of_the_saved_weights(both: Any) -> None:
    folder, results = both
    first, second = (each["normalised"] for each in results)
    for name, value in first["whole"].items():
        assert torch.equal(value, second["whole"][name]), name
        assert torch.equal(value, first["resumed network"][name]), name
    assert first["facts"]["metrics"] == first["of the saved weights"]
    assert first["facts"] == first["resumed"] == second["resumed"]
    tables = [(folder / f"{which}-0/plots/metrics/val/miou.tsv").read_bytes() for which in ("whole", "parted")]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(("accumulate", "count"), [(1, 3), (3, 1), (2, 4)])
def test_a_batch_that_cannot_be_divided_is_refused(accumulate: int, count: int) -> None:
    assert processes.part_of_batch(24, accumulate=accumulate, processes=count) == 24 / accumulate / count
    with pytest.raises(UserError, match=rf"batch_size: got 10; .* multiple of {accumulate * count}"):
        processes.part_of_batch(10, accumulate=accumulate, processes=count)


def test_batch_norm_needs_more_than_one_image(bench: Bench) -> None:
    with pytest.raises(UserError, match=r"each process takes 1 image at a time, .* raise batch_size"):
        processes.ready_for_several(bench.supervised(), processes=2, images=1, sync_batch_norm=False)
    with pytest.raises(UserError, match="each process takes 1 image"):
        bench.train(bench.supervised(), Path("unused"), batch_size=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="SyncBN works here")
def test_synchronised_batch_norm_needs_gpus(bench: Bench) -> None:
    with pytest.raises(UserError, match="sync_batch_norm: true needs GPUs"):
        processes.ready_for_several(bench.supervised(), processes=2, images=4, sync_batch_norm=True)
    task = bench.supervised()
    processes.ready_for_several(task, processes=1, images=4, sync_batch_norm=True)
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in task.modules())


def test_synchronised_batch_norm_keeps_the_activation(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm fuses activations into its batch norm; torch's own conversion would drop them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    task = bench.supervised().eval()
    x = torch.randn(1, 3, 64, 96)
    before = task.network(x).logits
    processes.ready_for_several(task, processes=2, images=4, sync_batch_norm=True)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in task.modules())
    assert torch.equal(task.eval().network(x).logits, before)  # in eval mode it computes as batch norm does


@pytest.mark.parametrize("asked", ["0", "-1", "two", "", "1.5"])
def test_a_wrong_number_of_processes_is_refused(asked: str) -> None:
    with pytest.raises(UserError, match=r"SEGPRESS_PROCESSES: got '.*'; allowed: a number"):
        processes.start_asked_for({"SEGPRESS_PROCESSES": asked})


def test_the_launcher_takes_the_place_of_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(torch.distributed.run, "main", started.append)
    monkeypatch.setattr(sys, "argv", ["stages/distill.py", "--student", "a b"])
    processes.start_asked_for({})
    processes.start_asked_for({"SEGPRESS_PROCESSES": "1"})
    processes.start_asked_for({"SEGPRESS_PROCESSES": "8", "LOCAL_RANK": "3"})  # a launcher started this one
    assert not started
    with pytest.raises(SystemExit) as ended:
        processes.start_asked_for({"SEGPRESS_PROCESSES": "8"})
    assert ended.value.code == 0
    assert started == [["--standalone", "--nproc-per-node=8", "stages/distill.py", "--student", "a b"]]


def test_processes_end_with_their_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, several = processes.Launcher(1), processes.Launcher(2)
    another = os.getppid() + 1
    monkeypatch.setattr(os, "getppid", lambda: another)
    alone.check()
    with pytest.raises(UserError, match="the launcher of these processes has ended"):
        several.check()
