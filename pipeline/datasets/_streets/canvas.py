"""The camera, and a canvas: each call paints the colour and the train id of the same pixels.

The canvas has four 8-bit channels: B, G, R and the id. Bit 7 of the id marks pixels that emit light (sky, lamps, lit
windows), so later layers cover a light in the same way as a colour. Pixels in this file are canvas pixels; an image
pixel is ``SCALE`` canvas pixels wide.
"""

# ruff: noqa: PLR0917 - coordinates and sizes read best in their usual order

from __future__ import annotations

import math
from typing import TypeAlias

import cv2
import numpy as np

from pipeline.datasets._streets import exact
from pipeline.datasets._streets.world import Colour, Drive, Floats, Wave
from pipeline.frames import Array

SCALE = 2
SHINES = 0x80
NEAR = 0.7  # metres; closer points are moved to this distance; this distorts only parts outside the image
_SHIFT = 3

Ink: TypeAlias = tuple[float, float, float, float]


class Camera:
    """Projects road coordinates (s, d, h) to canvas pixels (x, y).

    The bend and the hill of the road are relative to the position and direction of the camera, so the camera always
    looks along the road.
    """

    def __init__(self, drive: Drive, bend: Wave, hill: Wave, *, s: float, t: float, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.s = s
        self.d = drive.d + drive.sway * 0.15 * math.sin(0.9 * t)
        self.eye = drive.eye
        self.focal = drive.focal * width
        self.cx = width * (0.5 + drive.yaw + drive.sway * 0.006 * math.sin(0.7 * t))
        self.cy = height * (drive.horizon + drive.sway * (0.004 * math.sin(4.1 * t) + 0.002 * math.sin(9.7 * t)))
        self.bend, self.hill = bend, hill
        self._bend = (bend.value(s), bend.slope(s))
        self._hill = (hill.value(s), hill.slope(s))
        self.heading = self._bend[1]

    def offsets(self, z: Floats) -> tuple[Floats, Floats]:
        """Offsets of the centre line at distance ``z`` from the camera's foot point: to the right, and up (metres)."""
        s = z + self.s
        right = self.bend(s) - self._bend[0] - self._bend[1] * z - self.d
        up = self.hill(s) - self._hill[0] - self._hill[1] * z
        return right, up

    def offset(self, z: float) -> tuple[float, float]:
        """The same offsets for a single distance."""
        s = z + self.s
        right = self.bend.value(s) - self._bend[0] - self._bend[1] * z - self.d
        up = self.hill.value(s) - self._hill[0] - self._hill[1] * z
        return right, up

    def project(self, s: Floats, d: Floats, h: Floats | float) -> Floats:
        """Pixels (..., 2) of any points; ``s`` and ``d`` have the same shape, ``h`` broadcasts to it."""
        z = np.maximum(s - self.s, NEAR)
        right, up = self.offsets(z)
        return _pinhole(self, z, d + right, h + up)

    def stretch(self, start: float, end: float) -> Stretch:
        """A faster projection for a thing between ``start`` and ``end``; it treats the road there as straight."""
        z0, z1 = max(start - self.s, NEAR), max(end - self.s, NEAR + 1)
        (right0, up0), (right1, up1) = self.offset(z0), self.offset(z1)
        turn, rise = (right1 - right0) / (z1 - z0), (up1 - up0) / (z1 - z0)
        return Stretch(self, right0 - turn * z0, turn, up0 - rise * z0, rise)

    def foot(self, s: float, d: float) -> tuple[float, float, float, float]:
        """Pixel (x, y) of a ground point, pixels per metre at this point, and its distance in metres."""
        z = max(s - self.s, NEAR)
        right, up = self.offset(z)
        k = self.focal / z
        return self.cx + k * (d + right), self.cy - k * (up - self.eye), k, z


class Stretch:
    """Projects like its camera, but with a straight line as the course of the road."""

    def __init__(self, camera: Camera, right: float, turn: float, up: float, rise: float) -> None:
        self.camera = camera
        self.right, self.turn, self.up, self.rise = right, turn, up, rise

    def project(self, s: Floats, d: Floats | float, h: Floats | float) -> Floats:
        """Pixels (..., 2); ``s`` has the shape of the result, ``d`` and ``h`` broadcast to it."""
        z = np.maximum(s - self.camera.s, NEAR)
        return _pinhole(self.camera, z, z * self.turn + (d + self.right), z * self.rise + (h + self.up))


def _pinhole(camera: Camera, z: Floats, right: Floats, up: Floats) -> Floats:
    k = camera.focal / z
    pixels = np.empty((*z.shape, 2))
    pixels[..., 0] = k * right + camera.cx
    pixels[..., 1] = k * (camera.eye - up) + camera.cy
    return pixels


class Canvas:
    """An image (height, width, 4) uint8, and the fog of the scene."""

    def __init__(self, height: int, width: int, *, fog: float, fog_colour: Colour) -> None:
        self.height, self.width = height, width
        self.pixels: Array = np.zeros((height, width, 4), np.uint8)
        self.fog, self.fog_colour = fog, fog_colour

    def clear_view(self, distance: float) -> float:
        """Share of a colour that remains after ``distance`` metres of fog."""
        return math.exp(-self.fog * distance)

    def ink(self, colour: Colour, ident: int, distance: float, shade: float = 1.0, *, shines: bool = False) -> Ink:
        """Colour and id to paint with, after shade and fog. OpenCV clips values above 255."""
        b, g, r = colour
        fog = self.fog_colour
        k = math.exp(-self.fog * distance)
        m, n = k * shade, 1 - k
        return b * m + fog[0] * n, g * m + fog[1] * n, r * m + fog[2] * n, ident | SHINES if shines else ident

    def polygon(self, points: Floats, ink: Ink) -> None:
        """Fill a convex polygon, points (N, 2)."""
        cv2.fillConvexPoly(self.pixels, _fixed(points), ink, cv2.LINE_8, _SHIFT)

    def polygons(self, points: Floats, ink: Ink) -> None:
        """Fill many polygons (M, N, 2) that do not overlap."""
        if len(points):
            cv2.fillPoly(self.pixels, list(_fixed(points)), ink, cv2.LINE_8, _SHIFT)

    def box(self, x0: float, y0: float, x1: float, y1: float, ink: Ink) -> None:
        """An upright rectangle, at least one pixel wide and high."""
        if x1 < 0 or y1 < 0 or x0 > self.width or y0 > self.height:
            return
        a = (round(max(x0, -9)), round(max(y0, -9)))
        b = (max(round(min(x1, self.width + 9)) - 1, a[0]), max(round(min(y1, self.height + 9)) - 1, a[1]))
        cv2.rectangle(self.pixels, a, b, ink, -1)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float, ink: Ink) -> None:
        """A thick line with round ends, at least one pixel wide."""
        thickness = max(round(width), 1)
        cv2.line(self.pixels, _point(x0, y0), _point(x1, y1), ink, thickness, cv2.LINE_8, _SHIFT)

    def disc(self, x: float, y: float, rx: float, ry: float, ink: Ink, *, thickness: int = -1) -> None:
        axes = (max(round(rx * 8), 4), max(round(ry * 8), 4))
        cv2.ellipse(self.pixels, _point(x, y), axes, 0, 0, 360, ink, thickness, cv2.LINE_8, _SHIFT)

    def stamp(
        self,
        sprite: tuple[Array, ...],
        box: tuple[float, float, float, float],
        tint: Colour,
        ident: int,
        distance: float,
    ) -> None:
        """Paste a sprite, scaled to ``box`` (x0, y0, x1, y1) and multiplied by ``tint``.

        ``sprite`` is an image pyramid: each level is (n, n, 4), B, G, R and opacity, and half as large as the level
        before.
        """
        x0, y0, x1, y1 = (round(v) for v in box)
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, self.width), min(y1, self.height)
        if right - left < 1 or bottom - top < 1:
            return
        level = 0
        while level + 1 < len(sprite) and sprite[level + 1].shape[0] >= x1 - x0:
            level += 1
        source = sprite[level]
        n = source.shape[0]
        fx, fy = n / (x1 - x0), n / (y1 - y0)
        u0, v0 = int((left - x0) * fx), int((top - y0) * fy)
        u1, v1 = min(math.ceil((right - x0) * fx) + 1, n), min(math.ceil((bottom - y0) * fy) + 1, n)
        piece = exact.enlarge_bytes(source[v0:v1, u0:u1], (bottom - top, right - left))
        k = self.clear_view(distance)
        lit = np.arange(256)[:, None] * (np.array(tint) * k) + np.array(self.fog_colour) * (1 - k)
        table = np.full((256, 1, 4), ident, np.uint8)
        table[:, 0, :3] = np.rint(np.minimum(lit, 255))
        cover = cv2.threshold(piece[..., 3], 127, 255, cv2.THRESH_BINARY)[1]
        cv2.copyTo(cv2.LUT(piece, table), cover, self.pixels[top:bottom, left:right])


def _fixed(points: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    return np.rint(points * (1 << _SHIFT)).astype(np.int32)


def _point(x: float, y: float) -> tuple[int, int]:
    return int(x * (1 << _SHIFT)), int(y * (1 << _SHIFT))
