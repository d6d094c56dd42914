"""Street furniture, traffic and people along a plan; and the complete world of a seed."""

from __future__ import annotations

import math
from random import Random

from pipeline.datasets._streets import palettes
from pipeline.datasets._streets.layout import Plan, Side, make_plan, markings, skyline, strips, wave
from pipeline.datasets._streets.lots import lots, tree
from pipeline.datasets._streets.world import Bike, Car, Colour, Drive, Gantry, Person, Pole, Sign, Thing, Wave, World

_SIZES = {
    "hatch": (3.9, 1.75, 1.48),
    "sedan": (4.6, 1.82, 1.45),
    "estate": (4.6, 1.82, 1.5),
    "suv": (4.6, 1.9, 1.75),
    "van": (5.2, 2.0, 2.25),
    "truck": (7.5, 2.4, 3.2),
    "bus": (11.0, 2.5, 3.1),
}
_SHARES = {"hatch": 28, "sedan": 20, "estate": 14, "suv": 20, "van": 11, "truck": 5, "bus": 2}
_BOARDS = {"round": 34, "triangle": 18, "yield": 8, "stop": 6, "diamond": 8, "square": 16, "arrow": 10}


def make_world(seed: int, duration: float) -> World:
    """The world of a seed.

    Args:
        duration: length of the drive in seconds; the street is long enough for it. 0: a still image from s = 0.
    """
    rng = Random(seed)  # noqa: S311 - a drawing, not a secret
    speed = rng.uniform(6.5, 8.5) if duration else 0.0
    length = 95 + speed * duration
    plan = make_plan(rng, length)
    things: list[Thing] = []
    for side in (plan.left, plan.right):
        things += lots(rng, plan, side)
        things += _furniture(rng, plan, side)
        things += _parked(rng, plan, side)
        things += _walkers(rng, plan, side)
    drive = Drive(
        speed=speed,
        d=(plan.lanes - 0.5 if rng.random() < 0.7 else 0.5) * plan.lane + rng.gauss(0, 0.2),
        eye=rng.choices((rng.uniform(1.2, 1.6), rng.uniform(1.7, 2.4)), (75, 25))[0],
        focal=rng.uniform(0.82, 1.15),
        horizon=rng.uniform(0.38, 0.5),
        yaw=rng.gauss(0, 0.03),
        sway=1.0 if duration else 0.0,
    )
    things += _traffic(rng, plan, drive, duration)
    things += _crossing(rng, plan, drive, duration)
    marks, dashes, cracks = markings(rng, plan)
    return World(
        bend=Wave(*wave(rng, 1.6, 90, 260)),
        hill=Wave(*wave(rng, 0.25, 110, 300)),
        strips=strips(rng, plan),
        marks=marks,
        dashes=dashes,
        cracks=cracks,
        things=tuple(things),
        skyline=skyline(rng, plan),
        roughness=rng.random(),
        drive=drive,
        seed=seed,
    )


def _in_crossing(plan: Plan, s: float, margin: float) -> bool:
    return any(abs(s - c) < w + margin for c, w in plan.crossings)


def _furniture(rng: Random, plan: Plan, side: Side) -> list[Thing]:
    """Lamps, street trees, signs, bollards and traffic lights next to the kerb."""
    out: list[Thing] = []
    kerb, inward = side.kerb + 0.45, -side.sign
    colour = palettes.metal(rng)
    height, arm, width = rng.uniform(4.5, 9), rng.choice((0.0, 1.2, 2.2)), rng.uniform(0.12, 0.22)
    s, step = rng.uniform(4, 20), rng.uniform(13, 24)
    while s < plan.length:
        if not _in_crossing(plan, s, 0.5):
            out.append(Pole(s, side.sign * kerb, height, width, inward * arm, colour, True))
        s += step
    if rng.random() < (0.5 if plan.style != "park" else 0.7):
        s, step = rng.uniform(3, 14), rng.uniform(7, 13)
        while s < plan.length:
            if not _in_crossing(plan, s, 2):
                out.append(tree(rng, s, side.sign * (kerb + 0.5), bush=False))
            s += step
    s = rng.uniform(4, 16)
    while s < plan.length:
        if not _in_crossing(plan, s, 0):
            out.append(
                _sign(rng, s, side.sign * (kerb + rng.uniform(-0.1, 0.5)), back=side.sign < 0 and rng.random() < 0.6)
            )
        s += rng.uniform(6, 22)
    out += _bollards(rng, plan, side, colour)
    signals = rng.random() < 0.6
    for c, w in plan.crossings:
        if signals:
            reach = rng.choice((0.0, 3.5)) * inward
            place = c - w - 1.0 if side.sign > 0 else c + w + 1.0
            out.append(
                Pole(place, side.sign * kerb, 5.2 if reach else 3.4, 0.16, reach, colour, False, rng.randrange(3))
            )
    if side.sign > 0 and rng.random() < 0.16:
        boards = tuple(
            (d * plan.lane, rng.uniform(2.2, 3.2), rng.uniform(1.1, 1.7)) for d in (-0.5, 0.9)[: rng.randint(1, 2)]
        )
        board = rng.choice(((165.0, 90.0, 30.0), (80.0, 115.0, 25.0), (60.0, 190.0, 225.0)))
        masts = (-plan.left.kerb - 0.6, plan.right.kerb + 0.6)
        out.append(Gantry(rng.uniform(22, 65), *masts, rng.uniform(5.6, 6.4), boards, palettes.metal(rng), board))
    return out


