"""A study file, typed: changed params, comparisons of trainings in order of value, and the networks of its table.

docs/studies.md explains the file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from pydantic import Field, ValidationError
from ruamel.yaml import YAML

from pipeline.errors import Problems, UserError, closest
from pipeline.settings import loss_mixture, params, yaml_file
from pipeline.settings.param_types import Loss, Name, Options, Positive, Section, Seeds

#: Entry of ``shown`` that stands for the teacher.
TEACHER = "teacher"


class Row(Section):
    """One way to make a student."""

    loss: Loss = "none"
    params: Options = Field(default_factory=dict)  # changed values, by dotted key
    #: <comparison>/<row> whose students are used; this row trains none (for params of export, quantize, qat, ...)
    training: str | None = None


class Comparison(Section):
    """Rows with the same student, seeds and budget; the first row is the one that gains are measured against."""

    title: str
    student: Name  # a name of students
    seeds: Seeds
    #: of training per run; every row is timed first, its steps follow from that. null: the steps of distill
    minutes: Annotated[float, Field(gt=0)] | None = None
    params: Options = Field(default_factory=dict)  # changed values of all rows, by dotted key
    rows: Annotated[dict[Name, Row], Field(min_length=1)]


class Study(Section):
    """All of a study."""

    params: Options  # sections as in params.yaml, with the values that differ from it
    comparisons: Annotated[dict[Name, Comparison], Field(min_length=1)]
    #: name in the table -> <comparison>/<row>/<seed>, or teacher: checked with all latencies when its training is done
    shown: dict[Name, str] = Field(default_factory=dict)
    #: of onnxruntime, for networks that are shown
    threads: Annotated[list[Positive], Field(min_length=1, default_factory=lambda: [2])]

    def loss(self, row: Row) -> Any:
        """The loss that a row's students learn with."""
        if row.training is None:
            return row.loss
        comparison, key = row_of(row.training)
        return self.comparisons[comparison].rows[key].loss

    def changes(self, name: str, key: str, seed: int) -> dict[str, Any]:
        """The changed params of a run, by dotted key: those of its training first."""
        comparison = self.comparisons[name]
        row = comparison.rows[key]
        if row.training is None:
            learned = {f"students.{comparison.student}.loss": row.loss, "distill.seed": seed}
        else:
            learned = self.changes(*row_of(row.training), seed)
        return {**learned, **comparison.params, **row.params}

    def run(self, place: str) -> tuple[str, str, int]:
        """Comparison, row and seed of an entry of ``shown`` that is not the teacher."""
        comparison, row, seed = place.split("/")
        return comparison, row, int(seed)


def row_of(place: str) -> tuple[str, str]:
    """Comparison and row in ``<comparison>/<row>``."""
    comparison, _, row = place.partition("/")
    return comparison, row


def require_valid(study: Study, values: Mapping[str, Any], *, of: Path) -> None:
    """Check the params and losses of all rows, before the first run.

    Args:
        values: of params.yaml, with the changes of the study.
        of: file of the study, for messages.

    Raises:
        UserError: names all rows with invalid values.
    """
    problems = Problems(str(of))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        for name, comparison in study.comparisons.items():
            for key, row in comparison.rows.items():
                try:
                    run = changed(values, study.changes(name, key, comparison.seeds[0]))
                    file.write_text(as_yaml(run), encoding="utf-8")
                    settings = params.load(file)
                    settings.student(comparison.student)
                    loss_mixture.resolve(row.loss, settings.losses)
                except UserError as error:
                    title, *lines = str(error).splitlines()  # with several lines, the first one is a title
                    text = "; ".join(line.strip() for line in lines) or title
                    problems.add(f"comparisons.{name}.rows.{key}: {text}")
    problems.raise_if_any()


def load(path: Path) -> Study:
    """Read and check a study file.

    Raises:
        UserError: unreadable YAML; or, all at once, unknown keys, wrong types and references to rows that are missing.
    """
    raw = yaml_file.read(
        path, sections=Study.model_fields, absent="name a study file, such as studies/camvid/small.yaml"
    )
    problems = Problems(str(path))
    study: Study | None = None
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        for problem in error.errors():
            problems.add(yaml_file.explain(problem, Study))
    for message in _references(study) if study else ():
        problems.add(message)
    problems.raise_if_any()
    assert study is not None
    return study


def _references(study: Study) -> Iterator[str]:
    """Rows that are named but missing, or that have no training."""
    trained = {
        f"{name}/{key}": comparison
        for name, comparison in study.comparisons.items()
        for key, row in comparison.rows.items()
        if row.training is None
    }
    for name, comparison in study.comparisons.items():
        for key, row in comparison.rows.items():
            where = f"comparisons.{name}.rows.{key}.training"
            if row.training is None:
                continue
            if row.training not in trained:
                yield f"{where}: got {row.training!r}; it must name a row that trains: {closest(row.training, trained)}"
            elif row.loss != "none":
                yield f"{where}: this row trains nothing, so its loss has no effect; remove the loss"
            elif missing := set(comparison.seeds) - set(trained[row.training].seeds):
                yield f"{where}: {row.training} has no training with the seeds {sorted(missing)}; add them there"
            elif trained[row.training].student != comparison.student:
                yield f"{where}: {row.training} trains another student, {trained[row.training].student}"
    runs = [f"{place}/{seed}" for place, comparison in _rows(study) for seed in comparison.seeds]
    for name, place in study.shown.items():
        if place != TEACHER and place not in runs:
            yield f"shown.{name}: got {place!r}; allowed: {TEACHER}, or a run: {closest(place, runs)}"


def _rows(study: Study) -> Iterator[tuple[str, Comparison]]:
    for name, comparison in study.comparisons.items():
        for key in comparison.rows:
            yield f"{name}/{key}", comparison


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the values of params.yaml with other values at dotted keys.

    Raises:
        UserError: a key is inside a value that is no section.
    """
    copy: dict[str, Any] = dict(values)
    for key, value in changes.items():
        head, _, rest = key.partition(".")
        if not rest:
            copy[head] = value
        elif isinstance(copy.get(head), dict):
            copy[head] = changed(copy[head], {rest: value})
        else:
            raise UserError(f"{key}: params.yaml has no section {head!r} there; {closest(head, list(copy))}")
    return copy


def as_yaml(values: Mapping[str, Any]) -> str:
    """The content of a params.yaml."""
    text = io.StringIO()
    YAML().dump(values, text)
    return text.getvalue()
