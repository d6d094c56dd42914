"""The land next to a street: buildings, gardens and woods."""

# ruff: noqa: PLR0917 - coordinates and sizes read best in their usual order

from __future__ import annotations

from random import Random

from pipeline.datasets._streets import palettes
from pipeline.datasets._streets.layout import Plan, Side
from pipeline.datasets._streets.objects import BARE, BUSHES, CONIFERS, CROWNS
from pipeline.datasets._streets.world import Building, Colour, Thing, Tree


def lots(rng: Random, plan: Plan, side: Side) -> list[Thing]:
    """Buildings, gardens and parks, from behind the camera to behind the end of the street."""
    things: list[Thing] = []
    built = {"urban": 0.94, "suburb": 0.62, "park": 0.12, "works": 0.75}[plan.style]
    tall = {"urban": (8, 24), "suburb": (4.5, 9), "park": (5, 10), "works": (5, 13)}[plan.style]
    s = rng.uniform(-14, -4)
    while s < plan.length + 20:
        size = rng.uniform(8, 20)
        blocked = [(c - w - 2, c + w + 2) for c, w in plan.crossings if s < c + w + 2 and s + size > c - w - 2]
        end = blocked[0][0] if blocked else s + size
        if end - s > 4:
            if rng.random() < built:
                things.append(
                    _building(rng, plan, side, s, end - (0 if rng.random() < 0.6 else 1.2), rng.uniform(*tall))
                )
                if plan.style in ("suburb", "works") and side.front - side.walk > 2:
                    things += _plants(rng, side.sign, s, end, side.walk + 0.7, side.front - 0.6, 3, small=True)
            else:
                near = side.walk + 1.0
                things += _plants(
                    rng, side.sign, s, end, near, near + 14, 6 if plan.style == "park" else 4, small=False
                )
        s = blocked[0][1] if blocked else s + size
    return things


def _plants(
    rng: Random, sign: int, s: float, end: float, near: float, far: float, count: int, *, small: bool
) -> list[Thing]:
    out: list[Thing] = []
    for _ in range(count):
        place, d = rng.uniform(s, end), sign * rng.uniform(near, max(far, near + 0.1))
        out.append(tree(rng, place, d, bush=small or rng.random() < 0.3))
    return out


def tree(rng: Random, s: float, d: float, *, bush: bool) -> Tree:
    if bush:
        height = rng.uniform(0.7, 2.2)
        return Tree(
            s,
            d,
            0.0,
            height * rng.uniform(1.1, 2.2),
            height,
            palettes.leaves(rng),
            (50, 60, 70),
            rng.choice(BUSHES),
            rng.random() < 0.5,
        )
    shape = rng.choices((rng.choice(CROWNS), rng.choice(CONIFERS), rng.choice(BARE)), (78, 12, 10))[0]
    height = rng.uniform(3, 7.5)
    trunk = 0.2 if shape in CONIFERS else rng.uniform(1.6, 2.8)
    tint = palettes.bark(rng) if shape in BARE else palettes.leaves(rng)
    return Tree(
        s, d, trunk, height * rng.uniform(0.6, 1.1), height, tint, palettes.bark(rng), shape, rng.random() < 0.5
    )


def _building(rng: Random, plan: Plan, side: Side, s: float, end: float, height: float) -> Building:
    wall = palettes.wall(rng)
    lightness = rng.choice((0.7, 1.3))
    trim: Colour = (min(wall[0] * lightness, 245), min(wall[1] * lightness, 245), min(wall[2] * lightness, 245))
    glass: Colour = rng.choice(((62.0, 55.0, 50.0), (105.0, 92.0, 80.0), (190.0, 165.0, 135.0), (45.0, 42.0, 42.0)))
    shop = plan.style == "urban" and rng.random() < 0.65
    poster = None
    if rng.random() < 0.35:
        poster = (rng.choice(("disc", "disc", "triangle", "text")), palettes.bright(rng), palettes.bright(rng))
    modern = rng.random() < 0.25
    return Building(
        s=s,
        end=end,
        d=side.sign * side.front,
        height=height,
        depth=rng.uniform(7, 12),
        wall=wall,
        trim=trim,
        glass=glass,
        lit=rng.choice(((120.0, 190.0, 235.0), (150.0, 205.0, 225.0), (200.0, 215.0, 220.0))),
        window=(0.92, 0.7) if modern else (rng.uniform(0.35, 0.6), rng.uniform(0.4, 0.62)),
        bay=rng.uniform(2.2, 3.6),
        storey=rng.uniform(2.8, 3.5),
        lit_share=rng.choice((0.05, 0.2, 0.4)),
        shop=palettes.bright(rng) if shop else None,
        awning=palettes.bright(rng) if shop and rng.random() < 0.35 else None,
        poster=poster,
        roof=rng.uniform(1.5, 3) if height < 12 and rng.random() < 0.6 else 0.0,
        seed=rng.randrange(10**6),
    )
