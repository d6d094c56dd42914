"""What moves: motor vehicles as small solids, pedestrians and cyclists as jointed figures."""

from __future__ import annotations

import functools
import math

import numpy as np

from pipeline.datasets._streets_canvas import Camera, Canvas, Ink
from pipeline.datasets._streets_classes import BICYCLE, CAR, PEDESTRIAN
from pipeline.datasets._streets_light import Light
from pipeline.datasets._streets_world import Bike, Car, Colour, Floats, Person

# style: height of the body (share of all), cabin from rear to front at its foot, then at its roof (shares of the length)
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
_PAINT, _GLASS, _TYRE, _TRIM, _TAIL, _HEAD, _PLATE = range(7)  # what a face is made of


@functools.lru_cache(maxsize=16)
def _solid(style: str) -> tuple[Floats, tuple[tuple[int, int], ...]]:
    """Corners (F, 8, 3) of the faces of a vehicle of unit size as (along, right, up), and each face's (side, material)."""
    body, foot, roof = STYLES[style]
    faces: list[Floats] = []
    kinds: list[tuple[int, int]] = []

    def add(side: int, material: int, *corners: tuple[float, float, float]) -> None:
        points = np.array(corners)
        faces.append(np.concatenate([points, np.repeat(points[-1:], 8 - len(points), 0)]))
        kinds.append((side, material))

    def end(side: int, material: int, v0: float, v1: float, h0: float, h1: float) -> None:
        u, sign = (-0.501, 1) if side == _BEHIND else (0.501, -1)
        add(side, material, *((u, sign * v, h) for v, h in ((v0, h0), (v1, h0), (v1, h1), (v0, h1))))

    floor = 0.15
    end(_BEHIND, _TYRE, -0.46, -0.26, 0, floor + 0.1)
    end(_BEHIND, _TYRE, 0.26, 0.46, 0, floor + 0.1)
    end(_AHEAD, _TYRE, -0.46, -0.26, 0, floor + 0.1)
    end(_AHEAD, _TYRE, 0.26, 0.46, 0, floor + 0.1)
    end(_BEHIND, _PAINT, -0.5, 0.5, floor, body)
    end(_AHEAD, _PAINT, -0.5, 0.5, floor, body)
    for side, v in ((_LEFT, -0.5), (_RIGHT, 0.5)):
        us = (0.5, -0.5) if side == _LEFT else (-0.5, 0.5)
        add(side, _PAINT, (us[0], v, floor), (us[1], v, floor), (us[1], v, body), (us[0], v, body))
        for wheel in (-0.31, 0.31):
            angles = np.linspace(0, 2 * math.pi, 9)[:-1] * (1 if side == _RIGHT else -1)
            radius = 0.075 if style not in ("truck", "bus") else 0.05
            for size, material in ((1.0, _TYRE), (0.55, _TRIM)):
                rim = [(wheel + size * radius * math.cos(a), v * 1.01, 0.21 + size * 0.21 * math.sin(a)) for a in angles]
                add(side, material, *rim)
    add(_UP, _PAINT, (-0.5, -0.5, body), (-0.5, 0.5, body), (0.5, 0.5, body), (0.5, -0.5, body))
    end(_BEHIND, _TRIM, -0.48, 0.48, floor, floor + 0.1)
    end(_AHEAD, _TRIM, -0.48, 0.48, floor, floor + 0.1)
    end(_AHEAD, _TYRE, -0.24, 0.24, floor + 0.12, body - 0.12)
    for v in (-1, 1):
        low = body - 0.2 if style not in ("truck", "bus") else floor + 0.02
        end(_BEHIND, _TAIL, *sorted((v * 0.49, v * 0.32)), low, low + 0.13)
        end(_AHEAD, _HEAD, *sorted((v * 0.47, v * 0.29)), low, low + 0.12)
    end(_BEHIND, _PLATE, -0.14, 0.14, floor + 0.13, floor + 0.21)
    end(_AHEAD, _PLATE, -0.14, 0.14, floor + 0.03, floor + 0.1)
    f0, f1, r0, r1 = (x - 0.5 for x in (*foot, *roof))
    w0, w1 = (0.49, 0.40) if style not in ("truck", "bus", "van") else (0.495, 0.48)
    cabin = [[(f0, -w0, body), (f0, w0, body), (r0, w1, 1.0), (r0, -w1, 1.0)]]
    cabin += [[(f1, w0, body), (f1, -w0, body), (r1, -w1, 1.0), (r1, w1, 1.0)]]
    cabin += [[(f1, -w0, body), (f0, -w0, body), (r0, -w1, 1.0), (r1, -w1, 1.0)]]
    cabin += [[(f0, w0, body), (f1, w0, body), (r1, w1, 1.0), (r0, w1, 1.0)]]
    for side, corners in enumerate(cabin):
        add(side, _PAINT, *corners)
        if style == "truck":
            continue
        q = np.array(corners)
        for part in _panes(style, side):
            a, b, low, high = part
            add(side, _GLASS, *((_mix(q, x, y)) for x, y in ((a, low), (b, low), (b, high), (a, high))))
    if style == "truck":  # the driver's cab in front of the load
        _cab(end, add)
    add(_UP, _PAINT, (r0, -w1, 1), (r0, w1, 1), (r1, w1, 1), (r1, -w1, 1))
    return np.stack(faces), tuple(kinds)


