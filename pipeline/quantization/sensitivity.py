"""Which layers suffer from 8 bits, and which of them to leave in float so that a budget holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import onnx

from pipeline.quantization.graph import Graph
from pipeline.quantization.trial import Outcome, Trial

#: From the names of the nodes that stay in float to a quantised graph.
Place = Callable[[Collection[str]], onnx.ModelProto]


@dataclass(frozen=True)
class Budget:
    """Points that INT8 may lose against float on train frames; None is no limit."""

    miou_drop: float | None = None
    class_drop: float | None = None

    def holds(self, outcome: Outcome) -> bool:
        limits = ((self.miou_drop, outcome.miou_drop), (self.class_drop, outcome.class_drop))
        return all(limit is None or got <= limit for limit, got in limits)


@dataclass(frozen=True)
class Fallback:
    """What was left in float.

    Attributes:
        layers: their names, the most sensitive first.
        outcome: of the graph with these in float.
        held: whether the budget holds then.
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

    More float is taken to never hurt; where it does, more layers than needed may be found, never too few: what is
    returned was tried.

    Args:
        ranking: layers, the most sensitive first.
        kept: nodes that stay in float anyway.
        sums: nodes that add activations. They are tried in float before any layer, since they are cheap: a chain of
            sums without normalisation between them needs more than 8 bits, and no layer in float would mend that.
    """
    order = [name for name in ranking if name not in kept]

    def attempt(count: int, sums: Collection[str]) -> Fallback:
        outcome = trial.run(place({*kept, *sums, *order[:count]}))
        return Fallback(tuple(order[:count]), outcome, held=budget.holds(outcome), sums=tuple(sums))

    best = attempt(0, ())
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
