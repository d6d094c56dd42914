"""Things that do not move: trees and bushes, poles, signs and gantries."""

# ruff: noqa: PLR0917 - coordinates and sizes read best in their usual order

from __future__ import annotations

import functools
import math
from random import Random

import cv2
import numpy as np

from pipeline.datasets._streets.canvas import Camera, Canvas, Ink
from pipeline.datasets._streets.classes import POLE, SIGN, VEGETATION
from pipeline.datasets._streets.light import Light
from pipeline.datasets._streets.world import Colour, Gantry, Pole, Sign, Tree
from pipeline.frames import Array

CROWNS, CONIFERS, BUSHES, BARE = range(0, 8), range(8, 10), range(10, 14), range(14, 16)
_SPRITE = 192  # pixels

RED, BLUE, YELLOW, WHITE, BLACK, GREEN = (
    (40.0, 35.0, 190.0),
    (165.0, 85.0, 25.0),
    (40.0, 190.0, 235.0),
    (235.0, 238.0, 238.0),
    (30.0, 28.0, 28.0),
    (75.0, 110.0, 25.0),
)
SIGNAL: tuple[Colour, Colour, Colour] = ((50, 40, 250), (40, 180, 255), (140, 240, 60))


@functools.lru_cache(maxsize=64)
def foliage(shape: int, flip: bool) -> tuple[Array, ...]:
    """A sprite and its reductions by 2, 4, 8 and 16, each (n, n, 4): brightness in B, G and R, and opacity."""
    sprite = np.ascontiguousarray(_draw_foliage(shape)[:, ::-1]) if flip else _draw_foliage(shape)
    return (sprite, *(_reduced(sprite, 2**level) for level in range(1, 5)))


def _reduced(sprite: Array, factor: int) -> Array:
    n = sprite.shape[0] // factor
    return np.asarray(cv2.resize(sprite, (n, n), interpolation=cv2.INTER_AREA), np.uint8)


@functools.lru_cache(maxsize=32)
def _draw_foliage(shape: int) -> Array:
    """Draw a crown, a conifer, a bush or a bare tree."""
    rng = Random(1000 + shape)  # noqa: S311 - a drawing, not a secret
    n = _SPRITE
    sprite = np.zeros((n, n, 4), np.uint8)
    if shape in BARE:
        _branch(sprite, rng, n / 2, n - 1.0, -math.pi / 2, n * 0.26, 5)
        return sprite
    blobs = []
    for _ in range(150):
        if shape in CONIFERS:
            y = rng.uniform(0.06, 0.95)
            x, r = 0.5 + rng.uniform(-0.42, 0.42) * y, 0.03 + 0.06 * y
        else:
            angle, radius = rng.uniform(0, 2 * math.pi), 0.38 * math.sqrt(rng.random())
            x, y, r = 0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle), rng.uniform(0.035, 0.1)
            if shape in BUSHES:
                y = min(0.35 + 0.6 * y, 0.95)
        blobs.append((x, y, r))
    blobs.sort(key=lambda blob: -blob[1] + rng.uniform(-0.25, 0.25))
    for x, y, r in blobs:
        tone = 205 - 120 * y + rng.uniform(-35, 35)
        hue = rng.uniform(0.85, 1.15)
        centre = (round(x * n), round(y * n))
        cv2.circle(sprite, centre, round(r * n), (tone * hue, tone, tone / hue, 255), -1)
        for _ in range(18):  # leaves
            a, q = rng.uniform(0, 2 * math.pi), r * n * rng.uniform(0.4, 1.12)
            leaf = (round(centre[0] + q * math.cos(a)), round(centre[1] + q * math.sin(a)))
            shine = tone + rng.uniform(-40, 40)
            cv2.circle(sprite, leaf, rng.randint(1, 3), (shine, shine, shine, 255), -1)
    for _ in range(26 if shape not in BUSHES else 4):  # gaps that show the background
        a, q = rng.uniform(0, 2 * math.pi), rng.uniform(0.15, 0.42) * n
        gap = (round(n / 2 + q * math.cos(a)), round(n / 2 + q * math.sin(a)))
        cv2.circle(sprite, gap, rng.randint(1, 5), (0, 0, 0, 0), -1)
    return sprite


def _branch(sprite: Array, rng: Random, x: float, y: float, angle: float, length: float, depth: int) -> None:
    x1, y1 = x + length * math.cos(angle), y + length * math.sin(angle)
    ink = (120 + 8 * depth, 125 + 8 * depth, 130 + 8 * depth, 255)
    cv2.line(sprite, (round(x), round(y)), (round(x1), round(y1)), ink, max(depth + 2, 3))
    if depth:
        for _ in range(3):
            _branch(sprite, rng, x1, y1, angle + rng.uniform(-0.7, 0.7), length * rng.uniform(0.6, 0.85), depth - 1)


