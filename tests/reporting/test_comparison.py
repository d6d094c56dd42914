"""Losses compared: the arithmetic on chosen numbers, writing and reading the file, table, figure and page."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.artifact import dump_json
from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.reporting import comparison, comparison_figure, comparison_table, page
from pipeline.reporting.comparison import Comparison, Figures, Measured, Row, Run, summarise
from pipeline.reporting.measured import Result
from pipeline.reporting.results import load
from pipeline.reporting.wording import MINUS, TIMES

SEEDS = [0, 1, 2]
CLASSES = ["a", "b", "c"]


def measured(miou: float) -> Measured:
    return Measured(miou=miou, per_class_iou=[miou + 10, None, miou - 10])


def run(miou: float, *, step: float = 0.1, seconds: float = 60.0, memory: float = 100.0, **more: Any) -> Run:
    """A run whose last weights are one point below its best ones."""
    return Run(
        best=measured(miou),
        last=measured(miou - 1),
        seconds_per_step=step,
        training_seconds=seconds,
        peak_memory_mib=memory,
        **more,
    )


ALONE = {0: run(40.0), 1: run(42.0), 2: run(41.0)}
KD = {0: run(41.0, step=0.2, memory=150), 1: run(45.0, step=0.4, seconds=180), 2: run(43.0, step=0.3)}


def row(name: str, runs: dict[int, Run], *, loss: str = "", base: dict[int, Run] = ALONE, **more: Any) -> Row:
    loss = loss or name
    options: dict[str, Any] = {each: {} for each in loss.split("+")}
    return summarise(name, runs, seeds=SEEDS, loss=loss, options=options, base=base, **more)


def test_means_spreads_and_paired_gains() -> None:
    kd = row("kd", KD)
    # deviations -2, 2, 0; divided by n - 1
    assert (kd.best.miou, kd.best.mean, kd.best.std) == ((41.0, 45.0, 43.0), 43.0, 2.0)
    # differences 1, 3, 2: deviation 1, divided by the square root of 3
    assert (kd.best.gain, kd.best.gain_error) == (2.0, 0.5774)
    assert kd.best.per_class_iou == (53.0, None, 33.0)
    assert (kd.seconds_per_step, kd.peak_memory_mib, kd.training_seconds) == (0.3, 150, 100.0)
    assert kd.gain_per_minute == pytest.approx(2.0 / (100 / 60), abs=1e-4)


def test_last_weights_gain_over_last_weights() -> None:
    unequal = {0: run(41.0), 1: Run(measured(45.0), measured(38.0), 0.1, 60.0, 100.0)}
    kd = row("kd", unequal, weights="last")
    assert (kd.last.miou, kd.last.mean) == ((40.0, 38.0, None), 39.0)
    assert (kd.last.gain, kd.last.gain_error) == (-1.0, 2.0), "40 - 39 and 38 - 41"
    assert kd.best.gain == 2.0 and kd.gain_per_minute == -1.0, "per minute: of the weights that were asked for"
    assert kd.of("last") == kd.last and kd.of("best") == kd.best


def test_int8_is_measured_where_runs_were_checked() -> None:
    alone = {0: run(40.0, int8=measured(39.0), int8_drop=[1.0, None, 1.0]), 1: ALONE[1]}
    kd = {0: run(41.0, int8=measured(40.5), int8_drop=[0.0, None, 2.0]), 1: KD[1]}
    checked = row("kd", kd, base=alone)
    assert (checked.int8.miou, checked.int8.mean, checked.int8.gain) == ((40.5, None, None), 40.5, 1.5)
    assert checked.int8_drop == (0.0, None, 2.0)
    assert row("kd", KD).int8 == Figures() and row("kd", KD).int8_drop == ()


def test_the_student_alone_has_no_gain_over_itself() -> None:
    alone = row("none", ALONE)
    assert (alone.best.mean, alone.best.gain, alone.best.gain_error) == (41.0, None, None)
    assert alone.last.gain is None and alone.gain_per_minute is None


def test_seeds_that_are_not_run_yet_are_left_out() -> None:
    one = row("kd", {1: KD[1]}).best
    assert (one.miou, one.mean, one.std) == ((None, 45.0, None), 45.0, None)
    assert (one.gain, one.gain_error) == (3.0, None)
    assert row("kd", KD, base={}).best.gain is None
    assert row("kd", KD, base={0: ALONE[0]}).best.gain == 1.0


COMMON: dict[str, Any] = {
    "dataset_sha256": "ab" * 32,
    "student": "kd",
    "steps": 300,
    "batch_size": 4,
    "device": "cpu, 2 threads",
}


def written(folder: Path, rows: list[Any], **changes: Any) -> Path:
    facts = {**COMMON, "teacher": {"miou": 53.2, "sha256": "cd" * 32}, "classes": CLASSES, "seeds": SEEDS}
    contents = [each.model_dump() if isinstance(each, Row) else each for each in rows]
    (folder / comparison.FILE).write_text(dump_json({**facts, "rows": contents, **changes}))
    return folder / comparison.FILE


@pytest.fixture
def compared(tmp_path: Path) -> Comparison:
    return comparison.load(written(tmp_path, [row("none", ALONE), row("mix", KD, loss="kd+fitnet")]))


def test_the_file_contains_the_summarised_rows(compared: Comparison) -> None:
    assert compared.rows == (row("none", ALONE), row("mix", KD, loss="kd+fitnet"))
    teacher = {"miou": 53.2, "sha256": "cd" * 32}
    common = Comparison(**COMMON, rows=compared.rows, seeds=SEEDS, classes=CLASSES, teacher=teacher)
    assert compared == common
    assert compared.baseline == compared.rows[0]


def test_no_file_and_no_rows_are_no_comparison(tmp_path: Path) -> None:
    assert comparison.load(tmp_path / comparison.FILE) == Comparison()
    assert comparison_figure.dots(Comparison()) is None
    assert "run make compare" in comparison_table.markdown(Comparison())


OLD_ROW = {
    "name": "kd", "loss": "kd", "options": {"kd": {"weight": 1.0}}, "miou": [45.6, 44.7, None], "mean": 45.15,
    "std": 0.64, "gain": 0.33, "gain_error": 0.07, "per_class_iou": [85.0, 46.3, None], "seconds_per_step": 0.2,
    "peak_memory_mib": 183.0, "training_seconds": 87.1, "gain_per_minute": 0.22,
}  # fmt: skip


def test_a_file_of_an_earlier_version_holds_the_best_weights_on_val(tmp_path: Path) -> None:
    old = comparison.load(written(tmp_path, [OLD_ROW]))
    (kd,) = old.rows
    assert (kd.best.miou, kd.best.mean, kd.best.std) == ((45.6, 44.7, None), 45.15, 0.64)
    assert (kd.best.gain, kd.best.gain_error, kd.best.per_class_iou) == (0.33, 0.07, (85.0, 46.3, None))
    assert (old.weights, old.split, old.minutes, kd.last, kd.int8, kd.gain_per_minute) == (
        "best", "val", None, Figures(), Figures(), 0.22,
    )  # fmt: skip
    first, _, only, *_ = comparison_table.markdown(old).splitlines()
    assert "| best mIoU | best gain | worst class | ms per step |" in first and "last mIoU" not in first
    assert "| kd | kd | 45.1 ± 0.6 | +0.3 ± 0.1 | b 46.3 | 200 |" in only
    assert comparison_figure.dots(old) is not None


def test_the_committed_comparison_is_read() -> None:
    committed = comparison.load(Path(__file__).parents[2] / "results" / comparison.FILE)
    assert committed.rows and all(each.best.mean is not None for each in committed.rows)


def test_an_invalid_file_is_refused_with_all_its_problems(tmp_path: Path) -> None:
    file = written(tmp_path, [row("kd", KD)], device=5, steps=1.5)
    with pytest.raises(UserError) as caught:
        comparison.load(file)
    assert str(caught.value).splitlines() == [
        f"{file}: 2 problems",
        "  steps: got 1.5; allowed: a whole number",
        "  device: got 5; allowed: a text",
        "compare again with: make compare",
    ]


def test_a_row_needs_one_entry_per_seed_and_class(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows\[0\]\.best\.miou: has 3 entries, .*; allowed: 1, as in seeds"):
        comparison.load(written(tmp_path, [row("kd", KD)], seeds=[0]))
    with pytest.raises(
        UserError, match=r"rows\[0\]\.best\.per_class_iou: has 3 entries, .*; allowed: 2, as in classes"
    ):
        comparison.load(written(tmp_path, [row("kd", KD)], classes=["a", "b"]))


def test_the_table_has_the_numbers(compared: Comparison) -> None:
    lines = comparison_table.markdown(compared).splitlines()
    none, x = comparison_table.NOTHING, TIMES
    titles = "name | loss | best mIoU | best gain | last mIoU | last gain | INTERVAL | worst class | ms"
    titles = titles.replace("INTERVAL", "95% interval of the gain") + " per step | cost | minutes"
    assert lines[0] == f"| {titles} | gain per minute | peak MiB |"
    alone = f"| none | none | 41.0 ± 1.0 | {none} | 40.0 ± 1.0 | {none} | {none} | c 31.0"
    assert lines[2] == f"{alone} | 100 | 1.00{x} | 1.0 | {none} | 100 |"
    # differences 1, 3, 2: 2 ± 4.3027 * 1 / sqrt(3)
    gain = f"+2.0 ± 0.6 | {MINUS}0.5 to +4.5 (within spread)"
    mix = f"| mix | kd+fitnet | 43.0 ± 2.0 | +2.0 ± 0.6 | 42.0 ± 2.0 | {gain} | c 33.0"
    assert lines[3] == f"{mix} | 300 | 3.00{x} | 1.7 | +1.20 | 150 |"
    assert "student kd, 3 seeds, 300 steps, batches of 4; teacher 53.2 mIoU; mIoU on val" in lines[-1]


def test_equal_minutes_show_the_steps_of_each_loss(tmp_path: Path) -> None:
    rows = [row("none", ALONE, steps=300), row("kd", KD, steps=120)]
    file = written(tmp_path, rows, steps=None, minutes=0.63, split="test", weights="last")
    first, _, none, kd, _, caption = comparison_table.markdown(comparison.load(file)).splitlines()
    place = first.split(" | ").index("steps")
    assert (none.split(" | ")[place], kd.split(" | ")[place]) == ("300", "120")
    assert "3 seeds, 0.6 minutes, batches of 4; " in caption and "mIoU on test" in caption
    assert (
        "; interval, worst class (lowest IoU) and INT8: of the last weights" in caption
        and "gain per minute" not in first
    )
    assert "The same student, teacher and minutes of training" in rendered(comparison.load(file))


@pytest.mark.parametrize(("width", "tables"), [(60, 4), (100, 3), (210, 1)])
def test_a_terminal_shows_every_cell_in_as_many_tables_as_it_needs(
    width: int, tables: int, compared: Comparison
) -> None:
    stream = io.StringIO()
    Console(width=width, file=stream).print(comparison_table.rich_tables(compared, width=width))
    text = stream.getvalue()
    assert text.count("\u2502 mix ") == tables and "\u2026" not in text
    for column in comparison_table.shown(compared):
        assert all(f" {cell} " in text for cell in (column.title, *map(column.cell, comparison_table.lines(compared))))


def test_int8_has_its_columns_where_it_was_measured(compared: Comparison) -> None:
    runs = {seed: run(41.0, int8=measured(40.5), int8_drop=[0.1, None, 1.4]) for seed in SEEDS}
    both = compared.model_copy(update={"rows": (row("none", ALONE), row("kd", runs))})
    first, _, none, kd, *_ = comparison_table.markdown(both).splitlines()
    titles = first.split(" | ")
    at, drop = titles.index("INT8 mIoU"), titles.index("worst class drop")
    assert (kd.split(" | ")[at], kd.split(" | ")[drop]) == ("40.5 ± 0.0", "c 1.4")
    assert none.split(" | ")[at] == none.split(" | ")[drop] == "not measured"


def test_one_seed_shows_no_spread(compared: Comparison) -> None:
    rows = row("none", {0: ALONE[0]}), row("kd", {0: KD[0]})
    one = compared.model_copy(update={"rows": rows, "seeds": (0,)})
    assert "| kd | kd | 41.0 | +1.0 | 40.0 | +1.0 |" in comparison_table.markdown(
        one
    ) and "1 seed," in comparison_table.markdown(one)
    assert comparison_figure.dots(one) is not None


def test_the_figure_follows_the_theme_and_is_the_same_every_time(compared: Comparison) -> None:
    figure = comparison_figure.dots(compared)
    assert figure is not None and figure == comparison_figure.dots(compared)
    assert all(text in figure for text in ("mix", "none 41.0", "+2.0 ± 0.6", "var(--baseline)", "var(--series-1)"))
    assert "#010a" not in figure


LABELS = LabelSpec(names=("a", "b", "c"), palette=((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def rendered(compared: Comparison | None, sha: str = "ab" * 32) -> str:
    result = Result(student="kd", label="kd", loss="kd", dataset_sha256=sha)
    return page.render([result], labels=LABELS, shares={}, strips={}, comparisons=[compared] if compared else [])


def test_the_figure_is_of_the_chosen_weights(compared: Comparison) -> None:
    figure = comparison_figure.dots(compared.model_copy(update={"weights": "last"}))
    assert figure is not None and "none 40.0" in figure


def test_the_page_shows_the_comparison_of_its_own_data(compared: Comparison) -> None:
    text = rendered(compared)
    assert "Losses compared" in text and text.count("<svg") == 3, "losses in two widths, classes"
    assert '<td class="whole">+2.0 ± 0.6</td>' in text, "a number and its error are not divided"
    assert text == rendered(compared)


def test_the_page_shows_no_comparison_of_other_data(compared: Comparison) -> None:
    text = rendered(compared, sha="00" * 32)
    assert "belongs to other data" in text and "+2.0" not in text and "<svg" not in text
    for nothing in (None, Comparison()):
        assert "Losses compared" not in rendered(nothing)


def test_the_page_escapes_names(compared: Comparison) -> None:
    evil = compared.rows[1].model_copy(update={"name": "<script>x</script>"})
    text = rendered(compared.model_copy(update={"rows": (evil,), "device": "<script>y</script>"}))
    assert "<script" not in text and "&lt;script&gt;x" in text and "&lt;script&gt;y" in text


def test_a_comparison_is_not_read_as_a_student(tmp_path: Path) -> None:
    written(tmp_path, [row("kd", KD)])
    (tmp_path / "kd.json").write_text(json.dumps({"student": "kd", "dataset_sha256": "ab" * 32}))
    (result,) = load(tmp_path)
    assert (result.student, result.dataset_sha256) == ("kd", "ab" * 32)
