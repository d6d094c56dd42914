"""Facades in perspective: walls, windows, shops, awnings and posters. All of them are labelled building."""

# ruff: noqa: PLR0917 - coordinates and sizes read best in their usual order

from __future__ import annotations

import functools
import math
from random import Random

import numpy as np
import numpy.typing as npt

from pipeline.datasets._streets.canvas import Camera, Canvas, Stretch
from pipeline.datasets._streets.classes import BUILDING
from pipeline.datasets._streets.light import Light
from pipeline.datasets._streets.world import Building, Colour, Floats

SHOP = 3.6  # height of a ground floor with shops, metres
_DETAIL = 45.0  # metres; facades that are farther away have only windows


def paint_building(canvas: Canvas, camera: Camera, b: Building, light: Light, t: float) -> None:
    view = camera.stretch(b.s, b.end)
    near = max(b.s - camera.s, 1.5)
    far = b.end - camera.s
    side = 1.0 if b.d > 0 else -1.0
    shade = light.shades[0] if side > 0 else light.shades[1]
    middle = (near + far) / 2
    outer = b.d + side * b.depth
    if b.s > camera.s + 2:  # the wall that faces the camera
        wall = canvas.ink(b.wall, BUILDING, near, light.shades[2])
        if b.roof > 0:
            gable = view.project(
                np.full(3, b.s), np.array([b.d, outer, b.d + side * 3]), np.array([0, 0, b.roof]) + b.height
            )
            canvas.polygon(gable, wall)
        end = _rectangle(view, np.full(4, b.s), np.array([b.d, outer, outer, b.d]), b.height)
        canvas.polygon(end, wall)
        _end_windows(canvas, view, b, light, near, outer)
    s0, s1 = max(b.s, camera.s + 0.8), b.end
    front = _rectangle(view, np.array([s0, s1, s1, s0]), b.d, b.height)
    canvas.polygon(front, canvas.ink(b.wall, BUILDING, middle, shade))
    if b.roof > 0:
        ridge = view.project(
            np.array([s0, s1, s1, s0]),
            np.array([b.d, b.d, b.d + side * 3, b.d + side * 3]),
            np.array([b.height, b.height, b.height + b.roof, b.height + b.roof]),
        )
        canvas.polygon(ridge, canvas.ink(b.trim, BUILDING, middle, 0.8 * light.shades[3]))
    _windows(canvas, view, b, light, middle, shade)
    if near > _DETAIL:
        return
    _bands(canvas, view, b, middle, shade)
    if b.shop is not None:
        _shop(canvas, view, b, b.shop, light, middle, shade, side)
    if b.poster is not None:
        _poster(canvas, view, b, b.poster, shade)


def _rectangle(view: Stretch, s: Floats, d: Floats | float, height: float) -> Floats:
    return view.project(s, d, np.array([0.0, 0.0, height, height]))


def _panes(view: Stretch, s: Floats, h: Floats, d: float, width: float, height: float) -> Floats:
    """Pixels (N, 4, 2) of upright rectangles on a facade, with lower corners at (s, h)."""
    ss = s[:, None] + np.array([0.0, width, width, 0.0])
    hh = h[:, None] + np.array([0.0, 0.0, height, height])
    return view.project(ss, d, hh)


@functools.lru_cache(maxsize=256)
def _window_grid(b: Building) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """Lower corners s and h of all windows, and a mask of the lit windows."""
    columns = max(int((b.end - b.s - 0.6) / b.bay), 1)
    floor = SHOP if b.shop is not None else 0.9
    rows = max(int((b.height - floor - 0.4) / b.storey), 1)
    start = b.s + (b.end - b.s - columns * b.bay) / 2 + b.bay * (1 - b.window[0]) / 2
    s, h = np.meshgrid(start + b.bay * np.arange(columns), floor + b.storey * (0.15 + np.arange(rows)))
    rng = Random(b.seed)  # noqa: S311 - a drawing, not a secret
    lit = np.array([rng.random() < b.lit_share for _ in range(s.size)])
    return s.ravel(), h.ravel(), lit


def _windows(canvas: Canvas, view: Stretch, b: Building, light: Light, distance: float, shade: float) -> None:
    s, h, lit = _window_grid(b)
    seen = s > view.camera.s + 2.0
    s, h, lit = s[seen], h[seen], lit[seen]
    if not len(s):
        return
    width, height = b.bay * b.window[0], b.storey * b.window[1]
    scale = view.camera.focal / distance
    if scale * height > 20:
        frame = 0.09
        canvas.polygons(
            _panes(view, s - frame, h - frame, b.d, width + 2 * frame, height + 2 * frame),
            canvas.ink(b.trim, BUILDING, distance, shade),
        )
    panes = _panes(view, s, h, b.d, width, height)
    shines = light.lamps
    canvas.polygons(panes[~lit], canvas.ink(b.glass, BUILDING, distance, shade))
    canvas.polygons(panes[lit], canvas.ink(b.lit if shines else b.trim, BUILDING, distance, 0.8, shines=shines))


