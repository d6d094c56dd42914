"""Tables from lists of columns: Markdown, terminal and page show a new column of the list."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from pipeline.labels import LabelSpec
from pipeline.reporting import columns, comparison_table, page, table
from pipeline.reporting.columns import Column
from pipeline.reporting.comparison import Comparison, Figures, Row
from pipeline.reporting.comparison_table import Line
from pipeline.reporting.measured import Result

LABELS = LabelSpec(names=("a", "b"), palette=((0, 0, 0), (1, 1, 1)))
RESULT = Result(student="kd", label="kd", loss="kd", images=1234, dataset_sha256="ab")
COMPARED = Comparison(rows=(Row(name="mix", loss="kd+at", best=Figures(mean=71.0)),), dataset_sha256="ab", seeds=(0,))


def printed(shown: RenderableType) -> str:
    stream = io.StringIO()
    Console(file=stream, width=250).print(shown)
    return stream.getvalue()


def rendered() -> str:
    return page.render([RESULT], labels=LABELS, shares={}, strips={}, comparisons=[COMPARED])


def test_alignment_and_escaping() -> None:
    name, length = Column[str]("name", str, left=True), Column[str]("n", lambda text: str(len(text)))
    text = columns.markdown([name, length], ["a|b", "c"])
    assert text == "| name | n |\n| --- | ---: |\n| a\\|b | 3 |\n| c | 1 |\n"


def test_a_new_column_of_results_is_one_entry_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "frames of val" not in rendered()
    added = Column[Result]("frames of val", lambda result: f"{result.images} frames")
    monkeypatch.setattr(table, "COLUMNS", (*table.COLUMNS, added))
    first, _, row = table.markdown([RESULT]).splitlines()
    assert first.endswith("| verdict | frames of val |") and row.endswith("| not measured | 1234 frames |")
    assert "frames of val" in printed(table.rich_table([RESULT])) and "1234 frames" in printed(
        table.rich_table([RESULT])
    )
    html = rendered()
    assert '<th scope="col">frames of val</th>' in html and "<td>1234 frames</td>" in html
    assert html.count('<td class="text"><span class="badge not-measured">not measured</span></td>') == 1, "the verdict"


def test_a_new_column_of_compared_losses_is_one_entry_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "letters" not in rendered()
    added = Column[Line]("letters", lambda line: f"{len(line.row.loss)} of them", left=True)
    monkeypatch.setattr(comparison_table, "COLUMNS", (*comparison_table.COLUMNS, added))
    first, _, row, *_ = comparison_table.markdown(COMPARED).splitlines()
    assert first.endswith("| letters |") and row.endswith("| 5 of them |")
    assert "5 of them" in printed(comparison_table.rich_tables(COMPARED, width=200))
    html = rendered()
    assert '<th scope="col" class="text">letters</th>' in html and '<td class="text">5 of them</td>' in html


def test_the_terminal_marks_verdicts_and_missing_values() -> None:
    failed = RESULT.model_copy(update={"passed": False, "label": "bad"})
    shown = table.rich_table([RESULT, failed])
    styles = {column.header: [cell.style for cell in column.cells] for column in shown.columns}
    assert styles["student"] == ["bold", "bold"] and styles["loss"] == ["", ""]
    assert styles["verdict"] == ["dim", "bold red"] and styles["INT8 mIoU"] == ["dim", "dim"]
