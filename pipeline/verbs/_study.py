"""The folder of a study: shared data and teacher, one folder per run, and the results made of them.

shared/                       data set and teacher
times/<comparison>/<row>/     short trainings that are timed
runs/<comparison>/<row>-<seed>/
shown/<name>/                 engines that are checked with all latencies
results/, report/
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import artifact
from pipeline.artifact import dump_json, write_text
from pipeline.errors import UserError
from pipeline.reporting.comparison import Run, summarise
from pipeline.settings import loss_mixture, params
from pipeline.settings.params import Params
from pipeline.settings.study import TEACHER, Study, as_yaml, changed, row_of
from pipeline.verbs._equal_minutes import TIMED, Changes, length_of, strayed
from pipeline.verbs._graph import link, locked, steps
from pipeline.verbs._steps import perform, run_stage
from pipeline.verbs.compare import CURVE, HARDLY_TIMED, conditions_of, facts_of

#: Stages that all runs share, and what the runs use of them.
SHARED = ("device", "raw_data", "sources", "prepare", "prepare_unlabelled", "train_teacher")
COMMON = ("artifacts/dataset", "artifacts/unlabelled", "artifacts/teacher", "artifacts/device.json")
#: Stages after the training, and after INT8.
DEPLOYED = ("export", "calibrate", "quantize", "convert", "check")
MEASURED = ("convert", "check")
#: Folder in each run's folder with the record of finished steps.
RECORD = ".steps"


class StageError(Exception):
    """A stage ended with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Work:
    """The folder of a study.

    Args:
        values: those of params.yaml with the study's changes.
        until: time (``time.monotonic``) at which the running stage is stopped.
    """

    def __init__(self, study: Study, values: Mapping[str, Any], folder: Path, *, until: float | None) -> None:
        self.study, self.values, self.folder, self.until = study, values, folder.resolve(), until
        self.shared = self.folder / "shared"
        self.settings = self._params(self.shared, {})

    def prepare(self) -> None:
        """Prepare the data set and train the teacher."""
        with locked(self.shared, wait=True):
            self._perform(self.shared, SHARED, "shared")
        measured = sorted(split for split, reached in self._teacher()["metrics"].items() if reached["miou"] is not None)
        if (split := self.settings.check.split) not in measured:
            raise UserError(f"check.split: got '{split}', on which no network is measured; choose one of {measured}")

    def lengths(self, name: str) -> dict[str, Changes]:
        """The changed params that give each row of a comparison its minutes; rows are timed one after another."""
        comparison = self.study.comparisons[name]
        if comparison.minutes is None:
            return {key: {} for key in comparison.rows}
        times = self.folder / "times" / name
        timed = [key for key, row in comparison.rows.items() if row.training is None]
        with locked(times, wait=True):
            missing = not all(list((times / key).glob("artifacts/costs/*.json")) for key in timed)
            with self._processor(alone=missing):
                found = {key: self._length(name, key, 60 * comparison.minutes) for key in timed}
        return {key: found.get(key, {}) for key in comparison.rows}

    def run(self, name: str, key: str, seed: int, *, length: Changes) -> bool:
        """One run of a comparison, from its training to INT8; False if another process is at it."""
        comparison = self.study.comparisons[name]
        training = comparison.rows[key].training
        folder, student = self._run(name, key, seed), comparison.student
        with locked(folder) as free:
            if not free:
                return False
            changes = self._run_changes(name, key, seed, length)
            if not self._is_current(folder, changes):
                (folder / f"results/{student}.json").unlink(missing_ok=True)
            self._params(folder, changes)
            link(folder, COMMON, source=self.shared)
            if training:
                trained = [
                    f"artifacts/{place.format(student)}" for place in ("students/{}", "costs/{}.json", "curves/{}")
                ]
                link(folder, trained, source=self._trained(training, seed, of=f"{name}/{key}"))
            stages = ("sources", *(() if training else ("distill",)), "qat", *DEPLOYED)
            with self._processor(alone=False):
                self._perform(folder, stages, f"{name}/{key}/{seed}", student=student)
        return True

    def write(self, name: str, lengths: Mapping[str, Changes]) -> None:
        """Write results/comparison-NAME.json from all finished runs that have the current params.

        Times are those of the short trainings: other processes may have run beside the runs.
        """
        comparison = self.study.comparisons[name]
        runs: dict[str, dict[int, Run]] = {key: {} for key in comparison.rows}
        common: dict[str, Any] = {}
        counts: dict[str, int] = {}
        for key, seed in ((key, seed) for seed in comparison.seeds for key in comparison.rows):
            folder, student = self._run(name, key, seed), comparison.student
            results, trained = folder / f"results/{student}.json", folder / f"artifacts/students/{student}"
            current = self._is_current(folder, self._run_changes(name, key, seed, lengths[key]))
            if not (current and results.is_file() and (trained / "meta.json").is_file()):
                continue
            network = artifact.load(trained, kind="network").meta
            run, common = facts_of(
                network, teacher=self._teacher(), results=_read(results), split=self.settings.check.split,
                costs=_read(folder / f"artifacts/costs/{student}.json"),
                curve=(folder / f"artifacts/curves/{student}" / CURVE).read_text(encoding="utf-8"),
            )  # fmt: skip
            counts[key] = network["last"]["step"]
            if timed := self._timed(name, key):
                each = timed["seconds_per_step"]
                run = replace(run, seconds_per_step=each, training_seconds=timed["cached_seconds"] + counts[key] * each)
            runs[key][seed] = run
        if not common:
            return
        equal = comparison.minutes is not None
        base = next(iter(comparison.rows))
        rows = []
        for key, row in comparison.rows.items():
            if runs[key]:
                mixture = loss_mixture.resolve(self.study.loss(row), self.settings.losses)
                rows.append(
                    summarise(
                        key, runs[key], seeds=comparison.seeds, loss=loss_mixture.title(mixture),
                        options={**mixture, **row.params}, base=runs[base],
                        steps=counts[key] if equal else None,
                    )
                )  # fmt: skip
        conditions = conditions_of(
            self.settings, student=comparison.student, split=self.settings.check.split, weights="best",
            steps=None if equal else next(iter(counts.values())), minutes=comparison.minutes,
        )  # fmt: skip
        content = {
            **common, **conditions, "title": comparison.title, "seeds": comparison.seeds,
            "rows": [row.model_dump() for row in rows],
        }  # fmt: skip
        write_text(self.folder / "results" / f"comparison-{name}.json", dump_json(content))

    def reached(self, name: str, key: str, seed: int) -> str:
        """mIoU of a finished run, in words."""
        student = self.study.comparisons[name].student
        variants = _read(self._run(name, key, seed) / f"results/{student}.json")["variants"]
        return ", ".join(f"{kind} {variants[kind]['miou']:.2f}" for kind in ("torch", "int8"))

    def strayed(self, name: str, key: str, seed: int) -> str:
        """A warning if a step of a run took another time than when its row was timed; else empty."""
        if self.study.comparisons[name].minutes is None or self.study.comparisons[name].rows[key].training:
            return ""
        costs = _read(self._run(name, key, seed) / f"artifacts/costs/{self.study.comparisons[name].student}.json")
        timed = self._timed(name, key)
        advice = f"remove times/{name} in the folder of --work to time its rows again"
        return strayed(costs["seconds_per_step"], timed=timed["seconds_per_step"], advice=advice) if timed else ""

    def show(self, name: str, *, threads: int) -> bool:
        """Check a network with all latencies; False if its training is not finished."""
        place = self.study.shown[name]
        first = threads == self.study.threads[0]
        stages: tuple[str, ...]
        folder = self.folder / "shown" / (name if first else f"{name}-{threads}-threads")
        if place == TEACHER:
            source, student, changes, stages = self.shared, {"model": self.values["teacher"]["model"]}, {}, DEPLOYED
            linked = {f"artifacts/{kind}/{name}": "artifacts/teacher" for kind in ("students", "final")}
        else:
            comparison, row, seed = self.study.run(place)
            key = self.study.comparisons[comparison].student
            source, stages = self._run(comparison, row, seed), MEASURED
            changes = self.study.changes(comparison, row, seed)
            student = changed(self.values, changes)["students"][key]
            linked = {f"artifacts/{kind}/{name}": f"artifacts/{kind}/{key}" for kind in ("students", "onnx", "int8")}
            if not (source / f"results/{key}.json").is_file():
                return False
        others = {key: value for key, value in changes.items() if not key.startswith("students.")}
        students = {name: {"loss": "none", **student}}
        self._params(folder, {**others, "students": students, "convert.onnxruntime.threads": threads})
        link(folder, COMMON, source=self.shared)
        link(folder, linked, source=source, renamed=linked)
        with self._processor(alone=True):
            self._perform(folder, ("sources", *stages), folder.name, student=name)
        results = self.folder / "results" / ("." if first else f"{threads}-threads")
        results.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / f"results/{name}.json", results / f"{name}.json")
        if first:
            kept = f"artifacts/predictions/{name}"
            link(self.folder, [f"predictions/{name}"], source=folder, renamed={f"predictions/{name}": kept})
        return True

    def report(self) -> None:
        """Write the page of all networks that are checked, and of all comparisons."""
        names = [name for name in self.study.shown if (self.folder / f"results/{name}.json").is_file()]
        if not names:
            return
        status = run_stage(
            "report", "--results", self.folder / "results", "--dataset", self.shared / "artifacts/dataset",
            "--predictions", self.folder / "predictions", "--students", *names, "--out", self.folder / "report",
        )  # fmt: skip
        if status:
            raise StageError(status)

    def _length(self, name: str, key: str, seconds: float) -> Changes:
        comparison = self.study.comparisons[name]
        folder, student = self.folder / "times" / name / key, comparison.student
        changes = self.study.changes(name, key, comparison.seeds[0])
        settings = self._params(folder, changes)
        recipe = settings.distill
        short = length_of(settings, TIMED, validations=1) | {"distill.stage0.steps": 0}
        self._params(folder, changes | short)
        link(folder, COMMON, source=self.shared)
        self._perform(folder, ("sources", "distill"), f"time of {name}/{key}", student=student)
        costs = _read(folder / f"artifacts/costs/{student}.json")
        before, each = costs["cached_seconds"], costs["seconds_per_step"]
        count = round((seconds - before) / each)
        if count < 1:
            raise UserError(
                f"comparisons.{name}.minutes: {seconds / 60:g} minutes end before the first step of {key}: the teacher "
                f"sees whole frames for {before:.0f} s, and a step takes {each:.2f} s; raise them"
            )
        usual = recipe.steps or count
        validations = max(1, usual // recipe.validate_every)
        warmup = round(recipe.warmup * count / usual)
        return length_of(settings, count, validations=validations, warmup=warmup)

    def _timed(self, name: str, key: str) -> dict[str, Any] | None:
        """Costs of the short training of a row, beside which no other process ran; None: it was not timed."""
        if training := self.study.comparisons[name].rows[key].training:
            name, key = row_of(training)
        file = self.folder / "times" / name / key / f"artifacts/costs/{self.study.comparisons[name].student}.json"
        return _read(file) if file.is_file() else None

    def _trained(self, place: str, seed: int, *, of: str) -> Path:
        """The folder of a run that is finished; waits while another process is at it."""
        source = self._run(*row_of(place), seed)
        with locked(source, wait=True):
            if not list(source.glob("results/*.json")):
                raise UserError(
                    f"{of} uses the students of {place}, and the one with seed {seed} is not trained; run the study "
                    f"with {place} first"
                )
        return source

    def _run(self, name: str, key: str, seed: int) -> Path:
        return self.folder / "runs" / name / f"{key}-{seed}"

    def _teacher(self) -> Mapping[str, Any]:
        return artifact.load(self.shared / "artifacts/teacher", kind="network").meta

    def _params(self, folder: Path, changes: Mapping[str, Any]) -> Params:
        """Write and check the params.yaml of a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "params.yaml", as_yaml(changed(self.values, changes)))
        return params.load(folder / "params.yaml")

    def _is_current(self, folder: Path, changes: Mapping[str, Any]) -> bool:
        """Whether a folder has the params.yaml that it should have."""
        file = folder / "params.yaml"
        return file.is_file() and file.read_text(encoding="utf-8") == as_yaml(changed(self.values, changes))

    def _run_changes(self, name: str, key: str, seed: int, length: Changes) -> Changes:
        return {**self.study.changes(name, key, seed), **length, **HARDLY_TIMED}

    def _perform(self, folder: Path, names: Sequence[str], title: str, *, student: str = "") -> None:
        def say(line: str) -> None:
            if ": unchanged" not in line:
                print(f"{title} {line}", flush=True)

        plan = steps(folder, names, student=student, until=self.until)
        if status := perform(plan, folder / RECORD, of=title, say=say):
            raise StageError(status)

    @contextmanager
    def _processor(self, *, alone: bool) -> Iterator[None]:
        """Hold the machine; ``alone`` waits until no other process of this study runs, because times are measured."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".processor").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield


def _read(file: Path) -> dict[str, Any]:
    return artifact.read_json(file, advice="remove the folder that it is in, and run the study again")
