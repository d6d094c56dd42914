"""A student trained with frames without labels: its artifact, its steps, and options that contradict."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ruamel.yaml import YAML

from pipeline import artifact, licence
from pipeline.errors import UserError
from pipeline.models.weights import network_artifact
from pipeline.prepared import Unlabelled
from pipeline.settings import params
from pipeline.training import data, run
from pipeline.training.distillation import DistillationTask
from pipeline.training.frame_outputs import FrameOutputs, frame_outputs
from pipeline.training.students import distill
from pipeline.training.unlabelled import check_parts, ready_for_unlabelled
from tests.training.conftest import Bench
from tests.training.conftest import without_labels as rendered

ROOT = Path(__file__).parents[2]
IGNORE, PADDING = 255, 254


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
    assert meta["training"] == {"seed": 0, "batch_size": 4}
    passes = [distilled("none", labels=labels)[1]["teacher_passes"] for labels in ("soft", "hard")]
    assert passes == [0, 1], "the teacher runs for the labels alone, too"


def test_the_student_lists_the_licences_of_its_sources(distilled: Any, tmp_path: Path, bench: Bench) -> None:
    def roles(loss: str, **options: Any) -> tuple[list[str], bool | None]:
        sources = distilled(loss, **options)[0]["licences"]
        assert (sources[0]["of"], sources[0]["name"]) == ("streets", "Apache-2.0")
        return [each["role"] for each in sources], licence.commercial(sources)

    alone = {"unlabelled": None, "length": {"stage0": {"steps": 0}}}
    assert roles("none", **alone) == (["data"], True), "nothing is learned from the teacher"
    assert roles("kd", **alone) == (["data", "teacher's data"], None), "an earlier version wrote the teacher"
    assert roles("none", unlabelled=None) == (["data", "teacher's data"], None), "stage 0 learns its features"
    assert roles("kd") == (["data", "frames without labels", "teacher's data"], None)
    forbids = {"name": "CC BY-NC 4.0", "url": "", "commercial": False, "note": ""}
    for sources, expected in (
        ([licence.data(bench.prepared.artifact.meta)], (["data"], True)),
        ([licence.data({"dataset": "camvid", "licence": forbids})], (["data", "teacher's data"], False)),
    ):
        network_artifact.save(
            tmp_path / "t", bench.network(seed=1), name="smp", options=bench.OPTIONS, labels=bench.prepared.labels,
            input_size=(64, 96), facts={"licences": sources},
        )  # fmt: skip
        assert roles("kd", **alone) == expected


def test_the_time_in_which_the_teacher_sees_whole_frames_is_training(
    distilled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def long(task: DistillationTask, *args: Any, **options: Any) -> FrameOutputs | None:
        outputs = frame_outputs(task, *args, **options)
        task.cached_seconds += 0 if outputs is None else 1000.0
        return outputs

    monkeypatch.setattr(run, "frame_outputs", long)
    teaching = {"flip": True, "scales": [1.0], "others": [], "cached": True}
    _, costs = distilled("kd", unlabelled=None, length={"teaching": teaching})
    assert costs["training_seconds"] > costs["cached_seconds"] > 1000 > costs["stage0_seconds"]
    assert costs["teacher_passes"] == 0


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
