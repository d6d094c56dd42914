"""The contents of a street: the shape of the road, and plain records of the things along it.

Road coordinates, in metres: ``s`` along the road (driving direction), ``d`` to the right of its centre line, ``h``
above the ground. Colours are BGR albedos in 0..255. Records never change, and this file draws nothing: the position of
a moving thing at time ``t`` (seconds) is computed from its record.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Colour: TypeAlias = tuple[float, float, float]
Floats: TypeAlias = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Wave:
    """``size * sin(2 pi s / length + phase)``: the sideways offset (bend) or the height (hill) of the road, metres."""

    size: float
    length: float
    phase: float

    def __call__(self, s: Floats) -> Floats:
        return np.asarray(self.size * np.sin(2 * math.pi / self.length * s + self.phase))

    def value(self, s: float) -> float:
        return self.size * math.sin(2 * math.pi / self.length * s + self.phase)

    def slope(self, s: float) -> float:
        k = 2 * math.pi / self.length
        return self.size * k * math.cos(k * s + self.phase)


@dataclass(frozen=True)
class Strip:
    """One band of the cross-section: from the edge of the previous strip to ``edge`` (d, metres)."""

    edge: float
    colour: Colour
    ident: int


@dataclass(frozen=True)
class Mark:
    """A painted or worn polygon on the ground, corners (N, 2) as (s, d)."""

    corners: Floats
    colour: Colour
    ident: int


@dataclass(frozen=True)
class Crack:
    """A dark line on the ground, points (N, 2) as (s, d)."""

    points: Floats
    colour: Colour
    ident: int


@dataclass(frozen=True)
class Building:
    """A box from ``s`` to ``end``; its front is at ``d``, whose sign is the side of the road."""

    s: float
    end: float
    d: float
    height: float
    depth: float
    wall: Colour
    trim: Colour
    glass: Colour
    lit: Colour
    window: tuple[float, float]  # share of a bay (width) and of a storey (height)
    bay: float
    storey: float
    lit_share: float
    shop: Colour | None
    awning: Colour | None
    poster: tuple[str, Colour, Colour] | None
    roof: float
    seed: int


@dataclass(frozen=True)
class Tree:
    """A tree (``trunk`` > 0) or a bush."""

    s: float
    d: float
    trunk: float
    width: float
    height: float
    tint: Colour
    bark: Colour
    shape: int
    flip: bool


@dataclass(frozen=True)
class Pole:
    """A lamp, a traffic light post or a bollard; its arm reaches ``arm`` metres towards the road."""

    s: float
    d: float
    height: float
    width: float
    arm: float
    colour: Colour
    lamp: bool
    signal: int = -1  # 0 red, 1 amber, 2 green


@dataclass(frozen=True)
class Sign:
    """Boards ``(shape, size, symbol)`` on a post, the top board first. ``turn`` is the cosine of the view angle."""

    s: float
    d: float
    top: float
    boards: tuple[tuple[str, float, int], ...]
    post: float
    back: bool
    turn: float
    colour: Colour


@dataclass(frozen=True)
class Gantry:
    """A direction board over the road on two masts at ``d`` and ``other``."""

    s: float
    d: float
    other: float
    height: float
    boards: tuple[tuple[float, float, float], ...]  # centre d, width, height
    colour: Colour
    board: Colour


@dataclass(frozen=True)
class Car:
    """Any motor vehicle. ``heading`` 0 shows its rear, pi its front, pi / 2 its side."""

    s: float
    d: float
    heading: float
    speed: float
    style: str
    size: tuple[float, float, float]  # length, width, height
    paint: Colour
    glass: Colour
    lights: bool
    braking: bool

    def at(self, t: float) -> tuple[float, float]:
        return (
            self.s + self.speed * t * math.cos(self.heading),
            self.d + self.speed * t * math.sin(self.heading),
        )


@dataclass(frozen=True)
class Person:
    """A pedestrian. ``along`` and ``across`` are the walking speeds in s and d."""

    s: float
    d: float
    along: float
    across: float
    height: float
    width: float
    phase: float
    top: Colour
    legs: Colour
    skin: Colour
    hair: Colour
    skirt: bool
    bag: Colour | None
    umbrella: Colour | None

    def at(self, t: float) -> tuple[float, float]:
        return self.s + self.along * t, self.d + self.across * t


@dataclass(frozen=True)
class Bike:
    """A bicycle, with its rider unless it is parked."""

    s: float
    d: float
    heading: float
    speed: float
    frame: Colour
    rider: bool
    height: float
    phase: float
    top: Colour
    legs: Colour
    skin: Colour
    helmet: Colour

    def at(self, t: float) -> tuple[float, float]:
        return (
            self.s + self.speed * t * math.cos(self.heading),
            self.d + self.speed * t * math.sin(self.heading),
        )


Thing: TypeAlias = Building | Tree | Pole | Sign | Gantry | Car | Person | Bike


def place(thing: Thing, t: float) -> float:
    """Position of a thing along the road (s, metres) at time ``t``; of a building, its start."""
    return thing.at(t)[0] if isinstance(thing, Car | Person | Bike) else thing.s


@dataclass(frozen=True)
class Drive:
    """The camera: its position, movement and view."""

    speed: float  # m/s
    d: float
    eye: float  # metres above the road
    focal: float  # in image widths
    horizon: float  # share of the image height
    yaw: float  # in image widths
    sway: float  # 0 in still images


@dataclass(frozen=True)
class World:
    """Everything that a renderer needs, except the light. ``strips`` are in order from left to right."""

    bend: Wave
    hill: Wave
    strips: tuple[Strip, ...]
    marks: tuple[Mark, ...]
    dashes: tuple[Mark, ...]
    cracks: tuple[Crack, ...]
    things: tuple[Thing, ...]
    skyline: tuple[tuple[float, float, float, Colour, int], ...]  # from, to (radians), elevation, colour, id
    roughness: float
    drive: Drive
    seed: int = field(default=0)