def _bollards(rng: Random, plan: Plan, side: Side, colour: Colour) -> list[Thing]:
    out: list[Thing] = []
    if rng.random() < 0.3:
        s, step, end = rng.uniform(3, 40), rng.uniform(1.6, 3), rng.uniform(20, plan.length)
        while s < end:
            if not _in_crossing(plan, s, 0.5):
                out.append(Pole(s, side.sign * (side.kerb + 0.35), 0.95, 0.16, 0.0, colour, False))
            s += step
    return out


def _sign(rng: Random, s: float, d: float, *, back: bool) -> Sign:
    shapes = rng.choices(list(_BOARDS), list(_BOARDS.values()), k=rng.choice((1, 1, 2)))
    boards = tuple((shape, rng.uniform(0.7, 1.15), rng.randrange(6)) for shape in shapes)
    if rng.random() < 0.25:
        boards += (("plate", 0.7, 0),)
    turn = rng.uniform(0.65, 1.0)
    return Sign(s, d, rng.uniform(2.5, 3.5), boards, 0.08, back, turn, palettes.metal(rng))


def _car(rng: Random, s: float, d: float, heading: float, speed: float, *, parked: bool = False) -> Car:
    style = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
    if parked and style in ("truck", "bus"):
        style = "van"
    length, width, height = _SIZES[style]
    k = rng.gauss(1, 0.04)
    glass = rng.choice(((45.0, 42.0, 40.0), (75.0, 68.0, 60.0), (140.0, 125.0, 105.0)))
    size = (length * k, width * k, height * k)
    return Car(
        s, d, heading, speed, style, size, palettes.paint(rng), glass, not parked, not parked and rng.random() < 0.35
    )


def _parked(rng: Random, plan: Plan, side: Side) -> list[Thing]:
    """Cars in the parking lane and bicycles on the pavement."""
    out: list[Thing] = []
    if side.parking:
        s, full = rng.uniform(2, 12), rng.uniform(0.2, 0.65)
        while s < plan.length:
            if rng.random() < full and not _in_crossing(plan, s, 6):
                heading = 0.0 if side.sign > 0 else math.pi
                d = side.sign * (side.kerb - side.parking / 2 - 0.05)
                out.append(_car(rng, s, d, heading, 0.0, parked=True))
            s += rng.uniform(5.6, 7)
    s = rng.uniform(4, 30)
    while s < plan.length:
        for k in range(rng.randint(1, 4)):
            heading = rng.choice((0.5, 1.0)) * math.pi + rng.gauss(0, 0.2)
            out.append(_bike(rng, s + 0.7 * k, side.sign * (side.walk - 0.8), heading, 0.0, rider=False))
        s += rng.uniform(18, 60)
    return out


def _bike(rng: Random, s: float, d: float, heading: float, speed: float, *, rider: bool) -> Bike:
    return Bike(
        s,
        d,
        heading,
        speed,
        palettes.bright(rng) if rng.random() < 0.5 else palettes.metal(rng),
        rider,
        rng.uniform(1.6, 1.85),
        rng.uniform(0, 6),
        palettes.cloth(rng),
        palettes.cloth(rng),
        palettes.skin(rng),
        palettes.bright(rng) if rng.random() < 0.6 else palettes.hair(rng),
    )


def _person(rng: Random, s: float, d: float, along: float, across: float, *, rain: bool = False) -> Person:
    child = rng.random() < 0.12
    height = rng.uniform(1.05, 1.4) if child else rng.gauss(1.72, 0.08)
    return Person(
        s,
        d,
        along,
        across,
        height,
        height * rng.uniform(0.23, 0.31),
        rng.uniform(0, 6),
        palettes.cloth(rng),
        palettes.cloth(rng),
        palettes.skin(rng),
        palettes.hair(rng),
        rng.random() < 0.2,
        palettes.cloth(rng) if rng.random() < 0.35 else None,
        palettes.cloth(rng) if rain or rng.random() < 0.04 else None,
    )


