"""The calibration frames: random, but every class is in at least one of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.quantization.calibration_frames import choose, require_classes

NAMES = ("road", "car", "rider")


def shares(frames: int, *, riders: tuple[int, ...], share: float = 0.01) -> Any:
    table = np.tile([0.7, 0.3, 0.0], (frames, 1))
    table[list(riders), 2] = share
    return table


def test_drawn_with_a_seed_and_without_repeats() -> None:
    table = shares(50, riders=(3,))
    chosen = choose(table, count=12, seed=4)
    assert chosen == choose(table, count=12, seed=4) == sorted(set(chosen))
    assert chosen != choose(table, count=12, seed=5)
    assert len(chosen) == 12 and set(chosen) <= set(range(50))
    assert choose(table, count=80, seed=4) == list(range(50))


def test_every_frame_is_chosen_with_the_same_probability() -> None:
    counts = np.zeros(50)
    for seed in range(300):
        counts[choose(shares(50, riders=()), count=12, seed=seed)] += 1
    assert 30 < counts.min() <= counts.max() < 120  # 72 expected, sd 7.4


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_has_its_share_of_the_frames(seed: int) -> None:
    riders = (7, 30, 44, 71, 90)
    chosen = choose(shares(100, riders=riders), count=12, seed=seed)
    assert len(set(chosen) & set(riders)) == 4  # 12 frames, 3 classes
    assert len(chosen) == 12


def test_tiny_objects_count_only_for_classes_without_larger_ones() -> None:
    table = shares(100, riders=(5, 6, 7), share=1e-5)
    assert set(choose(table, count=9, seed=0)) >= {5, 6, 7}
    table[50, 2] = 0.02
    assert 50 in choose(table, count=9, seed=0)


def test_missing_classes_are_named() -> None:
    without_riders = shares(10, riders=())
    with pytest.raises(UserError, match=r"no train frame shows rider; .*calibrate\.allow_missing_classes"):
        require_classes(without_riders, [0, 1], NAMES, allow_missing=False)
    require_classes(without_riders, [0, 1], NAMES, allow_missing=True)
    with_rider = shares(10, riders=(4,))
    for allow in (True, False):
        with pytest.raises(
            UserError, match=r"calibrate\.images: the 2 chosen frames do not show rider; .* 3 frames always"
        ):
            require_classes(with_rider, [0, 1], NAMES, allow_missing=allow)
    require_classes(with_rider, choose(with_rider, count=3, seed=0), NAMES, allow_missing=False)
