"""Which layers lose most in 8 bits, and which of them must stay in float so that a budget holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import onnx

from pipeline.evaluation.drops import Drop
from pipeline.quantization.graph import Graph
from pipeline.quantization.trial import Outcome, Trial

#: From the names of the nodes that stay in float to a quantised graph.
Place = Callable[[Collection[str]], onnx.ModelProto]
#: Used beside the names of classes for the mean over all classes.
MIOU = "mIoU"


@dataclass(frozen=True)
class Budget:
    """Points that INT8 may lose against float on train frames; None: no limit."""

    miou_drop: float | None = None
    class_drop: float | None = None

    def exceeded(self, outcome: Outcome) -> set[str]:
        """Classes, or :data:`MIOU`, whose loss exceeds the limit with its whole confidence interval."""
        return {name for name, drop, limit in self._limited(outcome) if drop.exceeds(limit)}

    def undecided(self, outcome: Outcome) -> list[str]:
        """Classes, or :data:`MIOU`, for which the frames cannot decide whether the limit is kept."""
        return [name for name, drop, limit in self._limited(outcome) if drop.undecided(limit)]

    def holds(self, outcome: Outcome, *, hurt: Collection[str] = ()) -> bool:
        """Whether nothing exceeds the budget, and the best estimate of each ``hurt`` class is within it too."""
        kept = all(drop.got <= limit for name, drop, limit in self._limited(outcome) if name in hurt)
        return kept and not self.exceeded(outcome)

    def _limited(self, outcome: Outcome) -> Iterator[tuple[str, Drop, float]]:
        if self.miou_drop is not None:
            yield MIOU, outcome.drops.miou, self.miou_drop
        if self.class_drop is not None:
            for name, drop in outcome.drops.classes.items():
                yield name, drop, self.class_drop


@dataclass(frozen=True)
class Fallback:
    """The nodes that stay in float.

    Attributes:
        layers: names of layers, the most sensitive first.
        outcome: of the graph with these layers and sums in float.
        held: whether the budget holds for that graph, as far as the frames can decide.
        sums: additions of activations that stay in float too; all of them, or none.
    """

    layers: tuple[str, ...]
    outcome: Outcome
    held: bool
    sums: tuple[str, ...] = ()


def rank(
    graph: Graph, place: Place, trial: Trial, *, progress: Callable[[], object] = lambda: None
) -> list[tuple[str, Outcome]]:
    """Every weighted layer with the outcome of quantising it alone, the most sensitive first."""
    names = {node.name for node in graph.nodes}
    outcomes = []
    for layer in graph.layers:
        outcomes.append((layer.name, trial.run(place(names - {layer.name}))))
        progress()
    return sorted(outcomes, key=lambda item: (-item[1].disagreement, item[0]))


def fall_back(
    ranking: Sequence[str],
    place: Place,
    trial: Trial,
    budget: Budget,
    *,
    kept: Collection[str] = (),
    sums: Collection[str] = (),
) -> Fallback:
    """The fewest of the most sensitive layers that must stay in float for the budget to hold, by bisection.

    A layer leaves INT8 only if the whole confidence interval of a loss exceeds the budget, so that the noise of a rare
    class costs no speed. A class with such a loss is ``hurt``: from then on its best estimate must be within the budget
    as well. Otherwise the search would stop as soon as the loss is no longer proven, and nearly all of it would remain.
    Classes for which the frames cannot decide do not count; ``Budget.undecided`` names them.

    The search assumes that more float never loses accuracy. Where this is wrong, it may return more layers than needed,
    but never too few, because it tries the result that it returns.

    Args:
        ranking: layers, the most sensitive first.
        kept: nodes that stay in float anyway.
        sums: nodes that add activations. They are tried in float before any layer, because they are cheap: a chain of
            sums without normalisation between them needs more than 8 bits, and float layers cannot replace these.
    """
    order = [name for name in ranking if name not in kept]
    hurt: set[str] = set()

    def attempt(count: int, sums: Collection[str]) -> Fallback:
        outcome = trial.run(place({*kept, *sums, *order[:count]}))
        return Fallback(tuple(order[:count]), outcome, held=budget.holds(outcome, hurt=hurt), sums=tuple(sums))

    best = attempt(0, ())
    hurt |= budget.exceeded(best.outcome)
    if sums and not best.held:
        with_sums = attempt(0, sums)
        if with_sums.held or with_sums.outcome.disagreement < best.outcome.disagreement:
            best = with_sums
    if best.held:
        return best
    sums = best.sums
    best = attempt(len(order), sums)
    too_few, enough = 0, len(order)
    while best.held and enough - too_few > 1:
        middle = (too_few + enough) // 2
        fallback = attempt(middle, sums)
        if fallback.held:
            best, enough = fallback, middle
        else:
            too_few = middle
    return best