def paint_tree(canvas: Canvas, camera: Camera, tree: Tree, light: Light, t: float) -> None:
    x, y, k, z = camera.foot(tree.s, tree.d)
    if tree.trunk > 0:
        half = 0.03 * tree.height * k
        top = y - k * (tree.trunk + 0.3 * tree.height)
        shade = light.shades[2]
        canvas.box(x - half, top, x + half, y, canvas.ink(tree.bark, VEGETATION, z, shade))
        canvas.box(x + half * 0.2, top, x + half, y, canvas.ink(tree.bark, VEGETATION, z, 0.7 * shade))
    left, right = x - k * tree.width / 2, x + k * tree.width / 2
    sprite = foliage(tree.shape, tree.flip)
    b, g, r = tree.tint
    q = 0.5 * (light.shades[2] + light.shades[3]) / 150
    bottom = y - k * tree.trunk
    canvas.stamp(sprite, (left, bottom - k * tree.height, right, bottom), (b * q, g * q, r * q), VEGETATION, z)


def paint_pole(canvas: Canvas, camera: Camera, pole: Pole, light: Light, t: float) -> None:
    x, y, k, z = camera.foot(pole.s, pole.d)
    ink = canvas.ink(pole.colour, POLE, z, light.shades[2])
    half = max(pole.width * k, 2.0) / 2
    top = y - k * pole.height
    if pole.height > 2:
        canvas.box(x - 1.5 * half, y - k * 0.5, x + 1.5 * half, y, ink)
    canvas.box(x - half, top, x + half, y, ink)
    if half > 2:
        canvas.box(x + 0.3 * half, top, x + half, y, canvas.ink(pole.colour, POLE, z, 0.75 * light.shades[2]))
    tip = x + k * pole.arm
    if pole.arm:
        canvas.line(x, top, tip, top - 0.25 * k if pole.lamp else top, max(0.09 * k, 2), ink)
    if pole.lamp:
        rise = 0.25 * k if pole.arm else 0.0
        lit = canvas.ink((190, 235, 255), POLE, 0.0, shines=True) if light.lamps else ink
        canvas.disc(tip, top - rise, max(0.32 * k, 1.5), max(0.13 * k, 1.0), lit)
    if pole.signal >= 0:
        for cx, cy in ((x, y - k * 2.9), (tip, top + 0.2 * k))[: 2 if pole.arm else 1]:
            _signal(canvas, cx, cy, k, z, pole.signal, light)


def _signal(canvas: Canvas, x: float, y: float, k: float, z: float, state: int, light: Light) -> None:
    """A traffic light with its board; its label is sign, as in CamVid."""
    canvas.box(x - 0.2 * k, y - 0.5 * k, x + 0.2 * k, y + 0.5 * k, canvas.ink((38, 40, 40), SIGN, z, light.shades[2]))
    for lamp in range(3):
        on = lamp == state
        ink = canvas.ink(SIGNAL[lamp], SIGN, z if not on else 0.0, 1.0 if on else 0.25, shines=on)
        canvas.disc(x, y + (lamp - 1) * 0.3 * k, 0.12 * k, 0.12 * k, ink)


def paint_sign(canvas: Canvas, camera: Camera, sign: Sign, light: Light, t: float) -> None:
    x, y, k, z = camera.foot(sign.s, sign.d)
    shade = light.shades[2]
    half = max(0.07 * k, 2.0) / 2
    canvas.box(x - half, y - k * sign.top, x + half, y, canvas.ink(sign.colour, POLE, z, shade))
    low = sign.top
    for shape, size, symbol in sign.boards:
        centre = y - k * (low - size / 2)
        low -= size * (1.05 if shape != "plate" else 0.5)
        board = _Board(canvas, x, centre, k * size / 2, sign.turn, z, shade)
        if sign.back:
            board.outline(shape, 1.0, (118.0, 120.0, 118.0))
        else:
            _face(board, shape, symbol)


class _Board:
    """Paints shapes around the centre of a sign; the unit is half of its size."""

    def __init__(
        self, canvas: Canvas, x: float, y: float, radius: float, turn: float, distance: float, shade: float
    ) -> None:
        self.canvas, self.x, self.y, self.radius, self.turn = canvas, x, y, radius, turn
        self.distance, self.shade = distance, shade

    def ink(self, colour: Colour) -> Ink:
        return self.canvas.ink(colour, SIGN, self.distance, self.shade)

    def outline(self, shape: str, size: float, colour: Colour) -> None:
        if shape == "round":
            r = self.radius * size
            self.canvas.disc(self.x, self.y, r * self.turn, r, self.ink(colour))
        else:
            self.patch(_SHAPES.get(shape, _SHAPES["square"]), size, colour)

    def patch(self, corners: tuple[tuple[float, float], ...], size: float, colour: Colour) -> None:
        r = self.radius * size
        points = np.array([(self.x + r * self.turn * u, self.y + r * v) for u, v in corners])
        self.canvas.polygon(points, self.ink(colour))


