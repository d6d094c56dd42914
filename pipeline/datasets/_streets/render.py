"""From a world, a light and a time to a photograph and its label map.

Everything is painted from far to near, at twice the image size. Then the image is reduced by averaging, and the label
map takes the most frequent id of each 2x2 block: ids never mix, and thin things do not disappear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from pipeline.datasets._streets import classes as ids
from pipeline.datasets._streets import exact
from pipeline.datasets._streets.buildings import paint_building
from pipeline.datasets._streets.canvas import SCALE, SHINES, Camera, Canvas
from pipeline.datasets._streets.ground import paint_ground
from pipeline.datasets._streets.light import Light, fractal, photograph, sky
from pipeline.datasets._streets.objects import paint_gantry, paint_pole, paint_sign, paint_tree
from pipeline.datasets._streets.people import paint_bike, paint_person
from pipeline.datasets._streets.vehicles import paint_car
from pipeline.datasets._streets.world import (
    Bike,
    Building,
    Car,
    Floats,
    Gantry,
    Person,
    Pole,
    Sign,
    Thing,
    Tree,
    World,
    place,
)
from pipeline.frames import Array

VIEW = 95.0  # metres; things that are farther away are not painted: the skyline replaces them
SMALL_VIEW = 40.0  # metres; the same for people, bicycles and signs, which would be only a few pixels
_PAINTERS: dict[type[Any], Callable[..., None]] = {
    Building: paint_building,
    Tree: paint_tree,
    Pole: paint_pole,
    Sign: paint_sign,
    Gantry: paint_gantry,
    Car: paint_car,
    Person: paint_person,
    Bike: paint_bike,
}


def render(
    world: World, light: Light, t: float, size: tuple[int, int], grain: np.random.Generator
) -> tuple[Array, Array]:
    """Render one frame.

    Args:
        t: seconds since the start of the drive.
        size: (height, width) of the result.
        grain: random generator for the sensor noise of this frame.

    Returns:
        frame (H, W, 3) BGR uint8 and label map (H, W) uint8.
    """
    height, width = size
    canvas = Canvas(height * SCALE, width * SCALE, fog=light.fog, fog_colour=light.fog_colour)
    s = world.drive.speed * t
    camera = Camera(world.drive, world.bend, world.hill, s=s, t=t, height=canvas.height, width=canvas.width)
    first = _paint_sky(canvas, camera, light)
    _paint_skyline(canvas, camera, world)
    first = paint_ground(canvas, camera, world, light, t)
    for distance, thing in _from_far_to_near(world.things, camera.s, t):
        if distance < VIEW or isinstance(thing, Building):
            _PAINTERS[type(thing)](canvas, camera, thing, light, t)
    if light.wet:
        _reflect(canvas, camera, light, first)
    label = _commonest(np.asarray(canvas.pixels[..., 3] & (SHINES - 1), np.uint8))
    image = _illuminate(canvas, camera, world, light, label)
    image = photograph(image, grain, light)
    return np.asarray(np.clip(image, 0, 255), np.uint8), label


def _from_far_to_near(things: tuple[Thing, ...], s: float, t: float) -> list[tuple[float, Thing]]:
    """Distances and things in view, the farthest first. The distance of a building is that of its far end."""
    seen: list[tuple[float, Thing]] = []
    for thing in things:
        if isinstance(thing, Building):
            distance = thing.end - s
            if distance > 2 and thing.s - s < VIEW + 25:
                seen.append((distance, thing))
        else:
            distance = place(thing, t) - s
            nearest = 4.5 - thing.size[0] / 2 if isinstance(thing, Car) else 2.2
            farthest = SMALL_VIEW if isinstance(thing, Person | Bike | Sign) else VIEW
            if nearest < distance < farthest:
                seen.append((distance, thing))
    seen.sort(key=lambda pair: -pair[0])
    return seen


def _paint_sky(canvas: Canvas, camera: Camera, light: Light) -> int:
    rows = min(max(int(camera.cy + 0.04 * camera.focal), 2), canvas.height)
    canvas.pixels[:rows, :, :3] = sky(light, rows, canvas.width, camera.heading)
    canvas.pixels[:rows, :, 3] = ids.SKY | SHINES
    return rows


def _paint_skyline(canvas: Canvas, camera: Camera, world: World) -> None:
    for start, stop, elevation, colour, ident in world.skyline:
        x0 = camera.cx + camera.focal * (start - camera.heading)
        x1 = camera.cx + camera.focal * (stop - camera.heading)
        top = camera.cy - camera.focal * elevation
        ink = canvas.ink(colour, ident, 160.0, 0.9)
        if ident == ids.VEGETATION:
            canvas.disc((x0 + x1) / 2, camera.cy, (x1 - x0) * 0.7, camera.cy - top, ink)
        canvas.box(
            x0, top if ident == ids.BUILDING else (top + camera.cy) / 2, x1, camera.cy + 0.03 * camera.focal, ink
        )


def _reflect(canvas: Canvas, camera: Camera, light: Light, first: int) -> None:
    """Puddles: mirror the upper half of the image at the horizon onto the wet flat ground."""
    ground = canvas.pixels[first:]
    rows = min(len(ground), first)
    ground, mirror = ground[:rows], canvas.pixels[first - rows : first][::-1]
    z = camera.focal * camera.eye / np.maximum(np.arange(rows, dtype=np.float32) + 1, 1)
    x = (np.arange(canvas.width, dtype=np.float32) - np.float32(camera.cx))[None] * (z / np.float32(camera.focal))[
        :, None
    ]
    y = np.broadcast_to(((z + camera.s % 1024) * 0.8)[:, None], x.shape)
    tile = fractal(512, 8, 3)
    pool = exact.sample_tile(tile, x * 4, y * 4)
    flat = np.isin(ground[..., 3], (ids.ROAD, ids.LANE_MARK, ids.SIDEWALK))
    share = np.clip((pool + 1.6 * light.wet - 0.9) * 1.5, 0.12, 0.75) * np.float32(min(light.wet * 1.5, 1)) * flat
    share *= exact.power(np.linspace(1, 0, rows), 0.6)[
        :, None
    ]  # less reflection where the camera looks down more steeply
    colour = ground[..., :3].astype(np.float32)
    mirrored = cv2.blur(mirror, (3, 9))[..., :3].astype(np.float32)
    ground[..., :3] = colour * np.float32(0.93) + (mirrored - colour) * share[..., None].astype(np.float32)


def _commonest(labels: Array) -> Array:
    """The most frequent id of each 2x2 block, (2h, 2w) -> (h, w); in a tie, the upper left pixel decides."""
    a, b, c, d = labels[::2, ::2], labels[::2, 1::2], labels[1::2, ::2], labels[1::2, 1::2]
    rest = np.where((b == c) | (b == d), b, np.where(c == d, c, a))
    return np.asarray(np.where((a == b) | (a == c) | (a == d), a, rest), np.uint8)


def _illuminate(canvas: Canvas, camera: Camera, world: World, light: Light, label: Array) -> Floats:
    """Reduce the canvas by averaging, light what emits no light, and add bloom to lamps. (H, W, 3) float32."""
    height, width = canvas.height // SCALE, canvas.width // SCALE
    image: Floats = cv2.resize(canvas.pixels, (width, height), interpolation=cv2.INTER_AREA)[..., :3].astype(np.float32)
    shining = cv2.threshold(canvas.pixels[..., 3], SHINES - 1, 1, cv2.THRESH_BINARY)[1]
    if light.mood in ("day", "overcast", "fog"):
        return image
    ambient = np.asarray(light.ambient, np.float32)
    shine = (
        np.asarray(cv2.resize(shining * np.uint8(255), (width, height), interpolation=cv2.INTER_AREA), np.float32) / 255
    )
    lit = np.asarray(np.broadcast_to(ambient, image.shape), np.float32)
    if light.lamps:
        lit = np.minimum(ambient + _lamplight(camera, world, light, height, width), 1.15).astype(np.float32)
    image = image * (lit + (1 - lit) * shine[..., None])
    if light.lamps:
        lamps = image * (shine * (label != ids.SKY))[..., None]
        bloom = exact.blur(exact.halve(lamps), height / 45)
        image = image + exact.enlarge(bloom, (height, width)) * np.float32(0.9)
    if light.glare:
        x, y = np.linspace(-1, 1, width)[None], np.linspace(0, 1, height)[:, None]
        sun = exact.exp(-((x - (0.5 if light.cloud_offset[0] > 256 else -0.5)) ** 2 + (y - 0.25) ** 2 * 3) * 3)
        warm = np.asarray((170, 215, 255), np.float32) - image
        image = image + (sun[..., None] * light.glare).astype(np.float32) * warm
    return np.asarray(image, np.float32)


def _lamplight(camera: Camera, world: World, light: Light, height: int, width: int) -> Floats:
    """Warm light under street lamps, and the cone of the camera car's headlights, (H, W, 3) float32."""
    h, w = height // 4, width // 4
    k = 4 * SCALE
    pool = np.zeros((h, w), np.float32)
    strength = 1 - min(light.ambient[1], 0.9)
    for thing in world.things:
        if isinstance(thing, Pole) and thing.lamp and 2 < thing.s - camera.s < 80:
            x, y, scale, _ = camera.foot(thing.s, thing.d + thing.arm)
            axes = (max(int(7 * scale / k), 1), max(int(3.6 * scale / k), 1))
            cv2.ellipse(pool, (int(x / k), int((y - 1.5 * scale) / k)), axes, 0, 0, 360, 1.0 * strength, -1)
    x0, y0 = camera.cx / k, camera.cy / k
    beam = np.array([[x0 - 0.12 * w, y0 + 0.02 * h], [x0 + 0.16 * w, y0 + 0.01 * h], [1.05 * w, h], [-0.05 * w, h]])
    cv2.fillConvexPoly(pool, np.rint(beam).astype(np.int32), 0.6 * strength)
    warm = np.asarray((0.78, 0.97, 1.1), np.float32)
    return np.asarray(exact.enlarge(exact.blur(pool, h / 14), (height, width))[..., None] * warm)
