"""Checkpoints: complete or absent, never of another run, and sufficient to resume."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.settings import params, training_params
from pipeline.training import checkpoints as module
from pipeline.training import tensor_tree
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.identity import Identity
from pipeline.training.settings import TrainingSettings
from tests.training.conftest import SETTINGS

ROOT = Path(__file__).parents[2]
STATE = {"weights": {"a": torch.arange(6.0)}, "best": {"step": 2, "metrics": {"miou": 1.5}}}


def store(root: Path, *, keep: int = 2, **changes: Any) -> Checkpoints:
    identity = Identity(replace(SETTINGS, **changes), {"dataset": "x"})
    return Checkpoints(root, identity, every_seconds=0.0, keep=keep)


def test_a_tree_keeps_its_types_after_split_and_join() -> None:
    shared = torch.ones(4)
    tree = {
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "param_groups": [{"betas": (0.9, 0.99)}]},
        "views": [shared, shared[:2], torch.ones(2, 3).T],
        "plain": [None, True, 1, 2.5, "text", ()],
        "$": {"counter": torch.tensor(7), "flag": torch.tensor([True])},
    }
    joined = tensor_tree.join(*tensor_tree.split(tree))
    assert joined["optimizer"]["param_groups"] == [{"betas": (0.9, 0.99)}] and list(joined["optimizer"]["state"]) == [
        0,
        1,
    ]
    assert joined["plain"] == tree["plain"] and isinstance(joined["plain"][-1], tuple)
    assert joined["$"]["counter"].dtype == torch.int64 and joined["$"]["flag"].dtype == torch.bool
    assert all(torch.equal(a, b) for a, b in zip(joined["views"], tree["views"], strict=True))
    _, tensors = tensor_tree.split(tree)
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == len(tensors)


def test_the_newest_is_read_and_old_ones_are_removed(tmp_path: Path) -> None:
    with store(tmp_path) as checkpoints:
        assert checkpoints.newest() is None
        for step in (1, 2, 3, 4):
            checkpoints.write(step, {**STATE, "step": step}, circumstances={"device": "cpu"})
        assert checkpoints.steps() == [3, 4]
    with store(tmp_path) as reopened:
        newest = reopened.newest()
    assert newest is not None
    step, state, circumstances = newest
    assert step == 4 and state["step"] == 4 and circumstances["device"] == "cpu"
    assert torch.equal(state["weights"]["a"], STATE["weights"]["a"]) and state["best"] == STATE["best"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "removed", "no meta", "wrong skeleton"])
def test_a_damaged_newest_checkpoint_is_skipped(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    with store(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.write(step, {**STATE, "step": step}, circumstances={})
    folder = checkpoints.folder / "step-00000002"
    file = folder / module.TENSORS
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    elif damage == "flipped":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
    elif damage == "removed":
        file.unlink()
    elif damage == "no meta":
        (folder / artifact.META).unlink()
    else:
        (folder / module.SKELETON).write_text("{")
    with store(tmp_path) as reopened:
        newest = reopened.newest()
    assert newest is not None and newest[0] == 1 and newest[1]["step"] == 1
    assert "the checkpoint of step 2 is damaged and is not used" in caplog.text


def test_a_damaged_checkpoint_is_replaced_when_its_step_is_written_again(tmp_path: Path) -> None:
    with store(tmp_path) as checkpoints:
        checkpoints.write(2, STATE, circumstances={})
        (checkpoints.folder / "step-00000002" / artifact.META).unlink()
        (checkpoints.folder / "step-note").mkdir()
        assert checkpoints.newest() is None
        checkpoints.write(2, STATE, circumstances={})
        assert checkpoints.newest() is not None


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with store(tmp_path) as checkpoints:
        checkpoints.write(5, STATE, circumstances={})
        monkeypatch.setattr(module, "save_file", full)
        with pytest.raises(UserError, match=r"step 6 cannot be written .*No space left.*that of step 5 is kept.* MiB"):
            checkpoints.write(6, STATE, circumstances={})
        newest = checkpoints.newest()
        assert newest is not None and newest[0] == 5
        assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["lock", "run.json", "step-00000005"]


def test_a_partial_checkpoint_is_removed(tmp_path: Path) -> None:
    with store(tmp_path) as checkpoints:
        torn = checkpoints.folder / ".step-00000003.partial-x"
        torn.mkdir()
        (torn / module.TENSORS).write_bytes(b"half")
    with store(tmp_path) as reopened:
        assert reopened.newest() is None and not torn.exists()


def test_another_run_is_named_and_not_resumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with store(tmp_path, lr=0.01) as checkpoints:
        checkpoints.write(5, STATE, circumstances={})
    with store(tmp_path, lr=0.02) as other:
        assert other.folder != checkpoints.folder and other.newest() is None
    assert "starting at step 0" in caplog.text and "settings.lr was 0.01, is 0.02" in caplog.text
    with store(tmp_path, lr=0.01) as reopened:
        assert reopened.newest() is not None


#: A value of every field that :data:`SETTINGS` does not have.
OTHERS: dict[str, Any] = {
    "input_size": (96, 64), "crop": (64, 96), "scale": (0.5, 2.0), "colour_jitter": 0.0, "class_balance": 0.5,
    "batch_size": 8, "accumulate": 2, "steps": 5, "seed": 1, "precision": "bf16", "optimizer": "sgd", "lr": 1e-3,
    "lr_factors": {"encoder": 1.0, "head": 1.0, "loss": 0.5}, "momentum": 0.8, "weight_decay": 0.0,
    "decay_norms": False, "clip_norm": 1.0, "schedule": "cosine", "power": 1.0, "warmup": 0, "ema": 0.9,
    "sync_batch_norm": True, "channels_last": True, "compile": True, "validate_every": 1, "determinism": "off",
    "keep_start": True, "validation_precision": "training", "unlabelled_images": 1,
}  # fmt: skip


@pytest.mark.parametrize("field", [field.name for field in fields(TrainingSettings)])
def test_every_setting_is_part_of_the_identity(field: str) -> None:
    before, after = Identity(SETTINGS, {}), Identity(replace(SETTINGS, **{field: OTHERS[field]}), {})
    assert before.key != after.key
    (difference,) = after.differences(before.facts)
    assert difference.startswith(f"settings.{field}")


def test_every_value_of_a_recipe_is_a_setting_or_changes_no_result() -> None:
    """Epochs become steps; seed, stage 0, teaching and frames without labels are given separately; the others change
    the speed alone."""
    names = {field.name for field in fields(TrainingSettings)}
    apart = {"epochs", "stage0", "teaching", "unlabelled", "workers", "store", "log_every"}
    assert training_params.Distill.model_fields.keys() - names == apart
    assert names - training_params.Distill.model_fields.keys() == {"input_size", "keep_start", "unlabelled_images"}
    original = params.load(ROOT / "params.yaml", kinds=()).distill
    recipe = original.model_copy(update={"steps": None, "epochs": 1.5, "class_balance": 0.25})
    settings = TrainingSettings.of(recipe, images=3 * recipe.batch_size, input_size=(64, 96), seed=7)
    assert (settings.steps, settings.seed, settings.input_size, settings.keep_start) == (5, 7, (64, 96), False)
    for name, value in recipe.model_dump(exclude={"steps", "seed", *apart}).items():
        assert getattr(settings, name) == value, name


def test_another_class_balance_does_not_resume(bench: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It sets the weights of the cross-entropy, so the first losses differ too."""
    places: dict[str, Any] = {"checkpoints": tmp_path / "kept", "checkpoint_seconds": 0.0, "steps": 2}
    caplog.set_level(logging.INFO)
    curves = {}
    for balance in (0.0, 0.5):
        bench.train(bench.supervised(), tmp_path / str(balance), class_balance=balance, **places)
        curves[balance] = next((tmp_path / str(balance)).rglob("ce.tsv")).read_text().splitlines()
    assert "resuming" not in caplog.text
    assert caplog.text.count("settings.class_balance was 0.0, is 0.5") == 1
    assert len(curves[0.5]) == 3 and curves[0.0][1] != curves[0.5][1]
    bench.train(bench.supervised(), tmp_path / "again", class_balance=0.5, **places)
    assert caplog.text.count("resuming after step 2") == 1


