"""A contact sheet: random samples of a data set, each beside itself with its labels laid over, and a legend."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure

from pipeline.datasets import Dataset
from pipeline.errors import UserError
from pipeline.frames import Array, resize_frame, resize_label_map
from pipeline.labels import LabelSpec
from pipeline.survey import Survey

CELL = (300, 480)  # height, width in pixels that a picture has at most
OPACITY = 0.55
DPI = 100
INK, FAINT, PAPER = "#1f2328", "#6e7781", "#ffffff"
PLAIN: dict[str, Any] = {"parse_math": False}  # a class may be called "$x$"
LEGEND = 40  # classes that the legend names at most


@dataclass(frozen=True)
class Shot:
    """A sample of the sheet: title, the picture (h, w, 3) RGB, the same with its labels, and the ids in it."""

    title: str
    picture: Array
    overlay: Array
    pixels: dict[int, int]


def write_sheet(dataset: Dataset, found: Survey, path: Path, *, name: str, count: int, seed: int) -> int:
    """Write random samples, each beside itself with its labels laid over, and a legend, as a PNG.

    Args:
        found: what :func:`pipeline.survey.survey` said; splits take turns.
        path: the PNG; it appears whole or not at all.
        name: key of the data set.
        count: how many samples; unreadable ones are passed over.
        seed: of the choice.

    Returns:
        the number of samples in it.

    Raises:
        UserError: ``count`` is no positive number, or no sample can be read.
    """
    if count < 1:
        raise UserError(f"--samples: got {count}; allowed: 1 or more")
    shots = []
    for split, sample in turns(found.names, seed):
        try:
            frame, label = dataset.read(split, sample)
        except UserError:
            continue  # it is among the faults
        if frame.shape[:2] == label.shape:
            shots.append(shot(f"{split}/{sample}  {frame.shape[0]}x{frame.shape[1]}", frame, label, found.labels))
        if len(shots) == count:
            break
    if not shots:
        raise UserError(f"{path}: not written, because no sample can be read; mend the faults first")
    total = sum(map(len, found.names.values()))
    title = f"{name}  ·  {len(shots)} of {total} samples, {found.labels.num_classes} classes"
    _write(path, _sheet(title, shots, found.labels))
    return len(shots)


def turns(names: dict[str, list[str]], seed: int) -> list[tuple[str, str]]:
    """All samples in an order drawn with a seed, one of each split in turn."""
    random = Random(seed)  # noqa: S311
    orders = [[(split, name) for name in random.sample(listed, len(listed))] for split, listed in names.items()]
    longest = max(map(len, orders), default=0)
    return [order[index] for index in range(longest) for order in orders if index < len(order)]


def shot(title: str, frame: Array, label: Array, labels: LabelSpec) -> Shot:
    scale = min(1.0, CELL[0] / label.shape[0], CELL[1] / label.shape[1])
    size = (max(1, round(label.shape[0] * scale)), max(1, round(label.shape[1] * scale)))
    small, ids = resize_frame(frame, size), resize_label_map(label, size)
    colours = cv2.LUT(cv2.merge([ids] * 3), labels.lookup_bgr())
    mixed = cv2.addWeighted(small, 1 - OPACITY, colours, OPACITY, 0)
    grey = cv2.cvtColor(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    stripes = np.add.outer(np.arange(size[0]), np.arange(size[1])) // 4 % 2 == 0
    ignored = ids == labels.ignore_index
    mixed[ignored] = grey[ignored] // 3
    mixed[ignored & stripes] = grey[ignored & stripes] // 2 + 50
    edges = cv2.morphologyEx(ids, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    mixed[edges] = mixed[edges] // 2 + 127
    values, pixels = np.unique(label, return_counts=True)
    counted = dict(zip(values.tolist(), (pixels / label.size * 1e6).astype(int).tolist(), strict=True))
    return Shot(title, _rgb(small), _rgb(np.asarray(mixed, np.uint8)), counted)


def _rgb(image: Array) -> Array:
    return np.ascontiguousarray(image[..., ::-1])


def _sheet(title: str, shots: Sequence[Shot], labels: LabelSpec) -> Figure:
    """Pairs of pictures in rows, the legend below."""
    shown: dict[int, int] = {}
    for shot in shots:
        for index, pixels in shot.pixels.items():
            shown[index] = shown.get(index, 0) + pixels
    columns = 1 if len(shots) < 3 else 2
    height = max(shot.picture.shape[0] for shot in shots)
    width = max(shot.picture.shape[1] for shot in shots)
    rows = -(-len(shots) // columns)
    margin, gap, caption, line = 24, 8, 26, 22
    page = columns * (2 * width + gap) + (columns + 1) * margin
    entries = _legend(labels, shown)
    longest = max(len(text) for text, _ in entries)
    across = max(1, min(len(entries), int((page - 2 * margin) // (36 + 7.2 * longest))))
    legend = -(-len(entries) // across) * line
    tall = margin + 30 + rows * (height + caption + gap) + gap + legend + margin
    figure = Figure(figsize=(page / DPI, tall / DPI), dpi=DPI, facecolor=PAPER)
    figure.text(margin / page, 1 - margin / tall, title, size=13, weight="bold", color=INK, va="top", **PLAIN)
    for place, shot in enumerate(shots):
        row, column = divmod(place, columns)
        left = margin + column * (2 * width + gap + margin)
        top = margin + 30 + row * (height + caption + gap)
        at = (left / page, 1 - (top + 6) / tall)
        figure.text(*at, shot.title, size=8, color=FAINT, va="top", family="monospace", **PLAIN)
        for image, at in ((shot.picture, left), (shot.overlay, left + shot.picture.shape[1] + gap)):
            h, w = image.shape[:2]
            axes = figure.add_axes((at / page, 1 - (top + caption + h) / tall, w / page, h / tall))
            axes.imshow(image, aspect="auto", interpolation="nearest")
            axes.set_axis_off()
    bottom = margin + legend
    for place, (text, colour) in enumerate(entries):
        row, column = divmod(place, across)
        x = margin + column * (page - 2 * margin) / across
        y = bottom - row * line - line / 2
        figure.text(x / page, y / tall, "■", size=13, color=colour, va="center", family="DejaVu Sans").set_path_effects(
            [patheffects.withStroke(linewidth=0.6, foreground=FAINT)]
        )
        figure.text((x + 20) / page, y / tall, text, size=9, color=INK, va="center", **PLAIN)
    return figure


def _legend(labels: LabelSpec, shown: dict[int, int]) -> list[tuple[str, str]]:
    """Text and colour of the classes in the pictures, in train-id order; of many, those with most pixels."""
    there = [index for index in shown if index < labels.num_classes]
    kept = sorted(sorted(there, key=lambda index: -shown[index])[:LEGEND])
    entries = [(labels.names[index], "#{:02x}{:02x}{:02x}".format(*labels.palette[index])) for index in kept]
    if len(kept) < len(there):
        entries.append((f"and {len(there) - len(kept)} smaller classes", PAPER))
    if labels.ignore_index in shown:
        entries.append(("ignored (striped)", "#8c959f"))
    return entries


def _write(path: Path, figure: Figure) -> None:
    """PNG without a date, under a temporary name first."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(stream.getvalue())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