def _end_windows(canvas: Canvas, view: Stretch, b: Building, light: Light, near: float, outer: float) -> None:
    """A few windows on the wall that faces the camera."""
    if b.seed % 3 == 0 or near > _DETAIL:
        return
    left = min(b.d, outer)
    count, rows = max(int(b.depth / b.bay) - 1, 1), max(int((b.height - 1.5) / b.storey), 1)
    d, h = np.meshgrid(left + b.bay * (0.7 + np.arange(count)), 1.5 + b.storey * np.arange(rows))
    width, height = b.bay * b.window[0], b.storey * b.window[1]
    dd = d.ravel()[:, None] + np.array([0.0, width, width, 0.0])
    hh = h.ravel()[:, None] + np.array([0.0, 0.0, height, height])
    canvas.polygons(view.project(np.full(dd.shape, b.s), dd, hh), canvas.ink(b.glass, BUILDING, near, light.shades[2]))


def _bands(canvas: Canvas, view: Stretch, b: Building, distance: float, shade: float) -> None:
    """The cornice, and lines between storeys."""
    s0 = max(b.s, view.camera.s + 0.8)
    heights = [b.height - 0.45]
    if b.seed % 2 and distance < 60:
        heights += [SHOP + b.storey * k for k in range(int((b.height - SHOP) / b.storey))]
    low = np.array(heights)[:, None]
    s = np.repeat(np.array([[s0, b.end, b.end, s0]]), len(heights), 0)
    bands = view.project(s, b.d, low + np.array([0, 0, 1, 1]) * np.array([0.45] + [0.14] * (len(heights) - 1))[:, None])
    canvas.polygons(bands, canvas.ink(b.trim, BUILDING, distance, shade * 0.92))


def _shop(
    canvas: Canvas, view: Stretch, b: Building, colour: Colour, light: Light, distance: float, shade: float, side: float
) -> None:
    """Shop windows, a name board with dashes for letters, and sometimes an awning over the pavement."""
    s0, s1 = max(b.s + 0.4, view.camera.s + 0.8), b.end - 0.4
    if s1 - s0 < 1:
        return
    dark = (b.glass[0] * 0.7, b.glass[1] * 0.7, b.glass[2] * 0.75)
    count = max(int((b.end - b.s) / 3.2), 1)
    start = b.s + 0.4 + (b.end - b.s - 0.8) / count * np.arange(count)
    start = start[start > view.camera.s + 1.5]
    if len(start):
        glass = _panes(view, start, np.full(len(start), 0.45), b.d, (b.end - b.s - 0.8) / count - 0.35, 2.1)
        glow = light.lamps and b.lit_share > 0.2
        canvas.polygons(
            glass, canvas.ink(b.lit if glow else dark, BUILDING, distance, 0.75 if glow else shade, shines=glow)
        )
    board = view.project(np.array([s0, s1, s1, s0]), b.d, np.array([2.75, 2.75, 3.4, 3.4]))
    canvas.polygon(board, canvas.ink(colour, BUILDING, distance, shade))
    letters = np.arange(b.s + 1.5, min(b.s + 5.5, s1 - 0.8), 0.55)
    letters = letters[letters > view.camera.s + 2]
    if len(letters) and distance < 35:
        marks = _panes(view, letters, np.full(len(letters), 2.9), b.d, 0.36, 0.34)
        canvas.polygons(marks, canvas.ink((240, 240, 240), BUILDING, distance, shade))
    if b.awning is not None:
        edge = b.d - side * 1.3
        roof = view.project(
            np.array([s0, s1, s1, s0]), np.array([b.d, b.d, edge, edge]), np.array([2.9, 2.9, 2.4, 2.4])
        )
        canvas.polygon(roof, canvas.ink(b.awning, BUILDING, distance, shade))


def _poster(canvas: Canvas, view: Stretch, b: Building, poster: tuple[str, Colour, Colour], shade: float) -> None:
    """An advertisement on the wall; some look similar to traffic signs."""
    shape, back, front = poster
    size = min(2.0, (b.end - b.s) / 3)
    s, h = b.s + 1.2 + (b.seed % 5) / 5 * (b.end - b.s - 2.4 - size), 2.2 + (b.seed % 7) * 0.35
    distance = s - view.camera.s
    if distance < 2.5:
        return
    one = np.array([s])
    canvas.polygons(_panes(view, one, np.array([h]), b.d, size, size), canvas.ink(back, BUILDING, distance, shade))
    angles = np.arange(12) / 12 * 2 * math.pi if shape == "disc" else np.array([0.5, 7 / 6, 11 / 6]) * math.pi
    if shape == "text":
        lines = _panes(
            view, np.repeat(one + 0.2 * size, 3), h + size * np.array([0.15, 0.4, 0.65]), b.d, 0.6 * size, 0.15 * size
        )
        canvas.polygons(lines, canvas.ink(front, BUILDING, distance, shade))
        return
    for radius, colour in ((0.42 * size, front), (0.24 * size, back)):
        ring = view.project(s + size / 2 + radius * np.cos(angles), b.d, h + size / 2 + radius * np.sin(angles))
        canvas.polygon(ring, canvas.ink(colour, BUILDING, distance, shade))
