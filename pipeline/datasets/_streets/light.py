"""Weather, time of day and camera sensor: how a scene is lit, and how it becomes a photograph."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from random import Random

import cv2
import numpy as np

from pipeline.datasets._streets import exact
from pipeline.datasets._streets.world import Colour, Floats
from pipeline.frames import Array

MOODS = {"day": 38, "low_sun": 14, "overcast": 22, "dusk": 8, "night": 8, "fog": 5, "rain": 5}


@dataclass(frozen=True)
class Light:
    """The light of one scene. Colours are BGR; ``shades`` has the brightness of faces by their direction."""

    mood: str
    zenith: Colour
    horizon: Colour
    cloud: Colour
    cover: float
    fog: float  # 1 / metres
    fog_colour: Colour
    ambient: Colour  # factor of everything that does not emit light
    shades: tuple[float, float, float, float]  # faces to the left, to the right, towards the camera, up
    shadow: tuple[float, float] | None  # metres along s and d per metre of height
    shadow_depth: float
    wet: float
    lamps: bool
    glare: float
    gain: Colour  # exposure and white balance
    gamma: float
    noise: float
    blur: float
    drops: int
    cloud_offset: tuple[float, float]


def sample_light(rng: Random) -> Light:
    """Draw a mood, then draw all other values around the typical values of the mood."""
    mood = rng.choices(list(MOODS), list(MOODS.values()))[0]
    u = rng.uniform
    dark = mood in ("dusk", "night")
    sun = mood in ("day", "low_sun")
    zenith, horizon, cloud = _sky(mood, rng)
    fog = {"fog": u(0.018, 0.04), "rain": u(0.004, 0.010), "low_sun": u(0.002, 0.006)}.get(mood, u(0.0008, 0.004))
    level = {"night": u(0.28, 0.42), "dusk": u(0.5, 0.75), "rain": u(0.6, 0.8), "fog": u(0.8, 0.95)}.get(mood, 1.0)
    cast = {"night": (1.15, 0.95, 0.9), "dusk": (1.12, 0.97, 0.98), "low_sun": (0.78, 0.96, 1.1)}
    b, g, r = cast.get(mood, (1.0, 1.0, 1.0))
    side = rng.choice((-1, 1))
    if sun:
        bright, dim = u(1.0, 1.15), u(0.5, 0.72)
        front = u(0.6, 1.1)
        shades = (bright if side < 0 else dim, bright if side > 0 else dim, front, u(1.05, 1.2))
    else:
        shades = (u(0.82, 0.95), u(0.82, 0.95), u(0.8, 0.95), 1.05)
    reach = u(0.5, 1.2) if mood == "day" else u(1.3, 2.2)
    angle = u(-0.9, 0.9)
    warm, tint, gain = rng.gauss(0, 0.05), rng.gauss(0, 0.02), math.exp(rng.gauss(0, 0.15))
    return Light(
        mood=mood,
        zenith=zenith,
        horizon=horizon,
        cloud=cloud,
        cover={"overcast": u(0.7, 1), "rain": u(0.8, 1), "fog": 0.3}.get(mood, rng.choice((0.0, u(0, 0.9)))),
        fog=fog,
        fog_colour=horizon,
        ambient=(b * level, g * level, r * level),
        shades=shades,
        shadow=(reach * math.sin(angle), -side * reach * math.cos(angle)) if sun else None,
        shadow_depth=u(0.35, 0.6),
        wet=u(0.35, 0.7) if mood == "rain" else rng.choice((0.0, 0.0, 0.0, u(0.15, 0.45))),
        lamps=dark or (mood in ("rain", "fog") and rng.random() < 0.5),
        glare=u(0.15, 0.5) if mood == "low_sun" and rng.random() < 0.6 else 0.0,
        gain=(gain * (1 - warm), gain * (1 + tint), gain * (1 + warm)),
        gamma=math.exp(rng.gauss(0, 0.12)),
        noise=u(4, 8) if dark else u(1, 4),
        blur=max(rng.gauss(0.15, 0.22), 0.0),
        drops=rng.randint(30, 90) if mood == "rain" else 0,
        cloud_offset=(u(0, 512), u(0, 512)),
    )


def _sky(mood: str, rng: Random) -> tuple[Colour, Colour, Colour]:
    """Zenith, horizon and cloud colour (BGR) of a mood."""
    v = rng.uniform(0.9, 1.08)
    tables: dict[str, tuple[Colour, Colour, Colour]] = {
        "day": ((225, 150, 80), (245, 222, 195), (250, 248, 244)),
        "low_sun": ((205, 160, 120), (165, 205, 250), (175, 205, 245)),
        "overcast": ((190, 184, 176), (222, 218, 212), (160, 155, 150)),
        "dusk": ((120, 75, 50), (120, 135, 205), (110, 95, 130)),
        "night": ((38, 24, 14), (60, 48, 42), (50, 44, 42)),
        "fog": ((205, 203, 200), (212, 210, 206), (222, 220, 218)),
        "rain": ((150, 145, 138), (182, 178, 172), (120, 116, 112)),
    }
    zenith, horizon, cloud = ((b * v, g * v, r * v) for b, g, r in tables[mood])
    return zenith, horizon, cloud


@functools.lru_cache(maxsize=8)
def fractal(size: int, coarsest: int, seed: int, fineness: float = 0.6) -> Floats:
    """Seamless noise, (size, size) float32, mean 0 and standard deviation 1.

    Args:
        coarsest: number of blobs along a side in the coarsest layer; each next layer has twice as many.
        fineness: weight of a layer relative to the layer before; 0.6 looks like clouds, 0.9 like grit.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    total = np.zeros((size, size))
    cells, weight = coarsest, 1.0
    while cells <= size:
        total += weight * exact.upsample_tile(rng.standard_normal((cells, cells), np.float32), size // cells)
        cells, weight = cells * 2, weight * fineness
    total = (total - total.mean()) / total.std()
    return np.asarray(total, np.float32)


def sky(light: Light, height: int, width: int, heading: float) -> Array:
    """The sky above the horizon as (height, width, 3) uint8 BGR."""
    whole = (height, width)
    height, width = max(height // 3, 2), max(width // 3, 2)
    up = exact.power(np.linspace(1, 0, height), 0.8)[:, None, None]
    colours = np.asarray([light.zenith, light.horizon], np.float32)
    image = np.broadcast_to(colours[0] * up + colours[1] * (1 - up), (height, width, 3))
    if light.cover > 0:
        x = np.linspace(0, 200, 48, dtype=np.float32) + np.float32(light.cloud_offset[0] + 300 * heading)
        y = exact.power(np.linspace(0, 1, 32), 1.5) * 190 + np.float32(light.cloud_offset[1])
        small = exact.sample_tile(fractal(512, 8, 1), *np.meshgrid(x, y))
        share = np.clip((small + 2.4 * light.cover - 1.2) * 0.7, 0, 1) * np.float32(0.25 + 0.75 * min(light.cover, 0.7))
        veil = exact.enlarge(share, (height, width))[..., None]
        image = image + (np.asarray(light.cloud, np.float32) - image) * veil
    small_sky = np.clip(image, 0, 255).astype(np.uint8)
    return exact.enlarge_bytes(small_sky, whole)


def photograph(image: Floats, rng: np.random.Generator, light: Light) -> Floats:
    """Lens and sensor: blur, raindrops, exposure, white balance, gamma, noise. (H, W, 3) float32 0..255 in and out."""
    height, width = image.shape[:2]
    scale = height / 128
    blur = light.blur * scale**0.5
    if blur > 0.25:
        image = exact.blur(image, blur)
    if light.drops:
        image = _rain(image, rng, light.drops, scale)
    levels = np.arange(256)[:, None] / 255 * np.asarray(light.gain)
    curve = np.rint(255 * np.clip(levels, 0, 1) ** light.gamma).astype(np.uint8)
    exposed = cv2.LUT(np.clip(image, 0, 255).astype(np.uint8), curve.reshape(256, 1, 3))
    grain = rng.standard_normal((height, width), np.float32) * np.float32(light.noise)
    tinted = cv2.merge([grain + np.float32(0.4) * np.roll(grain, shift, (0, 1)) for shift in (3, 7, 13)])
    return np.asarray(cv2.add(exposed, tinted, dtype=cv2.CV_32F))


def _rain(image: Floats, rng: np.random.Generator, drops: int, scale: float) -> Floats:
    """Bright slanted streaks and a light veil."""
    height, width = image.shape[:2]
    veil = np.zeros((height, width), np.uint8)
    slant = rng.uniform(-0.25, 0.25)
    for x, y, size in rng.uniform(0, 1, (drops, 3)):
        length = (4 + 10 * size) * scale
        start = (int(x * width), int(y * height))
        cv2.line(
            veil, start, (int(start[0] + slant * length), int(start[1] + length)), 60 + int(80 * size), 1, cv2.LINE_AA
        )
    return np.asarray(image + (np.float32(215) - image) * (veil.astype(np.float32) / 255)[..., None] * np.float32(0.5))
