"""The kept frames on which students differ most, chosen by their INT8 label maps.

The measure: the share of a frame's labelled pixels on which at least one student is right and at least one is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.reporting import samples
from pipeline.reporting.samples import FRAMES, Kept, Tile
from pipeline.reporting.wording import fixed

#: Frames that are shown.
SHOWN = 3


@dataclass(frozen=True)
class Frame:
    """One frame; ``share`` is percent of the labelled pixels."""

    name: str
    share: float
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Differing:
    """The frames, the largest share first, and how many they were chosen from; or the reason why there are none."""

    frames: Sequence[Frame] = ()
    among: int = 0
    reason: str = ""


def share(label: Array, predictions: Sequence[Array], *, ignored: int) -> float:
    """Percent of the labelled pixels on which one prediction is right and another one is wrong.

    Args:
        label: train ids (H, W).
        predictions: label maps (H, W), one per student.
        ignored: id of the pixels that are not labelled.
    """
    counted = label != ignored
    right = np.stack([prediction == label for prediction in predictions])  # (S, H, W)
    return samples.share(counted & right.any(axis=0) & ~right.all(axis=0), counted)


def most(kept: Mapping[str, Kept | None], labels: LabelSpec) -> Differing | None:
    """The frames on which students differ most.

    Args:
        kept: the kept frames by student label; None for a student without predictions.
        labels: class colours and the ignored id.

    Returns:
        None for fewer than two students, or where the sample frames show every kept frame already.

    Raises:
        UserError: a prediction is damaged or has another size than its label.
    """
    students = {name: frames for name, frames in kept.items() if frames is not None}
    if len(kept) < 2 or max((len(frames.names) for frames in students.values()), default=0) <= FRAMES:
        return None
    if missing := sorted(set(kept) - set(students)):
        return Differing(reason=f"no predictions of {', '.join(missing)} are kept")
    first = next(iter(students.values()))
    if any((frames.split.name, frames.names) != (first.split.name, first.names) for frames in students.values()):
        return Differing(reason="the checks of the students kept different frames")
    shares = {}
    for name in first.names:
        _, label = first.sample(name)
        maps = [frames.prediction("int8", name, label) for frames in students.values()]
        known = [each for each in maps if each is not None]
        if len(known) < len(maps):
            return Differing(reason="not every student has INT8 predictions")
        shares[name] = share(label, known, ignored=labels.ignore_index)
    chosen = sorted(shares, key=lambda name: -shares[name])[:SHOWN]
    return Differing([_frame(name, shares[name], students, labels) for name in chosen], among=len(shares))


def _frame(name: str, value: float, students: Mapping[str, Kept], labels: LabelSpec) -> Frame:
    frame, label = next(iter(students.values())).sample(name)
    counted = label != labels.ignore_index
    tiles = [Tile("frame", samples.picture(frame)), Tile("label", samples.painted(label, labels))]
    for student, frames in students.items():
        ids = frames.prediction("int8", name, label)
        assert ids is not None
        wrong = samples.share(counted & (ids != label), counted)
        tiles.append(Tile(f"{student}: {fixed(wrong)}% wrong", samples.painted(ids, labels)))
    return Frame(name, value, tuple(tiles))
