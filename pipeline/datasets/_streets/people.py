"""Pedestrians and cyclists as figures with joints."""

from __future__ import annotations

import itertools
import math

import numpy as np

from pipeline.datasets._streets.canvas import Camera, Canvas, Ink
from pipeline.datasets._streets.classes import BICYCLE, PEDESTRIAN
from pipeline.datasets._streets.light import Light
from pipeline.datasets._streets.world import Bike, Colour, Person


class _Figure:
    """Draws limbs around a foot point; coordinates are metres to the right and up."""

    def __init__(self, canvas: Canvas, foot: tuple[float, float, float, float], ident: int, shade: float) -> None:
        self.canvas, self.ident, self.shade = canvas, ident, shade
        self.x, self.y, self.k, self.z = foot

    def ink(self, colour: Colour, shade: float = 1.0) -> Ink:
        return self.canvas.ink(colour, self.ident, self.z, self.shade * shade)

    def limb(self, width: float, ink: Ink, *joints: tuple[float, float]) -> None:
        k, x, y = self.k, self.x, self.y
        for (u0, h0), (u1, h1) in itertools.pairwise(joints):
            self.canvas.line(x + k * u0, y - k * h0, x + k * u1, y - k * h1, width * k, ink)

    def disc(self, u: float, h: float, r: float, ink: Ink, *, squeeze: float = 1.0) -> None:
        self.canvas.disc(self.x + self.k * u, self.y - self.k * h, self.k * r * squeeze, self.k * r, ink)

    def ring(self, u: float, h: float, r: float, width: float, ink: Ink, *, squeeze: float) -> None:
        thickness = max(round(width * self.k), 1)
        x, y = self.x + self.k * u, self.y - self.k * h
        self.canvas.disc(x, y, max(self.k * r * squeeze, 0.8), self.k * r, ink, thickness=thickness)

    def shape(self, ink: Ink, *corners: tuple[float, float]) -> None:
        self.canvas.polygon(np.array([(self.x + self.k * u, self.y - self.k * h) for u, h in corners]), ink)


def paint_person(canvas: Canvas, camera: Camera, person: Person, light: Light, t: float) -> None:
    s, d = person.at(t)
    figure = _Figure(canvas, camera.foot(s, d), PEDESTRIAN, light.shades[2])
    g, w = person.height, person.width
    speed = abs(person.along) + abs(person.across)
    if figure.k * g < 13:
        _paint_far_person(figure, person)
        return
    swing = math.sin(person.phase + 5.5 * t) * min(speed, 1.4) / 1.4
    spread = (0.17 if abs(person.across) > abs(person.along) else 0.05) * swing
    legs, top, skin = figure.ink(person.legs), figure.ink(person.top), figure.ink(person.skin)
    hip, shoulder = 0.5 * g, 0.82 * g
    for sign, shade in ((1, legs), (-1, figure.ink(person.legs, 0.8))):
        foot = sign * (0.05 * g + spread * g)
        figure.limb(0.10 * g, shade, (sign * 0.05 * g, hip), (foot * 0.8, 0.26 * g), (foot, 0.03 * g))
    if person.bag is not None:
        figure.disc(w * 0.62, 0.55 * g, 0.1 * g, figure.ink(person.bag))
    if person.skirt:
        figure.shape(top, (-0.1 * g, 0.56 * g), (0.1 * g, 0.56 * g), (0.14 * g, 0.3 * g), (-0.14 * g, 0.3 * g))
    figure.shape(top, (-w * 0.4, hip), (w * 0.4, hip), (w * 0.55, shoulder), (-w * 0.55, shoulder))
    for sign in (-1, 1):
        hand = sign * (w * 0.62 + 0.6 * abs(spread) * g)
        figure.limb(0.07 * g, figure.ink(person.top, 0.85), (sign * w * 0.52, 0.8 * g), (hand, 0.48 * g))
    figure.disc(0, 0.92 * g, 0.075 * g, figure.ink(person.hair))
    figure.disc(0, 0.905 * g, 0.06 * g, skin, squeeze=0.85)
    if person.umbrella is not None:
        ink = figure.ink(person.umbrella)
        figure.limb(0.03, figure.ink((60, 60, 60)), (0.1, 0.8 * g), (0.1, 1.2 * g))
        figure.shape(ink, (-0.5, 1.08 * g), (-0.3, 1.22 * g), (0.1, 1.28 * g), (0.5, 1.22 * g), (0.7, 1.08 * g))


