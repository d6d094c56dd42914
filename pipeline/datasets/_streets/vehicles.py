"""Motor vehicles as small solids with flat faces."""

# ruff: noqa: PLR0917 - coordinates and sizes read best in their usual order

from __future__ import annotations

import functools
import math

import numpy as np

from pipeline.datasets._streets.canvas import Camera, Canvas, Ink
from pipeline.datasets._streets.classes import CAR
from pipeline.datasets._streets.light import Light
from pipeline.datasets._streets.world import Car, Colour, Floats

# style -> height of the body (share of the total height); start and end of the cabin at its foot and at its roof, from
# the rear (shares of the length)
STYLES: dict[str, tuple[float, tuple[float, float], tuple[float, float]]] = {
    "hatch": (0.56, (0.02, 0.76), (0.10, 0.56)),
    "sedan": (0.56, (0.14, 0.74), (0.28, 0.56)),
    "estate": (0.56, (0.02, 0.74), (0.08, 0.58)),
    "suv": (0.58, (0.01, 0.78), (0.06, 0.62)),
    "van": (0.50, (0.0, 0.96), (0.01, 0.82)),
    "truck": (0.30, (0.0, 0.74), (0.0, 0.74)),
    "bus": (0.34, (0.0, 1.0), (0.0, 0.99)),
}
_BEHIND, _AHEAD, _LEFT, _RIGHT, _UP = range(5)  # the faces of a vehicle
_PAINT, _LOAD, _GLASS, _TYRE, _TRIM, _TAIL, _HEAD, _PLATE = range(8)  # materials of faces


class _Faces:
    """Collects the faces of a vehicle of unit size; seen from outside, all corners (along, right, up) turn one way."""

    def __init__(self) -> None:
        self.corners: list[Floats] = []
        self.kinds: list[tuple[int, int]] = []

    def add(self, side: int, material: int, *corners: tuple[float, float, float]) -> None:
        points = np.array(corners)
        self.corners.append(np.concatenate([points, np.repeat(points[-1:], 8 - len(points), 0)]))
        self.kinds.append((side, material))

    def end(self, side: int, material: int, v0: float, v1: float, h0: float, h1: float) -> None:
        """An upright rectangle on the rear or the front."""
        u, sign = (-0.501, 1) if side == _BEHIND else (0.501, -1)
        self.add(side, material, *((u, sign * v, h) for v, h in ((v0, h0), (v1, h0), (v1, h1), (v0, h1))))

    def flank(self, side: int, material: int, half: float, u0: float, u1: float, h0: float, h1: float) -> None:
        """An upright rectangle on the left or the right."""
        v, (a, b) = (-half, (u1, u0)) if side == _LEFT else (half, (u0, u1))
        self.add(side, material, (a, v, h0), (b, v, h0), (b, v, h1), (a, v, h1))


@functools.lru_cache(maxsize=32)
def _solid(style: str, rear_view: bool) -> tuple[Floats, tuple[tuple[int, int], ...]]:
    """Corners (F, 8, 3) of the faces in painting order, and (side, material) of each face."""
    faces = _Faces()
    if style == "truck" and rear_view:
        _add_cab(faces)
    _add_body(faces, style)
    _add_cabin(faces, style)
    if style == "truck" and not rear_view:
        _add_cab(faces)
    return np.stack(faces.corners), tuple(faces.kinds)


def _add_body(faces: _Faces, style: str) -> None:
    body, floor = STYLES[style][0], 0.15
    heavy = style in ("truck", "bus")
    for side in (_BEHIND, _AHEAD):
        for v in (-0.46, 0.26):
            faces.end(side, _TYRE, v, v + 0.2, 0, floor + 0.1)
        faces.end(side, _PAINT, -0.5, 0.5, floor, body)
    radius = 0.05 if heavy else 0.075
    for side, turn in ((_LEFT, -1), (_RIGHT, 1)):
        faces.flank(side, _PAINT, 0.5, -0.5, 0.5, floor, body)
        for wheel in (-0.31, 0.31):
            for size, material in ((1.0, _TYRE), (0.55, _TRIM)):
                angles = np.linspace(0, 2 * math.pi * turn, 9)[:-1].tolist()
                rim = [(size * math.cos(a), 0.21 * (1 + size * math.sin(a))) for a in angles]
                faces.add(side, material, *((wheel + radius * u, 0.505 * turn, h) for u, h in rim))
    faces.add(_UP, _PAINT, (-0.5, -0.5, body), (-0.5, 0.5, body), (0.5, 0.5, body), (0.5, -0.5, body))
    faces.end(_BEHIND, _TRIM, -0.48, 0.48, floor, floor + 0.1)
    faces.end(_AHEAD, _TRIM, -0.48, 0.48, floor, floor + 0.1)
    faces.end(_AHEAD, _TYRE, -0.24, 0.24, floor + 0.12, body - 0.12)
    low = floor + 0.02 if heavy else body - 0.2
    for v in (-1, 1):
        faces.end(_BEHIND, _TAIL, min(v * 0.49, v * 0.32), max(v * 0.49, v * 0.32), low, low + 0.13)
        faces.end(_AHEAD, _HEAD, min(v * 0.47, v * 0.29), max(v * 0.47, v * 0.29), low, low + 0.12)
    faces.end(_BEHIND, _PLATE, -0.14, 0.14, floor + 0.13, floor + 0.21)
    faces.end(_AHEAD, _PLATE, -0.14, 0.14, floor + 0.03, floor + 0.1)


