"""Which layers suffer from 8 bits, and which of them to leave in float so that a budget holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import onnx

from pipeline.evaluation.drops import Drop
from pipeline.quantization.graph import Graph
from pipeline.quantization.trial import Outcome, Trial

#: From the names of the nodes that stay in float to a quantised graph.
Place = Callable[[Collection[str]], onnx.ModelProto]
#: Stands among the names of classes for the mean over all of them.
MIOU = "mIoU"


@dataclass(frozen=True)
class Budget:
    """Points that INT8 may lose against float on train frames; None is no limit."""

    miou_drop: float | None = None
    class_drop: float | None = None

    def exceeded(self, outcome: Outcome) -> set[str]:
        """Names of what loses more than allowed by its whole interval: classes, and :data:`MIOU`."""
        return {name for name, lost, limit in self._limited(outcome) if lost.exceeds(limit)}

    def undecided(self, outcome: Outcome) -> list[str]:
        """Names of what the frames cannot judge."""
        return [name for name, lost, limit in self._limited(outcome) if lost.undecided(limit)]

    def holds(self, outcome: Outcome, *, hurt: Collection[str] = ()) -> bool:
        """Whether nothing exceeds the budget, and what is ``hurt`` keeps it by the best estimate too."""
        kept = all(lost.got <= limit for name, lost, limit in self._limited(outcome) if name in hurt)
        return kept and not self.exceeded(outcome)

    def _limited(self, outcome: Outcome) -> Iterator[tuple[str, Drop, float]]:
        if self.miou_drop is not None:
            yield MIOU, outcome.drops.miou, self.miou_drop
        if self.class_drop is not None:
            for name, lost in outcome.drops.classes.items():
                yield name, lost, self.class_drop


@dataclass(frozen=True)
class Fallback:
    """What was left in float.

    Attributes:
        layers: their names, the most sensitive first.
        outcome: of the graph with these in float.
        held: whether the budget holds then, as far as the frames can tell.
        sums: the additions of activations that were left in float as well; empty, or all of them.
    """

    layers: tuple[str, ...]
    outcome: Outcome
    held: bool
    sums: tuple[str, ...] = ()


def rank(
    graph: Graph, place: Place, trial: Trial, *, progress: Callable[[], object] = lambda: None
) -> list[tuple[str, Outcome]]:
    """Every weighted layer with the outcome of quantising it alone, the most disturbing first."""
    names = {node.name for node in graph.nodes}
    found = []
    for layer in graph.layers:
        found.append((layer.name, trial.run(place(names - {layer.name}))))
        progress()
    return sorted(found, key=lambda item: (-item[1].disagreement, item[0]))


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

    A layer leaves INT8 only where a loss exceeds the budget by its whole interval: the noise of a rare class costs no
    speed. What was shown to be hurt in that way then has to keep the budget by its best estimate: to stop as soon as
    the loss is no longer proven would leave nearly all of it in place. What the frames cannot judge is neither; it is
    named (``Budget.undecided``).

    More float is taken to never hurt; where it does, more layers than needed may be found, never too few: what is
    returned was tried.

    Args:
        ranking: layers, the most sensitive first.
        kept: nodes that stay in float anyway.
        sums: nodes that add activations. They are tried in float before any layer, since they are cheap: a chain of
            sums without normalisation between them needs more than 8 bits, and no layer in float would mend that.
    """
    order = [name for name in ranking if name not in kept]
    hurt: set[str] = set()

    def attempt(count: int, sums: Collection[str]) -> Fallback:
        outcome = trial.run(place({*kept, *sums, *order[:count]}))
        return Fallback(tuple(order[:count]), outcome, held=budget.holds(outcome, hurt=hurt), sums=tuple(sums))

    best = attempt(0, ())
    hurt |= budget.exceeded(best.outcome)
    if sums and not best.held:
        summed = attempt(0, sums)
        if summed.held or summed.outcome.disagreement < best.outcome.disagreement:
            best = summed
    if best.held:
        return best
    sums = best.sums
    best = attempt(len(order), sums)
    too_few, enough = 0, len(order)
    while best.held and enough - too_few > 1:
        middle = (too_few + enough) // 2
        tried = attempt(middle, sums)
        if tried.held:
            best, enough = tried, middle
        else:
            too_few = middle
    return best
