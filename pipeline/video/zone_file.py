"""The file of zones: named polygons of a frame, in JSON or YAML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError, closest
from pipeline.video.settings_file import is_number, read_entries

UNITS = ("pixels", "shares")
KEYS = ("name", "points", "unit", "ignore")
_EXAMPLE = '{"zones": [{"name": "lane", "unit": "shares", "points": [[0.4, 0.6], [0.6, 0.6], [1, 1], [0, 1]]}]}'

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Zone:
    """A polygon.

    Attributes:
        name: unique among the zones of a file.
        points: (N, 2) x and y; N is 3 or more. The last point is joined to the first.
        unit: ``pixels`` of the frame, or ``shares`` of its width and height, 0 to 1.
        ignored: whether its pixels are not counted anywhere.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    unit: str = "pixels"
    ignored: bool = False

    def corners(self, size: tuple[int, int]) -> Points:
        """(N, 2) x and y in pixels of a frame of ``size`` (height, width). Raises UserError if a point is outside."""
        points = np.array(self.points, np.float64)
        if self.unit == "shares":
            return points * (size[1], size[0])
        beyond = points[(points > (size[1], size[0])).any(axis=1)]
        if len(beyond):
            raise UserError(
                f"zone '{self.name}': point {beyond[0].tolist()} is outside the frame, which is {size[1]}x{size[0]} "
                '(width x height); correct it, or use "unit": "shares"'
            )
        return points


def read_zones(path: Path) -> list[Zone]:
    """The zones of a JSON file, or of a YAML file where PyYAML is installed.

    Raises:
        UserError: no such file, not JSON or YAML, or invalid; one error has all problems.
    """
    problems, entries = read_entries(path, "zones", example=_EXAMPLE)
    zones = list[Zone]()
    for index, entry in enumerate(entries):
        wrong = _wrong(entry)
        for message in wrong:
            problems.add(f"zones[{index}]{message}")
        if wrong:
            continue
        zone = Zone(
            name=entry["name"],
            points=tuple((float(x), float(y)) for x, y in entry["points"]),
            unit=entry.get("unit", UNITS[0]),
            ignored=entry.get("ignore", False),
        )
        if zone.name in {other.name for other in zones}:
            problems.add(f"zones[{index}].name: '{zone.name}' names two zones; give each its own name")
        zones.append(zone)
    problems.raise_if_any()
    return zones


def _wrong(entry: Any) -> list[str]:
    """The problems of an entry; each begins with its place."""
    if not isinstance(entry, dict):
        return [f": got {entry!r}; needed: name and points"]
    wrong = [f".{key}: unknown key; {closest(str(key), KEYS)}" for key in entry if key not in KEYS]
    name, unit, ignored = entry.get("name"), entry.get("unit", UNITS[0]), entry.get("ignore", False)
    if not isinstance(name, str) or not name.strip():
        wrong.append(f".name: got {name!r}; needed: text")
    if unit not in UNITS:
        wrong.append(f".unit: got {unit!r}; allowed: {' or '.join(UNITS)}")
    if not isinstance(ignored, bool):
        wrong.append(f".ignore: got {ignored!r}; allowed: true or false")
    return wrong + [f".points: {message}" for message in _wrong_points(entry.get("points"), unit)]


def _wrong_points(points: Any, unit: Any) -> list[str]:
    pairs = isinstance(points, list) and all(
        isinstance(point, list) and len(point) == 2 and all(is_number(value) for value in point) for point in points
    )
    if not pairs or len(points) < 3:
        return [f"got {points!r}; needed: three or more points [x, y]"]
    values = [value for point in points for value in point]
    if min(values) < 0:
        return [f"got {min(values)}; the smallest number allowed is 0"]
    if unit == "shares" and max(values) > 1:
        return [f"got {max(values)} with unit shares; allowed: 0 to 1; for pixels leave unit out"]
    if unit == "pixels" and max(values) <= 1:
        return ['all numbers are 0 to 1, which is one pixel; for shares of the frame add "unit": "shares"']
    area = abs(sum(x * b - a * y for (x, y), (a, b) in zip(points, points[1:] + points[:1], strict=True))) / 2
    return [] if area > 0 else ["the polygon has no area; put the points in order around it"]