def _add_cabin(faces: _Faces, style: str) -> None:
    """The upper half with its windows, or the load of a truck."""
    body, foot, roof = STYLES[style]
    f0, f1, r0, r1 = (x - 0.5 for x in (*foot, *roof))
    w0, w1 = (0.495, 0.48) if style in ("truck", "bus", "van") else (0.49, 0.40)
    skin = _LOAD if style == "truck" else _PAINT
    walls = (
        ((f0, -w0, body), (f0, w0, body), (r0, w1, 1.0), (r0, -w1, 1.0)),
        ((f1, w0, body), (f1, -w0, body), (r1, -w1, 1.0), (r1, w1, 1.0)),
        ((f1, -w0, body), (f0, -w0, body), (r0, -w1, 1.0), (r1, -w1, 1.0)),
        ((f0, w0, body), (f1, w0, body), (r1, w1, 1.0), (r0, w1, 1.0)),
    )
    for side, wall in enumerate(walls):
        faces.add(side, skin, *wall)
        for a, b, low, high in () if style == "truck" else _panes(style, side):
            corners = ((a, low), (b, low), (b, high), (a, high))
            faces.add(side, _GLASS, *(_mix(np.array(wall), x, y) for x, y in corners))
    faces.add(_UP, skin, (r0, -w1, 1), (r0, w1, 1), (r1, w1, 1), (r1, -w1, 1))


def _add_cab(faces: _Faces) -> None:
    """The cab of a truck."""
    for side in (_LEFT, _RIGHT):
        faces.flank(side, _PAINT, 0.46, 0.27, 0.5, 0.3, 0.82)
        faces.flank(side, _GLASS, 0.465, 0.32, 0.47, 0.5, 0.76)
    faces.end(_AHEAD, _PAINT, -0.46, 0.46, 0.3, 0.82)
    faces.end(_AHEAD, _GLASS, -0.42, 0.42, 0.5, 0.76)


def _panes(style: str, side: int) -> tuple[tuple[float, float, float, float], ...]:
    """Windows of a cabin face: left, right, low, high, as shares of its width and height."""
    if side in (_BEHIND, _AHEAD):
        return ((0.08, 0.92, 0.12 if style != "van" else 0.35, 0.88),)
    if style == "bus":
        return tuple((0.03 + 0.16 * i, 0.17 + 0.16 * i, 0.15, 0.75) for i in range(6))
    if style == "van":
        return ((0.06, 0.26, 0.3, 0.85),) if side == _LEFT else ((0.74, 0.94, 0.3, 0.85),)
    return ((0.07, 0.46, 0.12, 0.86), (0.52, 0.93, 0.12, 0.86))


def _mix(q: Floats, x: float, y: float) -> tuple[float, float, float]:
    """A point of the face with corners ``q`` (4, 3), moved outwards a little."""
    low, high = q[0] + (q[1] - q[0]) * x, q[3] + (q[2] - q[3]) * x
    u, v, h = (low + (high - low) * y).tolist()
    return u * 1.004, v * 1.01, h


def paint_car(canvas: Canvas, camera: Camera, car: Car, light: Light, t: float) -> None:
    faces, kinds = _solid(car.style, math.cos(car.heading) > 0)
    s, d = car.at(t)
    local = faces * np.asarray(car.size)
    c, n = math.cos(car.heading), math.sin(car.heading)
    along, right, up = local[..., 0], local[..., 1], local[..., 2]
    view = camera.stretch(s - car.size[0] / 2, s + car.size[0] / 2)
    points = view.project(s + c * along - n * right, d + n * along + c * right, up)  # (F, 8, 2)
    e, f = points[:, 2] - points[:, 0], points[:, 3] - points[:, 1]
    towards = e[:, 0] * f[:, 1] - e[:, 1] * f[:, 0] < 0
    z = max(s - camera.s, 1.0)
    tall = camera.focal / z * car.size[2]
    shades = _face_shades(car.heading, light)
    for index in np.flatnonzero(towards).tolist():
        side, material = kinds[index]
        shade = shades[side]
        if material == _PAINT:
            ink = canvas.ink(car.paint, CAR, z, shade)
        elif material == _LOAD:
            ink = canvas.ink((205.0, 208.0, 210.0), CAR, z, shade)
        elif material == _GLASS:
            ink = canvas.ink(car.glass, CAR, z, shade)
        elif tall < 9 and material != _TYRE:
            continue
        elif material == _TYRE:
            ink = canvas.ink((27.0, 26.0, 26.0), CAR, z)
        elif material == _TRIM:
            ink = canvas.ink((62.0, 60.0, 60.0), CAR, z, shade)
        elif material == _PLATE:
            ink = canvas.ink((215.0, 222.0, 222.0), CAR, z, shade)
        else:
            ink = _lamp(canvas, car, material, z, light)
        canvas.polygon(points[index], ink)


def _lamp(canvas: Canvas, car: Car, material: int, z: float, light: Light) -> Ink:
    on = (car.lights and light.lamps) or (car.braking and material == _TAIL)
    colour: Colour = (60, 50, 255) if material == _TAIL else (235, 250, 255)
    if not on:
        return canvas.ink((45, 35, 150) if material == _TAIL else (205, 210, 210), CAR, z, 0.85)
    return canvas.ink(colour, CAR, z * 0.3, shines=True)


def _face_shades(heading: float, light: Light) -> tuple[float, ...]:
    """Brightness of the five faces of a vehicle that is turned by ``heading``."""
    left, right, front, up = light.shades
    ring = (front, right, front * 0.9, left)  # faces towards the camera, to the right, away from it, to the left
    quarter = round(heading / (math.pi / 2)) % 4
    behind, rightward, ahead, leftward = (ring[(i - quarter) % 4] for i in range(4))
    return behind, ahead, leftward, rightward, up
