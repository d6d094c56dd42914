"""The plan of a street: cross-section, crossings and road markings, drawn from one random generator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np

from pipeline.datasets._streets import classes as ids
from pipeline.datasets._streets import palettes
from pipeline.datasets._streets.world import Colour, Crack, Mark, Strip

STYLES = {"urban": 45, "suburb": 25, "park": 15, "works": 15}


@dataclass(frozen=True)
class Side:
    """Positions on one side of the road: distances from the centre line in metres, all positive."""

    sign: int
    parking: float  # width of the parking lane; 0: no parking lane
    kerb: float
    walk: float  # outer edge of the pavement
    front: float  # building line
    verge: float  # width of the grass between kerb and pavement
    lane: float


@dataclass(frozen=True)
class Plan:
    """The numbers that all other parts of the world use."""

    style: str
    length: float
    lanes: int  # per direction
    lane: float
    left: Side
    right: Side
    crossings: tuple[tuple[float, float], ...]  # middle and half width of side streets
    road: Colour
    pavement: Colour
    paint: Colour
    grass: Colour


def make_plan(rng: Random, length: float) -> Plan:
    style = rng.choices(list(STYLES), list(STYLES.values()))[0]
    lanes = rng.choices((1, 2), (76, 24))[0]
    lane = rng.uniform(2.8, 3.4)
    left, right = (_make_side(rng, style, sign, lanes * lane) for sign in (-1, 1))
    crossings = []
    s = rng.uniform(10, 90)
    while s < length:
        if rng.random() < 0.75:
            crossings.append((s, rng.uniform(3.2, 5.0)))
        s += rng.uniform(55, 110)
    road = palettes.grey(rng, 70, 130)
    pavement = palettes.grey(rng, 85, 180) if rng.random() < 0.75 else (110.0, 130.0, 165.0)
    worn = rng.uniform(0.0, 0.45)
    base: Colour = (60.0, 190.0, 225.0) if rng.random() < 0.12 else (232.0, 235.0, 235.0)
    b, g, r = (p + (q - p) * worn for p, q in zip(base, road, strict=True))
    return Plan(
        style, length, lanes, lane, left, right, tuple(crossings), road, pavement, (b, g, r), palettes.grass(rng)
    )


def _make_side(rng: Random, style: str, sign: int, half: float) -> Side:
    parking = (
        rng.uniform(2.1, 2.5)
        if rng.random() < {"urban": 0.6, "suburb": 0.45, "park": 0.25, "works": 0.3}[style]
        else 0.0
    )
    kerb = half + 0.35 + parking
    verge = rng.uniform(0.8, 2.0) if rng.random() < 0.3 else 0.0
    walk = kerb + verge + rng.uniform(2.2, 5.0)
    setback = {
        "urban": rng.uniform(0, 0.6),
        "suburb": rng.uniform(2, 7),
        "park": rng.uniform(2, 8),
        "works": rng.uniform(0.5, 6),
    }
    return Side(sign, parking, kerb, walk, walk + setback[style], verge, half)


def strips(rng: Random, plan: Plan) -> tuple[Strip, ...]:
    """The cross-section from left to right."""

    def shade(colour: Colour, factor: float) -> Colour:
        b, g, r = colour
        return b * factor, g * factor, r * factor

    edge_line = rng.random() < 0.6
    solid_centre = rng.random() < 0.3
    bay = shade(plan.road, rng.choice((1.0, 0.9, 1.12)))
    curb = shade(plan.pavement, rng.choice((0.8, 1.0, 1.15)))

    def side(side: Side) -> list[tuple[float, Colour, int]]:
        """Bands from the centre line outwards, as (outer edge, colour, id)."""
        out: list[tuple[float, Colour, int]] = []
        if solid_centre:
            out += [(0.07, plan.road, ids.ROAD), (0.21, plan.paint, ids.LANE_MARK)]
        for index in range(plan.lanes):
            base = index * plan.lane
            for share, factor in ((0.2, 1.03), (0.36, 0.93), (0.64, 1.02), (0.8, 0.93)):  # wheel tracks
                out.append((base + share * plan.lane, shade(plan.road, factor), ids.ROAD))
        out.append((side.lane, plan.road, ids.ROAD))
        if edge_line:
            out.append((side.lane + 0.16, plan.paint, ids.LANE_MARK))
        out.append((side.kerb, bay, ids.ROAD))
        out.append((side.kerb + 0.18, curb, ids.SIDEWALK))
        if side.verge:
            out.append((side.kerb + 0.18 + side.verge, plan.grass, ids.VEGETATION))
        out.append((side.walk, plan.pavement, ids.SIDEWALK))
        paved = plan.style == "urban" or (plan.style == "works" and side.sign > 0)
        out.append((60.0, *((plan.pavement, ids.SIDEWALK) if paved else (plan.grass, ids.VEGETATION))))
        return out

    left, right = side(plan.left), side(plan.right)
    inner = [0.0] + [edge for edge, _, _ in left[:-1]]
    mirrored = [Strip(-near, colour, ident) for near, (_, colour, ident) in zip(inner, left, strict=True)]
    return tuple(mirrored[::-1]) + tuple(Strip(edge, colour, ident) for edge, colour, ident in right)


def _quad(s0: float, s1: float, d0: float, d1: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array([[s0, d0], [s1, d0], [s1, d1], [s0, d1]])


def markings(rng: Random, plan: Plan) -> tuple[tuple[Mark, ...], tuple[Mark, ...], tuple[Crack, ...]]:
    """Side streets, zebras and patches; lane dashes; cracks."""
    marks: list[Mark] = []
    dark: Colour = (plan.road[0] * 0.82, plan.road[1] * 0.82, plan.road[2] * 0.82)
    half = plan.lanes * plan.lane
    for _ in range(int(plan.length / 14)):
        s, d = rng.uniform(2, plan.length), rng.uniform(-half, half)
        tone = rng.uniform(0.75, 1.15)
        patch: Colour = (plan.road[0] * tone, plan.road[1] * tone, plan.road[2] * tone)
        marks.append(Mark(_quad(s, s + rng.uniform(1, 8), d, min(d + rng.uniform(0.5, 2.2), half)), patch, ids.ROAD))
    for s, w in plan.crossings:
        for side in (plan.left, plan.right):
            marks.append(Mark(_quad(s - w, s + w, side.sign * side.lane, side.sign * 46), plan.road, ids.ROAD))
        marks.append(Mark(_quad(s - w, s + w, -half, half), plan.road, ids.ROAD))
        if rng.random() < 0.75:
            marks.append(Mark(_quad(s - w - 5.0, s - w - 4.6, 0.2, plan.right.lane), plan.paint, ids.LANE_MARK))
            marks += _zebra(plan, s - w - 2.3)
        if rng.random() < 0.5:
            marks += _zebra(plan, s + w + 2.3)
    if rng.random() < 0.3:
        marks += _zebra(plan, rng.uniform(8, plan.length))
    if rng.random() < 0.35:
        lane = (plan.lanes - 0.5) * plan.lane
        for _ in range(1 + int(plan.length / 120)):
            place = rng.uniform(6, plan.length)
            if not any(abs(place + 2 - c) < w + 8 for c, w in plan.crossings):
                marks += _arrow(plan, place, lane)
    cracks = []
    for _ in range(int(plan.length / 7)):
        s, d = rng.uniform(2, plan.length), rng.uniform(-half, half)
        steps = [(rng.uniform(-0.5, 1.2), rng.gauss(0, 0.35)) for _ in range(6)]
        cracks.append(Crack(np.cumsum([(s, d), *steps], 0), dark, ids.ROAD))
    return tuple(marks), _dashes(rng, plan), tuple(cracks)


def _dashes(rng: Random, plan: Plan) -> tuple[Mark, ...]:
    """Broken lines between lanes, except where streets cross."""
    dashes: list[Mark] = []
    gap, dash, width = rng.uniform(3, 6), rng.uniform(2, 4), rng.uniform(0.1, 0.2)
    for lane_edge in range(-plan.lanes + 1, plan.lanes):
        s = rng.uniform(-6, 0)
        while s < plan.length:
            if not any(abs(s + dash / 2 - c) < w + 6 for c, w in plan.crossings):
                d = lane_edge * plan.lane
                dashes.append(Mark(_quad(s, s + dash, d - width / 2, d + width / 2), plan.paint, ids.LANE_MARK))
            s += gap + dash
    return tuple(dashes)


def _zebra(plan: Plan, s: float) -> list[Mark]:
    stripes = np.arange(-plan.left.lane + 0.3, plan.right.lane - 0.4, 1.0).tolist()
    return [Mark(_quad(s - 1.5, s + 1.5, d, d + 0.5), plan.paint, ids.LANE_MARK) for d in stripes]


def _arrow(plan: Plan, s: float, d: float) -> list[Mark]:
    head = np.array([[s + 2.4, d - 0.45], [s + 4.2, d], [s + 2.4, d + 0.45]])
    return [Mark(_quad(s, s + 2.6, d - 0.1, d + 0.1), plan.paint, ids.LANE_MARK), Mark(head, plan.paint, ids.LANE_MARK)]


def skyline(rng: Random, plan: Plan) -> tuple[tuple[float, float, float, Colour, int], ...]:
    """Roofs and woods at the horizon, as (from, to, elevation, colour, id); angles are in radians."""
    out: list[tuple[float, float, float, Colour, int]] = []
    wooded = {"urban": 0.25, "suburb": 0.6, "park": 0.85, "works": 0.4}[plan.style]
    angle = -1.3
    while angle < 1.3:
        width = rng.uniform(0.02, 0.09)
        if rng.random() < wooded:
            out.append((angle, angle + width, rng.uniform(0.012, 0.045), palettes.leaves(rng), ids.VEGETATION))
        else:
            out.append((angle, angle + width, rng.uniform(0.015, 0.075), palettes.wall(rng), ids.BUILDING))
        angle += width * rng.uniform(0.6, 1.0)
    return tuple(out)


def wave(rng: Random, size: float, low: float, high: float) -> tuple[float, float, float]:
    """Size (metres), length (metres) and phase of a gentle wave; longer waves are larger: ``size`` is for ``low``."""
    length = rng.uniform(low, high)
    return rng.gauss(0, 1) * size * (length / low) ** 2, length, rng.uniform(0, 2 * math.pi)
