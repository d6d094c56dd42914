"""The ground: cross-section, marks, shadows and texture. It is painted before all things that are on it."""

# ruff: noqa: PLR0917 - coordinates and sizes read best in their usual order

from __future__ import annotations

import math

import cv2
import numpy as np

from pipeline.datasets._streets import classes as ids
from pipeline.datasets._streets import exact
from pipeline.datasets._streets.canvas import SCALE, Camera, Canvas
from pipeline.datasets._streets.light import Light, fractal
from pipeline.datasets._streets.world import (
    Bike,
    Building,
    Car,
    Crack,
    Floats,
    Mark,
    Person,
    Pole,
    Sign,
    Thing,
    Tree,
    World,
    place,
)
from pipeline.frames import Array

FARTHEST = 400.0  # metres
_CELL = 0.04  # width of a cell of the cross-section table, metres of d
_HALF = 48.0  # the table covers this many metres of d on each side
_TILE = 512
_TILE_SCALE = 12.0  # texture pixels per metre


def rows_to_distance(camera: Camera) -> tuple[int, Floats]:
    """First canvas row that shows ground (an even number), and the distance (metres) in each row from there on."""
    z = np.geomspace(1.0, FARTHEST, 200)
    _, up = camera.offsets(z)
    y = np.minimum.accumulate(camera.cy - camera.focal * (up - camera.eye) / z)
    first = max(int(np.ceil(y[-1])), 0) // SCALE * SCALE
    rows = np.arange(first, camera.height, dtype=np.float64)
    return first, np.interp(rows, y[::-1], z[::-1])


