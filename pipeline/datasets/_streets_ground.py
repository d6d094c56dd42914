"""The ground: cross-section, marks, shadows and texture, painted before anything stands on it."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.datasets import _streets_classes as ids
from pipeline.datasets._streets_canvas import SCALE, Camera, Canvas
from pipeline.datasets._streets_light import Light, fractal
from pipeline.datasets._streets_world import Bike, Building, Car, Crack, Floats, Mark, Person, Pole, Sign, Thing, Tree, World
from pipeline.frames import Array

FARTHEST = 400.0  # metres
_CELL = 0.04  # metres of d a cell of the cross-section table
_HALF = 48.0  # metres of d the table covers on each side
_TILE = 512
_TILE_SCALE = 12.0  # texture pixels a metre


def rows_to_distance(camera: Camera) -> tuple[int, Floats]:
    """First canvas row that shows ground, and the distance (metres) seen in each row from there down."""
    z = np.geomspace(1.0, FARTHEST, 200)
    _, up = camera.offsets(z)
    y = np.minimum.accumulate(camera.cy - camera.focal * (up - camera.eye) / z)
    first = max(int(np.ceil(y[-1])), 0)
    rows = np.arange(first, camera.height, dtype=np.float64)
    return first, np.interp(rows, y[::-1], z[::-1])


def paint_ground(canvas: Canvas, camera: Camera, world: World, light: Light, t: float) -> int:
    """Paint everything flat and return the first row that shows ground."""
    first, z = rows_to_distance(camera)
    z32 = z.astype(np.float32)
    right, _ = camera.offsets(z)
    columns = np.arange(canvas.width, dtype=np.float32) - np.float32(camera.cx)
    d = columns[None] * (z32 / np.float32(camera.focal))[:, None] - right.astype(np.float32)[:, None]  # (rows, width)
    cells = np.clip((d + _HALF) / _CELL, 0, 2 * _HALF / _CELL - 1).astype(np.int32)
    ground = canvas.pixels[first:]
    ground[...] = _cross_section(world)[cells].view(np.uint8).reshape(*cells.shape, 4)
    for mark in world.marks:
        _paint_mark(canvas, camera, mark)
    _paint_dashes(canvas, camera, world.dashes)
    for crack in world.cracks:
        _paint_crack(canvas, camera, crack)
    _shade(canvas, camera, world, light, ground, z32, d, _shadows(canvas, camera, world.things, light, t)[first:])
    return first


def _cross_section(world: World) -> np.ndarray[tuple[int, ...], np.dtype[np.uint32]]:
    """Colour and id of every ``_CELL`` of d, packed into 32 bits."""
    count = round(2 * _HALF / _CELL)
    table = np.zeros((count, 4), np.uint8)
    start = 0
    for strip in world.strips:
        stop = min(max(round((strip.edge + _HALF) / _CELL), start), count)
        table[start:stop] = (*(round(min(c, 255)) for c in strip.colour), strip.ident)
        start = stop
    table[start:] = table[start - 1]
    return table.view(np.uint32)[:, 0]


def _paint_mark(canvas: Canvas, camera: Camera, mark: Mark) -> None:
    s, d = mark.corners[:, 0], mark.corners[:, 1]
    if s.max() > camera.s + 1 and s.min() < camera.s + 150:
        canvas.polygon(camera.project(s, d, 0.0), (*mark.colour, mark.ident))


def _paint_dashes(canvas: Canvas, camera: Camera, dashes: tuple[Mark, ...]) -> None:
    """All dashes share one colour, so that one call paints them."""
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
    """How much light is kept from the ground, (height, width) uint8 at canvas size."""
    mask = np.zeros((canvas.height // SCALE, canvas.width // SCALE), np.uint8)
    cast, contact = round(255 * light.shadow_depth), 150
    polygons: list[tuple[Floats, int]] = []
    for thing in things:
        outline = _outline(thing, light.shadow, t)
        if outline is None or outline[:, 0].max() < camera.s + 1 or outline[:, 0].min() > camera.s + 90:
            continue
        polygons.append((outline, contact if isinstance(thing, Car) and light.shadow is None else cast))
    if polygons:
        corners = np.concatenate([p for p, _ in polygons])
        pixels = np.rint(camera.project(corners[:, 0], corners[:, 1], 0.0) * (8 / SCALE)).astype(np.int32)
        start = 0
        for outline, depth in polygons:
            points = pixels[start : start + len(outline)]
            start += len(outline)
            cv2.fillConvexPoly(mask, cv2.convexHull(points), depth, cv2.LINE_8, 3)
    for thing in things:
        if isinstance(thing, Car) and 2 < thing.at(t)[0] - camera.s < 60:
            s, d = thing.at(t)
            outline = _car_outline(thing, s, d, 0.1)
            points = np.rint(camera.project(outline[:, 0], outline[:, 1], 0.0) * (8 / SCALE)).astype(np.int32)
            cv2.fillConvexPoly(mask, cv2.convexHull(points), contact, cv2.LINE_8, 3)
    soft = cv2.blur(mask, (3, 3))
    return np.asarray(cv2.resize(soft, (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _outline(thing: Thing, shadow: tuple[float, float] | None, t: float) -> Floats | None:
    """The shadow of a thing as points (N, 2) of (s, d) whose hull is dark."""
    if shadow is None:
        return None
    along, across = shadow
    if isinstance(thing, Building):
        h = min(thing.height, 14.0)
        base = np.array([[thing.s, thing.d], [thing.end, thing.d]])
        return np.concatenate([base, base + [along * h, across * h]])
    if isinstance(thing, Tree):
        angles = np.linspace(0, 2 * np.pi, 9)[:-1]
        mid = thing.trunk + thing.height / 2
        ring = np.stack([np.sin(angles), np.cos(angles)], -1) * (0.42 * thing.width)
        ring[:, 0] += thing.s + along * mid + abs(along) * 0.3 * thing.height * np.sin(angles)
        ring[:, 1] += thing.d + across * mid + abs(across) * 0.3 * thing.height * np.cos(angles)
        return np.asarray(ring)
    if isinstance(thing, Car):
        s, d = thing.at(t)
        base = _car_outline(thing, s, d, 0.0)
        return np.concatenate([base, base + [along * thing.size[2] * 0.8, across * thing.size[2] * 0.8]])
    if isinstance(thing, Pole | Sign):
        height = thing.height if isinstance(thing, Pole) else thing.top
        return _streak(thing.s, thing.d, 0.1, height, along, across)
    if isinstance(thing, Person | Bike):
        s, d = thing.at(t)
        return _streak(s, d, 0.25, thing.height, along, across)
    return None


def _streak(s: float, d: float, half: float, height: float, along: float, across: float) -> Floats:
    tip_s, tip_d = s + along * height, d + across * height
    return np.array([[s - half, d], [s + half, d], [tip_s + half, tip_d], [tip_s - half, tip_d]])


def _car_outline(car: Car, s: float, d: float, margin: float) -> Floats:
    u, v = car.size[0] / 2 + margin, car.size[1] / 2 + margin
    local = np.array([[-u, -v], [u, -v], [u, v], [-u, v]])
    c, n = np.cos(car.heading), np.sin(car.heading)
    return np.asarray(local @ np.array([[c, n], [-n, c]]) + [s, d])


def _shade(
    canvas: Canvas, camera: Camera, world: World, light: Light, ground: Array, z: Floats, d: Floats, shadow: Array
) -> None:
    """Texture (fixed to the ground), shadows and fog over the painted ground."""
    u = np.float32(_TILE_SCALE) * d
    v = np.broadcast_to(((z + np.float32(camera.s % 1024)) * np.float32(_TILE_SCALE * 0.5))[:, None], u.shape)
    tile = fractal(_TILE, 4, 7 + world.seed % 4)
    texture = cv2.remap(tile, u, np.ascontiguousarray(v, np.float32), cv2.INTER_LINEAR, None, cv2.BORDER_WRAP)
    rough = np.full(256, 0.05 + 0.09 * world.roughness, np.float32)
    rough[ids.VEGETATION] = 0.28
    rough[ids.LANE_MARK] = 0.04 + 0.16 * world.roughness
    gain = 1 + rough[ground[..., 3]] * texture * np.exp(-z / 45)[:, None]
    gain *= 1 - shadow.astype(np.float32) / 255
    haze = np.exp(-np.float32(canvas.fog) * z)[:, None]
    gain *= haze
    colour = cv2.multiply(ground[..., :3].astype(np.float32), cv2.merge([gain, gain, gain]))
    colour += (1 - haze)[..., None] * np.asarray(canvas.fog_colour, np.float32)
    np.clip(colour, 0, 255, out=colour)
    ground[..., :3] = colour
