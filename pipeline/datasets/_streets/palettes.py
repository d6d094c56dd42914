"""Random colours (BGR albedo, 0..255). Classes share colours: grey cars on grey roads, green walls, sky-blue glass."""

from __future__ import annotations

from random import Random

from pipeline.datasets._streets.world import Colour

_WALLS: tuple[Colour, ...] = (
    (85, 105, 160),  # brick
    (70, 85, 135),
    (150, 185, 205),  # sandstone
    (175, 200, 215),
    (205, 212, 215),  # render
    (150, 152, 152),  # concrete
    (115, 117, 118),
    (120, 165, 205),  # ochre
    (165, 180, 150),  # sage, close to leaves
    (95, 130, 100),
    (190, 165, 135),  # bluish
    (200, 175, 150),
    (90, 95, 100),
    (160, 165, 215),  # rose
)
_PAINTS: tuple[Colour, ...] = (
    (45, 43, 42),
    (75, 73, 72),
    (105, 104, 102),
    (150, 150, 148),
    (190, 190, 188),
    (225, 226, 226),
    (40, 35, 150),
    (130, 70, 35),
    (95, 60, 40),
    (70, 90, 60),
    (50, 120, 190),
    (40, 50, 90),
    (45, 175, 215),
)
_CLOTHES: tuple[Colour, ...] = (
    (45, 42, 42),
    (70, 66, 64),
    (120, 80, 50),
    (90, 60, 40),
    (150, 150, 150),
    (215, 218, 220),
    (45, 40, 160),
    (60, 110, 60),
    (110, 140, 170),
    (50, 170, 215),
    (150, 90, 150),
    (160, 130, 60),
)
_SKIN: tuple[Colour, ...] = ((140, 170, 215), (120, 150, 200), (85, 120, 170), (55, 80, 120), (40, 55, 85))
_HAIR: tuple[Colour, ...] = ((25, 25, 30), (35, 45, 65), (60, 90, 130), (110, 150, 180), (130, 130, 130))
_LEAVES: tuple[Colour, ...] = (
    (55, 110, 75),
    (45, 95, 60),
    (65, 130, 100),
    (50, 120, 110),
    (75, 110, 70),
    (45, 125, 160),  # autumn
    (40, 85, 160),
    (40, 70, 45),
)
_BARK: tuple[Colour, ...] = ((60, 75, 90), (85, 92, 100), (45, 55, 65), (110, 115, 118))


def _near(rng: Random, colour: Colour, spread: float) -> Colour:
    b, g, r = colour
    v, cast, u = 1 + spread * (4 * rng.random() - 2), 200 * spread, rng.random
    b, g, r = b * v + cast * (u() - 0.5), g * v + cast * (u() - 0.5), r * v + cast * (u() - 0.5)
    return min(max(b, 5.0), 250.0), min(max(g, 5.0), 250.0), min(max(r, 5.0), 250.0)


def wall(rng: Random) -> Colour:
    return _near(rng, rng.choice(_WALLS), 0.12)


def paint(rng: Random) -> Colour:
    return _near(rng, rng.choice(_PAINTS), 0.08)


def cloth(rng: Random) -> Colour:
    return _near(rng, rng.choice(_CLOTHES), 0.15)


def skin(rng: Random) -> Colour:
    return rng.choice(_SKIN)


def hair(rng: Random) -> Colour:
    return rng.choice(_HAIR)


def leaves(rng: Random) -> Colour:
    return _near(rng, rng.choice(_LEAVES), 0.15)


def bark(rng: Random) -> Colour:
    return _near(rng, rng.choice(_BARK), 0.1)


def metal(rng: Random) -> Colour:
    return _near(rng, rng.choice(((70, 70, 68), (110, 112, 112), (150, 152, 152), (60, 80, 60), (45, 45, 45))), 0.1)


def bright(rng: Random) -> Colour:
    return _near(rng, rng.choice(((40, 40, 180), (170, 90, 30), (45, 190, 230), (70, 120, 40), (235, 235, 235))), 0.1)


def grey(rng: Random, low: float, high: float) -> Colour:
    """A grey with a slight colour cast."""
    v = rng.uniform(low, high)
    warm = rng.gauss(0, 0.035)
    return v * (1 - warm), v, v * (1 + warm)


def grass(rng: Random) -> Colour:
    return _near(rng, rng.choice(((55, 115, 85), (60, 125, 110), (70, 105, 90), (85, 130, 140))), 0.1)