def paint_ground(canvas: Canvas, camera: Camera, world: World, light: Light, t: float) -> int:
    """Paint everything that is flat, and return the first row that shows ground."""
    first, z = rows_to_distance(camera)
    z32 = z.astype(np.float32)
    right, _ = camera.offsets(z)
    columns = np.arange(canvas.width, dtype=np.float32) - np.float32(camera.cx)
    d = columns[None] * (z32 / np.float32(camera.focal))[:, None] - right.astype(np.float32)[:, None]  # (rows, width)
    cells = np.clip((d + _HALF) / _CELL, 0, 2 * _HALF / _CELL - 1).astype(np.int32)
    ground = canvas.pixels[first:]
    ground[...] = _cross_section(world)[cells].view(np.uint8).reshape(*cells.shape, 4)
    _paint_marks(canvas, camera, world.marks)
    _paint_dashes(canvas, camera, world.dashes)
    for crack in world.cracks:
        _paint_crack(canvas, camera, crack)
    shadow = _shadows(canvas, camera, world.things, light, t)[first // SCALE :]
    _shade(canvas, camera, world, ground, z32, d, shadow)
    return first


def _cross_section(world: World) -> np.ndarray[tuple[int, ...], np.dtype[np.uint32]]:
    """Colour and id of each cell of d (``_CELL`` metres), packed into 32 bits."""
    count = round(2 * _HALF / _CELL)
    table = np.zeros((count, 4), np.uint8)
    start = 0
    for strip in world.strips:
        stop = min(max(round((strip.edge + _HALF) / _CELL), start), count)
        table[start:stop] = (*(round(min(c, 255)) for c in strip.colour), strip.ident)
        start = stop
    table[start:] = table[start - 1]
    return table.view(np.uint32)[:, 0]


def _paint_marks(canvas: Canvas, camera: Camera, marks: tuple[Mark, ...]) -> None:
    """Paint marks in their order; one call projects all of them."""
    seen = [m for m in marks if m.corners[:, 0].max() > camera.s + 1 and m.corners[0, 0] < camera.s + 120]
    if not seen:
        return
    corners = np.concatenate([mark.corners for mark in seen])
    pixels = camera.project(corners[:, 0], corners[:, 1], 0.0)
    start = 0
    for mark in seen:
        end = start + len(mark.corners)
        canvas.polygon(pixels[start:end], (*mark.colour, mark.ident))
        start = end


def _paint_dashes(canvas: Canvas, camera: Camera, dashes: tuple[Mark, ...]) -> None:
    """Paint dashes. All have the same colour, so one call paints all of them."""
    seen = [m.corners for m in dashes if camera.s + 1 < m.corners[:, 0].max() and m.corners[0, 0] < camera.s + 110]
    if seen:
        corners = np.stack(seen)
        canvas.polygons(camera.project(corners[..., 0], corners[..., 1], 0.0), (*dashes[0].colour, dashes[0].ident))


def _paint_crack(canvas: Canvas, camera: Camera, crack: Crack) -> None:
    s, d = crack.points[:, 0], crack.points[:, 1]
    if s.min() > camera.s + 1.5 and s.max() < camera.s + 40:
        points = np.rint(camera.project(s, d, 0.0)).astype(np.int32)
        width = max(round(0.04 * camera.focal / (float(s.mean()) - camera.s)), 1)
        cv2.polylines(canvas.pixels, [points], False, (*crack.colour, crack.ident), width)


def _shadows(canvas: Canvas, camera: Camera, things: tuple[Thing, ...], light: Light, t: float) -> Array:
    """Darkness of the shadows on the ground, (height, width) uint8 at image size; 255: no light."""
    mask = np.zeros((canvas.height // SCALE, canvas.width // SCALE), np.uint8)
    outlines: list[tuple[Floats, int]] = []
    for thing in things:
        distance = place(thing, t) - camera.s
        if light.shadow is not None and -25 < distance < 70:
            outline = _outline(thing, light.shadow, t)
            if outline is not None and outline[:, 0].max() > camera.s + 1:
                outlines.append((outline, round(255 * light.shadow_depth)))
        if isinstance(thing, Car) and 2 < distance < 60:
            outlines.append((_car_outline(thing, *thing.at(t), 0.1), 150))
    outlines.sort(key=lambda pair: pair[1])
    if outlines:
        corners = np.concatenate([outline for outline, _ in outlines])
        pixels = np.rint(camera.project(corners[:, 0], corners[:, 1], 0.0) * (8 / SCALE)).astype(np.int32)
        start = 0
        for outline, depth in outlines:
            hull = cv2.convexHull(pixels[start : start + len(outline)])
            start += len(outline)
            cv2.fillConvexPoly(mask, hull, depth, cv2.LINE_8, 3)
    return np.asarray(cv2.blur(mask, (3, 3)), np.uint8)


def _outline(thing: Thing, shadow: tuple[float, float], t: float) -> Floats | None:
    """The shadow of a thing as points (N, 2) of (s, d); the shadow is their convex hull."""
    along, across = shadow
    outline: Floats | None = None
    if isinstance(thing, Building):
        h = min(thing.height, 14.0)
        outline = _swept(np.array([[thing.s, thing.d], [thing.end, thing.d]]), along * h, across * h)
    elif isinstance(thing, Tree):
        angles = np.linspace(0, 2 * np.pi, 9)[:-1]
        middle = thing.trunk + thing.height / 2
        wide, tall = 0.42 * thing.width, 0.3 * thing.height
        s = thing.s + along * middle + (wide + abs(along) * tall) * np.sin(angles)
        d = thing.d + across * middle + (wide + abs(across) * tall) * np.cos(angles)
        outline = np.stack([s, d], -1)
    elif isinstance(thing, Car):
        h = thing.size[2] * 0.8
        outline = _swept(_car_outline(thing, *thing.at(t), 0.0), along * h, across * h)
    elif isinstance(thing, Person | Bike):
        outline = _streak(*thing.at(t), 0.25, along * thing.height, across * thing.height)
    elif isinstance(thing, Pole | Sign):
        h = thing.height if isinstance(thing, Pole) else thing.top
        outline = _streak(thing.s, thing.d, 0.1, along * h, across * h)
    return outline


def _swept(base: Floats, along: float, across: float) -> Floats:
    """The points of ``base``, and the same points moved by ``along`` and ``across``."""
    return np.concatenate([base, base + np.array([along, across])])


def _streak(s: float, d: float, half: float, along: float, across: float) -> Floats:
    """The shadow of a thin thing at (s, d); its tip is ``along`` and ``across`` metres from there."""
    tip_s, tip_d = s + along, d + across
    return np.array([[s - half, d], [s + half, d], [tip_s + half, tip_d], [tip_s - half, tip_d]])


def _car_outline(car: Car, s: float, d: float, margin: float) -> Floats:
    u, v = car.size[0] / 2 + margin, car.size[1] / 2 + margin
    along, across = np.array([[-u, u, u, -u], [-v, -v, v, v]])
    c, n = math.cos(car.heading), math.sin(car.heading)
    return np.stack([along * c - across * n + s, along * n + across * c + d], -1)


def _shade(canvas: Canvas, camera: Camera, world: World, ground: Array, z: Floats, d: Floats, shadow: Array) -> None:
    """Apply texture (fixed to the ground), shadows and fog to the painted ground."""
    z, d, kinds = z[::SCALE], d[::SCALE, ::SCALE], ground[::SCALE, ::SCALE, 3]
    u = np.float32(_TILE_SCALE) * d
    v = np.broadcast_to(((z + np.float32(camera.s % 1024)) * np.float32(_TILE_SCALE * 0.5))[:, None], u.shape)
    tile = fractal(_TILE, 16, 7 + world.seed % 4, 0.9)
    texture = exact.sample_tile(tile, u, v)
    rough = np.full(256, 0.07 + 0.11 * world.roughness, np.float32)
    rough[ids.VEGETATION] = 0.28
    rough[ids.LANE_MARK] = 0.04 + 0.16 * world.roughness
    haze = exact.exp(-canvas.fog * z)[:, None]
    gain = 1 + rough[kinds] * texture * exact.exp(-z / 60)[:, None]
    gain *= (1 - shadow.astype(np.float32) / 255) * haze
    light_map = exact.enlarge(gain, (len(ground), canvas.width))
    veil = (1 - haze)[..., None] * np.asarray(canvas.fog_colour, np.float32)
    lit = ground[..., :3] * light_map[..., None]
    lit += np.repeat(veil, SCALE, 0)
    ground[..., :3] = np.minimum(lit, 255)