def _cab(end: object, add: object) -> None:
    assert callable(end) and callable(add)
    end(_AHEAD, _PAINT, -0.46, 0.46, 0.3, 0.82)
    end(_AHEAD, _GLASS, -0.42, 0.42, 0.5, 0.76)
    for side, v in ((_LEFT, -0.46), (_RIGHT, 0.46)):
        a, b = (0.5, 0.77) if side == _LEFT else (0.77, 0.5)
        add(side, _PAINT, (a, v, 0.3), (b, v, 0.3), (b, v, 0.82), (a, v, 0.82))
        a, b = (0.47, 0.83) if side == _LEFT else (0.83, 0.47)
        add(side, _GLASS, (a - 0.02, v, 0.5), (b - 0.02, v, 0.5), (b - 0.02, v, 0.74), (a - 0.02, v, 0.74))


def _panes(style: str, side: int) -> tuple[tuple[float, float, float, float], ...]:
    """Windows of a cabin face as shares of its width and height: left, right, low, high."""
    if side in (_BEHIND, _AHEAD):
        return ((0.08, 0.92, 0.12 if style != "van" else 0.35, 0.88),)
    if style == "bus":
        return tuple((0.03 + 0.16 * i, 0.17 + 0.16 * i, 0.15, 0.75) for i in range(6))
    if style == "van":
        return ((0.06, 0.26, 0.3, 0.85),) if side == _LEFT else ((0.74, 0.94, 0.3, 0.85),)
    return ((0.07, 0.46, 0.12, 0.86), (0.52, 0.93, 0.12, 0.86))


def _mix(q: Floats, x: float, y: float) -> tuple[float, float, float]:
    """A point of the face with corners ``q`` (4, 3), pushed out a little."""
    low, high = q[0] + (q[1] - q[0]) * x, q[3] + (q[2] - q[3]) * x
    u, v, h = (low + (high - low) * y).tolist()
    return u * 1.004, v * 1.01, h