def _walkers(rng: Random, plan: Plan, side: Side) -> list[Thing]:
    """Groups of people on the pavement; some stand still."""
    out: list[Thing] = []
    spacing = rng.uniform(5, 20) * {"urban": 0.7, "suburb": 1.4, "park": 1.1, "works": 1.6}[plan.style]
    s = rng.uniform(4, 4 + spacing)
    low, high = side.kerb + side.verge + 0.3, side.walk - 0.25
    while s < plan.length:
        along = rng.choice((-1, 1, 1)) * rng.uniform(0.9, 1.6) if rng.random() < 0.8 else 0.0
        for _ in range(rng.choice((1, 1, 2, 3))):
            out.append(_person(rng, s + rng.gauss(0, 0.5), side.sign * rng.uniform(low, high), along, 0.0))
        s += rng.expovariate(1 / spacing) + 1.0
    return out


def _traffic(rng: Random, plan: Plan, drive: Drive, duration: float) -> list[Thing]:
    """Cars and cyclists that move along the road, for the whole duration of the drive."""
    out: list[Thing] = []
    gap = rng.uniform(16, 48)
    for index in range(plan.lanes):
        lane = (index + 0.5) * plan.lane
        own = abs(lane - drive.d) < plan.lane / 2
        s = rng.uniform(12, 17 + gap)
        while s < plan.length - drive.speed * duration:
            along = drive.speed * (1.02 if own else rng.choice((0.9, 1.1)))
            out.append(_car(rng, s, lane + rng.gauss(0, 0.15), rng.gauss(0, 0.02), along))
            s += gap * rng.uniform(0.7, 1.8)
        s = rng.uniform(9, 16 + gap)
        oncoming = drive.speed * rng.uniform(0.9, 1.3)
        while s < plan.length + oncoming * duration:
            out.append(_car(rng, s, -lane + rng.gauss(0, 0.15), math.pi + rng.gauss(0, 0.02), oncoming))
            s += gap * rng.uniform(0.7, 2.2)
    for sign, side in ((1, plan.right), (-1, plan.left)):
        s, step = rng.uniform(4, 34), rng.uniform(14, 50)
        pace = rng.uniform(3.5, 5) if duration else 0.0
        while s < plan.length + pace * duration:
            d = sign * (side.lane - rng.uniform(0.1, 0.7))
            out.append(_bike(rng, s, d, (0.0 if sign > 0 else math.pi) + rng.gauss(0, 0.25), pace, rider=True))
            s += step * rng.uniform(0.6, 1.5)
    return out


def _crossing(rng: Random, plan: Plan, drive: Drive, duration: float) -> list[Thing]:
    """Cars, cyclists and people that cross the road; in a drive they leave the camera's lane before it arrives."""
    out: list[Thing] = []
    reach = plan.lanes * plan.lane
    places = [c for c, _ in plan.crossings] + [rng.uniform(8, plan.length) for _ in range(1 + int(plan.length / 100))]
    for index, s in enumerate(places):
        street = index < len(plan.crossings)
        if street and not duration and rng.random() < 0.55:
            heading = rng.choice((0.5, 1.5)) * math.pi
            d = rng.choice((-1, 1)) * rng.uniform(reach * 0.2, reach + 9)
            out.append(_car(rng, s + math.copysign(1.5, math.sin(heading)), d, heading, 0.0))
        if rng.random() < 0.6:
            across = rng.choice((-1, 1)) * rng.uniform(0.9, 1.5)
            when = max((s - 20) / 7.5, 0.0) if duration else 0.0
            zebra = s - plan.crossings[index][1] - 2.3 if street else s
            for _ in range(rng.choice((1, 2, 3))):
                clear = drive.d + math.copysign(rng.uniform(0.5, 4), across)
                start = (clear if duration else rng.uniform(-reach, reach)) - across * when
                out.append(_person(rng, zebra + rng.gauss(0, 0.6), start, 0.0, across))
        if street and rng.random() < 0.4:
            heading = rng.choice((0.5, 1.5)) * math.pi
            pace = 3.5 if duration else 0.0
            when = max((s - 18) / 7.5, 0.0) if duration else 0.0
            clear = drive.d + rng.uniform(0, 3) * math.sin(heading)
            start = (clear if duration else rng.uniform(-reach, reach)) - pace * when * math.sin(heading)
            out.append(_bike(rng, s + rng.uniform(-2, 2), start, heading, pace, rider=True))
    return out
