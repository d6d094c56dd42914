"""The spread of a student's mIoU over seeds, where a comparison trained the same student several times."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.reporting.comparison import Comparison, Row, Which
from pipeline.reporting.measured import Result


def of(result: Result, comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Standard deviation of mIoU over seeds by variant, in points; empty where no comparison has the same training.

    The same training: data, split, teacher, network, loss without changed params, and number of steps are equal.
    """
    for comparison in comparisons:
        for row in comparison.rows:
            if _same(result, comparison, row):
                exported: Which = "last" if result.weights.exported == "last" else "best"
                before = row.of(exported).std
                after = row.int8.std if comparison.weights == exported else None
                spreads = {name: after if name == "int8" else before for name in result.variants}
                return {name: value for name, value in spreads.items() if value is not None}
    return {}


def _same(result: Result, comparison: Comparison, row: Row) -> bool:
    facts = (result.dataset_sha256, result.split, result.teacher.sha256, result.training, result.weights.last.step)
    steps = comparison.steps if row.steps is None else row.steps
    network = set(result.model.split())
    return (
        facts == (comparison.dataset_sha256, comparison.split, comparison.teacher.sha256, row.loss, steps)
        and all(facts)
        and not row.changes
        and bool(network)
        and network <= {str(value) for value in comparison.model.values()}
    )