def paint_car(canvas: Canvas, camera: Camera, car: Car, light: Light, t: float) -> None:
    faces, kinds = _solid(car.style)
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
    load = (215.0, 218.0, 220.0) if car.style == "truck" else car.paint
    dark = (34.0, 33.0, 33.0)
    for index in np.flatnonzero(towards).tolist():
        side, material = kinds[index]
        shade = shades[side]
        if material == _PAINT:
            ink = canvas.ink(load if index > len(kinds) // 2 else car.paint, CAR, z, shade)
        elif material == _GLASS:
            ink = canvas.ink(car.glass, CAR, z, shade)
        elif tall < 9 and material != _TYRE:
            continue
        elif material == _TYRE:
            ink = canvas.ink(dark, CAR, z, 0.8)
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
    """Brightness of the five faces after the vehicle was turned by ``heading``."""
    left, right, front, up = light.shades
    ring = (front, right, front * 0.9, left)  # what looks at the camera, right, away, left
    quarter = round(heading / (math.pi / 2)) % 4
    behind, rightward, ahead, leftward = (ring[(i - quarter) % 4] for i in range(4))
    return behind, ahead, leftward, rightward, up


class _Figure:
    """Draws limbs in metres (to the right, up) around a foot point."""

    def __init__(self, canvas: Canvas, foot: tuple[float, float, float, float], ident: int, shade: float) -> None:
        self.canvas, self.ident, self.shade = canvas, ident, shade
        self.x, self.y, self.k, self.z = foot

    def ink(self, colour: Colour, shade: float = 1.0) -> Ink:
        return self.canvas.ink(colour, self.ident, self.z, self.shade * shade)

    def limb(self, width: float, ink: Ink, *joints: tuple[float, float]) -> None:
        k, x, y = self.k, self.x, self.y
        for (u0, h0), (u1, h1) in zip(joints, joints[1:], strict=False):
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
    """The same person where limbs are thinner than a pixel."""
    g, w = person.height, person.width
    figure.limb(0.12 * g, figure.ink(person.legs), (0, 0.5 * g), (0, 0))
    figure.limb(1.1 * w, figure.ink(person.top), (0, 0.72 * g), (0, 0.55 * g))
    figure.limb(0.12 * g, figure.ink(person.hair), (0, 0.93 * g), (0, 0.88 * g))


def paint_bike(canvas: Canvas, camera: Camera, bike: Bike, light: Light, t: float) -> None:
    """Wheels, frame and rider; ``heading`` turns the bicycle, so it is narrow from behind and long from the side."""
    s, d = bike.at(t)
    figure = _Figure(canvas, camera.foot(s, d), BICYCLE, light.shades[2])
    n = math.sin(bike.heading)  # metres to the right for a metre along the bicycle
    squeeze = max(abs(n), 0.12)
    tyre, frame = figure.ink((36, 35, 35)), figure.ink(bike.frame)
    for wheel in (-0.52, 0.52):
        figure.ring(wheel * n, 0.34, 0.33, 0.07, tyre, squeeze=squeeze)
    seat, pedals, bar = (-0.2 * n, 0.85), (-0.02 * n, 0.3), (0.42 * n, 0.95)
    figure.limb(0.06, frame, (-0.52 * n, 0.34), pedals, seat, (0.36 * n, 0.8), pedals)
    figure.limb(0.06, frame, (0.52 * n, 0.34), bar)
    figure.limb(0.05, tyre, (bar[0] - 0.25 * (1 - squeeze), 1.0), (bar[0] + 0.25 * (1 - squeeze), 1.0))
    if not bike.rider:
        return
    g = bike.height
    legs, top = figure.ink(bike.legs), figure.ink(bike.top)
    turn = bike.phase + 5 * t
    aside = 0.09 * (1 - squeeze)
    for sign in (-1, 1):
        foot = (pedals[0] + 0.16 * n * math.cos(turn) * sign + sign * aside, 0.3 + 0.16 * math.sin(turn) * sign)
        figure.limb(0.14, legs, (seat[0] + sign * aside, 0.92), (0.18 * n + sign * aside * 1.4, 0.68), foot)
    neck = (0.16 * n, 0.98 + 0.3 * g)
    half = 0.12 + 0.09 * (1 - squeeze)
    figure.shape(top, (seat[0] - half, 0.9), (seat[0] + half, 0.9), (neck[0] + half, neck[1]), (neck[0] - half, neck[1]))
    for sign in (-1, 1):
        figure.limb(0.09, figure.ink(bike.top, 0.85), (neck[0] + sign * half * 0.9, neck[1] - 0.05), (bar[0] + sign * half, 1.02))
    figure.disc(neck[0] + 0.05 * n, neck[1] + 0.16, 0.13, figure.ink(bike.skin), squeeze=0.85)
    figure.disc(neck[0] + 0.03 * n, neck[1] + 0.21, 0.13, figure.ink(bike.helmet))