def test_checkpoints_of_an_earlier_version_are_named_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They record the class balance as an input, not as a setting."""
    with store(tmp_path) as checkpoints:
        checkpoints.write(3, STATE, circumstances={})
    facts = {name: value for name, value in checkpoints.identity.facts.items() if name != "settings.class_balance"}
    earlier = checkpoints.folder.rename(tmp_path / "0123456789abcdef")
    artifact.write_text(earlier / module.RUN, artifact.dump_json({**facts, "inputs.class_balance": 0.0}))
    with store(tmp_path) as other:
        assert other.newest() is None
    (line,) = caplog.messages
    assert line.startswith(f"starting at step 0: the unfinished run in {earlier} (")
    assert "is another run (settings.class_balance is new; inputs.class_balance is gone); remove" in line


def test_changed_code_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Identity(SETTINGS, {})
    assert before.key == Identity(replace(SETTINGS, scale=list(SETTINGS.scale)), {}).key  # type: ignore[arg-type]
    assert "code.pipeline/training/checkpoints.py" in before.facts and "library.torch" in before.facts
    digest = artifact.sha256
    monkeypatch.setattr(artifact, "sha256", lambda path: "0" if path.name == "checkpoints.py" else digest(path))
    after = Identity(SETTINGS, {})
    assert after.key != before.key
    assert after.differences(before.facts) == ["code.pipeline/training/checkpoints.py changed"]


def _hold(root: Path, ready: Any, release: Any) -> None:
    with store(root):
        ready.set()
        release.wait(30)


def test_two_processes_cannot_train_the_same_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, release))
    other.start()
    try:
        assert ready.wait(30)
        with pytest.raises(UserError, match=rf"process {other.pid} trains the same run"), store(tmp_path):
            pass
    finally:
        release.set()
        other.join(30)
        other.kill()
    with store(tmp_path):  # free again
        pass


def test_loader_processes_do_not_keep_the_lock(tmp_path: Path) -> None:
    """They run for some seconds after their parent was killed; the next start must not wait for them."""
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from pipeline.training.checkpoints import Checkpoints\n"
        "from pipeline.training.identity import Identity\n"
        "from pipeline.training.settings import TrainingSettings\n"
        "root = Path(sys.argv[1])\n"
        f"identity = Identity({SETTINGS!r}, {{'dataset': 'x'}})\n"
        "with Checkpoints(root, identity, every_seconds=0.0) as kept:\n"
        "    loader = os.fork()\n"
        "    if loader:\n"
        "        print(kept.folder.name, loader, flush=True)\n"
        "    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    loader = None
    try:
        key, loader = holder.stdout.readline().split()
        assert (tmp_path / key / "lock").read_text() == str(holder.pid)
        checkpoints = store(tmp_path)
        checkpoints.folder = tmp_path / key  # this process has loaded other modules, so its own key is another one
        with pytest.raises(UserError, match=f"process {holder.pid} trains the same run"), checkpoints:
            pass
        holder.kill()
        holder.wait(timeout=30)
        with checkpoints:
            pass
        os.kill(int(loader), 0)  # it still runs
    finally:
        holder.kill()
        if loader is not None:
            os.kill(int(loader), signal.SIGKILL)


def test_writing_takes_a_twentieth_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    checkpoints = store(tmp_path)
    checkpoints._every, checkpoints._took = 60.0, 5.0
    now[0] = 199.0
    assert not checkpoints.due()
    now[0] = 200.0
    assert checkpoints.due()


@pytest.mark.parametrize("ema", [None, 0.9])
def test_an_interrupted_run_resumes_to_the_same_bits(
    bench: Any, tmp_path: Path, ema: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Its curves and best weights are equal too. The checkpoints are removed when the result is written."""
    options = {"ema": ema, "lr": 5e-3, "steps": 5, "optimizer": "sgd", "accumulate": 2}
    whole, cut, resumed = (bench.distillation("i2ckd") for _ in range(3))
    expected = bench.train(whole, tmp_path / "whole", **options)
    places: dict[str, Any] = {"checkpoints": tmp_path / "kept", "checkpoint_seconds": 0.0}
    forward, calls = cut.forward, []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) > 7:  # in the second part of the fourth step
            raise KeyboardInterrupt
        return forward(*args)

    cut.forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        bench.train(cut, tmp_path / "cut", **options, **places)
    caplog.set_level(logging.INFO)
    trained = bench.train(resumed, tmp_path / "cut", **options, **places)
    assert "resuming after step 3" in caplog.text
    assert trained.facts == expected.facts and len(trained.costs.seconds) == 5
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    curves = [{file.name: file.read_bytes() for file in (tmp_path / name).rglob("*.tsv")} for name in ("whole", "cut")]
    assert curves[0] and curves[0] == curves[1]
    assert (tmp_path / "whole/metrics.json").read_text() == (tmp_path / "cut/metrics.json").read_text()
    trained.finish()
    assert not (tmp_path / "kept").exists()
