"""Which frames calibrate: every class among them, and otherwise chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.quantization.calibration_frames import choose, require_classes

NAMES = ("road", "car", "rider")


def shares(frames: int, *, riders: tuple[int, ...], share: float = 0.01) -> Any:
    found = np.tile([0.7, 0.3, 0.0], (frames, 1))
    found[list(riders), 2] = share
    return found


def test_drawn_with_a_seed_and_without_repeats() -> None:
    found = shares(50, riders=(3,))
    chosen = choose(found, count=12, seed=4)
    assert chosen == choose(found, count=12, seed=4) == sorted(set(chosen))
    assert chosen != choose(found, count=12, seed=5)
    assert len(chosen) == 12 and set(chosen) <= set(range(50))
    assert choose(found, count=80, seed=4) == list(range(50))


def test_every_frame_has_its_chance() -> None:
    counts = np.zeros(50)
    for seed in range(300):
        counts[choose(shares(50, riders=()), count=12, seed=seed)] += 1
    assert 30 < counts.min() <= counts.max() < 120  # 72 expected, sd 7.4


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_has_its_part(seed: int) -> None:
    riders = (7, 30, 44, 71, 90)
    chosen = choose(shares(100, riders=riders), count=12, seed=seed)
    assert len(set(chosen) & set(riders)) == 4  # 12 frames, 3 classes
    assert len(chosen) == 12


def test_specks_count_only_where_there_is_nothing_larger() -> None:
    found = shares(100, riders=(5, 6, 7), share=1e-5)
    assert set(choose(found, count=9, seed=0)) >= {5, 6, 7}
    found[50, 2] = 0.02
    assert 50 in choose(found, count=9, seed=0)


def test_missing_classes_are_named() -> None:
    nobody = shares(10, riders=())
    with pytest.raises(UserError, match=r"no train frame shows rider; .*calibrate\.allow_missing_classes"):
        require_classes(nobody, [0, 1], NAMES, allow_missing=False)
    require_classes(nobody, [0, 1], NAMES, allow_missing=True)
    one = shares(10, riders=(4,))
    for allow in (True, False):
        with pytest.raises(
            UserError, match=r"calibrate\.images: the 2 chosen frames do not show rider; .* 3 frames always"
        ):
            require_classes(one, [0, 1], NAMES, allow_missing=allow)
    require_classes(one, choose(one, count=3, seed=0), NAMES, allow_missing=False)