def _regular(n: int, turn: float) -> tuple[tuple[float, float], ...]:
    return tuple((math.cos(2 * math.pi * (i + turn) / n), math.sin(2 * math.pi * (i + turn) / n)) for i in range(n))


def _rectangle(u: float, v: float) -> tuple[tuple[float, float], ...]:
    return ((-u, -v), (u, -v), (u, v), (-u, v))


_SHAPES: dict[str, tuple[tuple[float, float], ...]] = {
    "triangle": ((-1.1, 0.85), (0, -1.05), (1.1, 0.85)),
    "yield": ((-1.1, -0.85), (0, 1.05), (1.1, -0.85)),
    "stop": _regular(8, 0.5),
    "diamond": _regular(4, 0),
    "square": _rectangle(0.95, 0.95),
    "arrow": ((-1.7, -0.4), (1.4, -0.4), (1.9, 0), (1.4, 0.4), (-1.7, 0.4)),
    "plate": _rectangle(0.9, 0.35),
}
_SYMBOLS = (
    _rectangle(0.62, 0.16),
    ((-0.1, 0.5), (-0.4, 0.1), (-0.12, 0.1), (0.1, -0.5), (0.4, -0.1), (0.12, -0.1)),
    ((0, -0.6), (0.5, 0.0), (0.16, 0.0), (0.16, 0.55), (-0.16, 0.55), (-0.16, 0.0), (-0.5, 0.0)),
    _rectangle(0.14, 0.55),
)


def _face(board: _Board, shape: str, symbol: int) -> None:
    """Border, field and symbol of a traffic sign."""
    mark = _SYMBOLS[symbol % 4]
    if shape == "round" and symbol < 3:  # limits and bans
        colours: tuple[Colour, Colour, Colour] = (RED, WHITE, BLACK) if symbol else (RED, RED, WHITE)
    elif shape == "round":
        colours = (WHITE, BLUE, WHITE)
    elif shape in ("triangle", "yield"):
        colours = (RED, WHITE, BLACK) if shape == "triangle" else (RED, WHITE, WHITE)
    else:
        field = {"stop": RED, "diamond": YELLOW, "arrow": (YELLOW, WHITE, BLUE, GREEN)[symbol % 4], "plate": WHITE}
        inner = field.get(shape, BLUE)
        colours = (WHITE, inner, BLACK if inner in (YELLOW, WHITE) else WHITE)
    board.outline(shape, 1.0, colours[0])
    board.outline(shape, 0.74 if shape in ("round", "triangle", "yield") else 0.88, colours[1])
    if board.radius > 3:
        board.patch(mark, 0.8 if shape in ("round", "stop", "square") else 0.5, colours[2])


def paint_gantry(canvas: Canvas, camera: Camera, gantry: Gantry, light: Light, t: float) -> None:
    ink = None
    for d in (gantry.d, gantry.other):
        x, y, k, z = camera.foot(gantry.s, d)
        ink = canvas.ink(gantry.colour, POLE, z, light.shades[2])
        half = max(0.11 * k, 1.0)
        canvas.box(x - half, y - k * gantry.height, x + half, y, ink)
    left, base, k, z = camera.foot(gantry.s, gantry.d)
    right = camera.foot(gantry.s, gantry.other)[0]
    beam = base - k * (gantry.height - 0.5)
    assert ink is not None
    canvas.box(min(left, right), beam - max(0.14 * k, 1), max(left, right), beam + max(0.14 * k, 1), ink)
    for d, width, height in gantry.boards:
        x = camera.foot(gantry.s, d)[0]
        for size, colour in ((1.0, WHITE), (0.93, gantry.board)):
            w, h = size * width * k / 2, size * height * k / 2
            canvas.box(x - w, beam - h, x + w, beam + h, canvas.ink(colour, SIGN, z, light.shades[2]))
        for line in (-0.22, 0.2):
            y = beam + line * height * k
            white = canvas.ink(WHITE, SIGN, z, light.shades[2])
            canvas.box(
                x - 0.36 * width * k, y - 0.06 * height * k, x + (0.1 - line) * width * k, y + 0.06 * height * k, white
            )