def _paint_far_person(figure: _Figure, person: Person) -> None:
    """A person so far away that limbs are thinner than a pixel."""
    g, w = person.height, person.width
    figure.limb(0.12 * g, figure.ink(person.legs), (0, 0.5 * g), (0, 0))
    figure.limb(1.1 * w, figure.ink(person.top), (0, 0.72 * g), (0, 0.55 * g))
    figure.limb(0.12 * g, figure.ink(person.hair), (0, 0.93 * g), (0, 0.88 * g))


def _paint_far_bike(figure: _Figure, bike: Bike) -> None:
    """A bicycle so far away that its tubes are thinner than a pixel."""
    half = 0.5 * abs(math.sin(bike.heading))
    figure.limb(0.2, figure.ink(bike.frame), (-half, 0.4), (half, 0.4))
    figure.limb(0.1, figure.ink((36, 35, 35)), (-half, 0.6), (-half, 0.1))
    figure.limb(0.1, figure.ink((36, 35, 35)), (half, 0.6), (half, 0.1))
    if bike.rider:
        figure.limb(0.4, figure.ink(bike.top), (0, 1.3), (0, 1.0))
        figure.limb(0.25, figure.ink(bike.legs), (0, 0.9), (0, 0.5))
        figure.disc(0, 1.65, 0.13, figure.ink(bike.helmet))


def paint_bike(canvas: Canvas, camera: Camera, bike: Bike, light: Light, t: float) -> None:
    """Paint wheels, frame and rider. ``heading`` turns the bicycle: it is narrow from the rear, long from the side."""
    s, d = bike.at(t)
    figure = _Figure(canvas, camera.foot(s, d), BICYCLE, light.shades[2])
    if figure.k < 8:
        _paint_far_bike(figure, bike)
        return
    n = math.sin(bike.heading)  # metres to the right per metre along the bicycle
    squeeze = max(abs(n), 0.12)
    tyre, frame = figure.ink((36, 35, 35)), figure.ink(bike.frame)
    wheels = (-0.52, 0.52)
    for wheel in wheels:
        figure.ring(wheel * n, 0.34, 0.33, 0.07, tyre, squeeze=squeeze)
    seat, pedals, bar = (-0.2 * n, 0.85), (-0.02 * n, 0.3), (0.42 * n, 0.95)
    figure.limb(0.06, frame, (-0.52 * n, 0.34), pedals, seat, (0.36 * n, 0.8), pedals)
    figure.limb(0.06, frame, (0.52 * n, 0.34), bar)
    figure.limb(0.05, tyre, (bar[0] - 0.3 * (1 - squeeze), 1.02), (bar[0] + 0.3 * (1 - squeeze), 1.02))
    if not bike.rider:
        return
    g = bike.height
    legs, top = figure.ink(bike.legs), figure.ink(bike.top)
    turn = bike.phase + 5 * t
    aside = 0.12 * (1 - squeeze)
    for sign in (-1, 1):
        foot = (pedals[0] + 0.16 * n * math.cos(turn) * sign + sign * aside, 0.3 + 0.16 * math.sin(turn) * sign)
        figure.limb(0.13, legs, (seat[0] + sign * aside, 0.92), (0.18 * n + sign * aside * 1.5, 0.68), foot)
    if squeeze < 0.6:  # seen from the rear or the front, the near wheel covers the legs
        near = -0.52 if math.cos(bike.heading) > 0 else 0.52
        figure.limb(0.07, tyre, (near * n, 0.66), (near * n, 0.02))
        figure.limb(0.16, tyre, (near * n, 0.74), (near * n, 0.68))
    neck = (0.16 * n, 0.98 + 0.3 * g)
    half = 0.12 + 0.09 * (1 - squeeze)
    figure.shape(
        top, (seat[0] - half, 0.9), (seat[0] + half, 0.9), (neck[0] + half, neck[1]), (neck[0] - half, neck[1])
    )
    for sign in (-1, 1):
        figure.limb(
            0.09,
            figure.ink(bike.top, 0.85),
            (neck[0] + sign * half * 0.9, neck[1] - 0.05),
            (bar[0] + sign * half, 1.02),
        )
    figure.disc(neck[0] + 0.05 * n, neck[1] + 0.16, 0.13, figure.ink(bike.skin), squeeze=0.85)
    figure.disc(neck[0] + 0.03 * n, neck[1] + 0.21, 0.13, figure.ink(bike.helmet))
