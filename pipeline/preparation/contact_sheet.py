"""A contact sheet: random samples of a data set, each without and with its labels as overlay, and a legend."""

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
from pipeline.preparation.survey import Survey

CELL = (300, 480)  # maximum height and width of an image, in pixels
OPACITY = 0.55
DPI = 100
INK, FAINT, PAPER = "#1f2328", "#6e7781", "#ffffff"
PLAIN: dict[str, Any] = {"parse_math": False}  # the name of a class may be "$x$"
LEGEND = 40  # maximum number of classes in the legend


@dataclass(frozen=True)
class Shot:
    """A sample of the sheet.

    Args:
        title: text above the images.
        picture: image (h, w, 3) RGB uint8.
        overlay: the image with its labels, (h, w, 3) RGB uint8.
        pixels: train id -> pixels per million.
    """

    title: str
    picture: Array
    overlay: Array
    pixels: dict[int, int]


def write_sheet(dataset: Dataset, result: Survey, path: Path, *, name: str, count: int, seed: int) -> int:
    """Write a PNG with random samples, each without and with its labels as overlay, and a legend.

    Args:
        result: result of :func:`pipeline.preparation.survey.survey`; samples are taken from each split in turn.
        path: the PNG file; if writing fails, no partial file remains.
        name: key of the data set.
        count: number of samples; unreadable samples are skipped.
        seed: seed of the random choice.

    Returns:
        number of samples in the sheet.

    Raises:
        UserError: ``count`` is below 1, or no sample can be read.
    """
    if count < 1:
        raise UserError(f"--samples: got {count}; allowed: 1 or more")
    shots = []
    for split, sample in turns(result.names, seed):
        try:
            frame, label = dataset.read(split, sample)
        except UserError:
            continue  # the survey has reported it
        if frame.shape[:2] == label.shape:
            shots.append(shot(f"{split}/{sample}  {frame.shape[0]}x{frame.shape[1]}", frame, label, result.labels))
        if len(shots) == count:
            break
    if not shots:
        raise UserError(f"{path}: not written, because no sample can be read; correct the errors first")
    total = sum(map(len, result.names.values()))
    title = f"{name}  ·  {len(shots)} of {total} samples, {result.labels.num_classes} classes"
    _write(path, _sheet(title, shots, result.labels))
    return len(shots)


def turns(names: dict[str, list[str]], seed: int) -> list[tuple[str, str]]:
    """(split, name) of all samples in a random order that depends on the seed, one sample of each split in turn."""
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
    """The page: rows of image pairs, and the legend below."""
    shown: dict[int, int] = {}
    for shot in shots:
        for index, pixels in shot.pixels.items():
            shown[index] = shown.get(index, 0) + pixels
    columns = 1 if len(shots) < 3 else 2
    height = max(shot.picture.shape[0] for shot in shots)
    width = max(shot.picture.shape[1] for shot in shots)
    rows = -(-len(shots) // columns)
    margin, gap, caption, line = 24, 8, 26, 22
    page_width = columns * (2 * width + gap) + (columns + 1) * margin
    entries = _legend(labels, shown)
    longest = max(len(text) for text, _ in entries)
    legend_columns = max(1, min(len(entries), int((page_width - 2 * margin) // (36 + 7.2 * longest))))
    legend = -(-len(entries) // legend_columns) * line
    page_height = margin + 30 + rows * (height + caption + gap) + gap + legend + margin
    figure = Figure(figsize=(page_width / DPI, page_height / DPI), dpi=DPI, facecolor=PAPER)
    figure.text(
        margin / page_width, 1 - margin / page_height, title, size=13, weight="bold", color=INK, va="top", **PLAIN
    )
    for index, shot in enumerate(shots):
        row, column = divmod(index, columns)
        left = margin + column * (2 * width + gap + margin)
        top = margin + 30 + row * (height + caption + gap)
        at = (left / page_width, 1 - (top + 6) / page_height)
        figure.text(*at, shot.title, size=8, color=FAINT, va="top", family="monospace", **PLAIN)
        for image, at in ((shot.picture, left), (shot.overlay, left + shot.picture.shape[1] + gap)):
            h, w = image.shape[:2]
            axes = figure.add_axes(
                (at / page_width, 1 - (top + caption + h) / page_height, w / page_width, h / page_height)
            )
            axes.imshow(image, aspect="auto", interpolation="nearest")
            axes.set_axis_off()
    bottom = margin + legend
    for index, (text, colour) in enumerate(entries):
        row, column = divmod(index, legend_columns)
        x = margin + column * (page_width - 2 * margin) / legend_columns
        y = bottom - row * line - line / 2
        figure.text(
            x / page_width, y / page_height, "■", size=13, color=colour, va="center", family="DejaVu Sans"
        ).set_path_effects([patheffects.withStroke(linewidth=0.6, foreground=FAINT)])
        figure.text((x + 20) / page_width, y / page_height, text, size=9, color=INK, va="center", **PLAIN)
    return figure


def _legend(labels: LabelSpec, shown: dict[int, int]) -> list[tuple[str, str]]:
    """Text and colour of the classes in the images, in train-id order; if there are many, the most frequent classes."""
    present = [index for index in shown if index < labels.num_classes]
    kept = sorted(sorted(present, key=lambda index: -shown[index])[:LEGEND])
    entries = [(labels.names[index], "#{:02x}{:02x}{:02x}".format(*labels.palette[index])) for index in kept]
    if len(kept) < len(present):
        entries.append((f"and {len(present) - len(kept)} rarer classes", PAPER))
    if labels.ignore_index in shown:
        entries.append(("ignored (striped)", "#8c959f"))
    return entries


def _write(path: Path, figure: Figure) -> None:
    """Write a PNG without a date; write it under a temporary name, then rename it."""
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
