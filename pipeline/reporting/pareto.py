"""The Pareto front: points that no other point dominates."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]  # cost (less is better), value (more is better)


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one dominates, the cheapest first.

    A point dominates another if it costs no more, is worth no less, and differs. Equal points are listed once.

    Example:
        >>> front([(1.0, 50.0), (2.0, 60.0), (2.0, 55.0), (3.0, 60.0), (4.0, 61.0)])
        [(1.0, 50.0), (2.0, 60.0), (4.0, 61.0)]
    """
    kept: list[Point] = []
    for point in sorted(set(points), key=lambda each: (each[0], -each[1])):
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return kept
