"""Rules of events: when they begin and end, compared with a plain reference and exact values; and the clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from pipeline.video.rules import Change, Clock, Moment, Rule, Watch

RULE = Rule("car", ("car",), (1,), None, share=0.5, above=True, until=0.5, seconds=1.0, pause=1.0)


def changes(rule: Rule, times: Sequence[float], shares: Sequence[float], *, end: bool = True) -> list[Change]:
    watch = Watch(rule)
    results = [watch.see(Moment(time, None), share) for time, share in zip(times, shares, strict=True)]
    return [change for change in [*results, watch.end() if end else None] if change is not None]


def as_tuples(events: Sequence[Change]) -> list[tuple[bool, float, float, float]]:
    return [(change.begins, change.now.seconds, change.since.seconds, change.until.seconds) for change in events]


def reference(rule: Rule, times: Sequence[float], shares: Sequence[float]) -> list[tuple[bool, float, float, float]]:
    """The same from whole lists: it looks at all frames, and has no state."""
    sign = 1 if rule.above else -1
    holds = [sign * share > sign * rule.share for share in shares]
    goes_on = [sign * share > sign * rule.until for share in shares]
    results, start = list[tuple[bool, float, float, float]](), 0
    while True:
        # every stretch of frames from `start` on that holds without a gap and is long enough
        stretches = [
            (last, first)
            for first in range(start, len(times))
            for last in range(first, len(times))
            if all(holds[first : last + 1]) and times[last] - times[first] >= rule.seconds - 1e-6
        ]
        if not stretches:
            return results
        begin, since = min(stretches)
        results.append((True, times[begin], times[since], times[begin]))
        ends = [
            (end, until)
            for end in range(begin + 1, len(times))
            for until in range(begin, end)
            if goes_on[until]
            and not any(goes_on[until + 1 : end + 1])
            and times[end] - times[until] >= rule.pause - 1e-6
        ]
        if not ends:
            until = max(index for index in range(begin, len(times)) if goes_on[index])
            results.append((False, times[-1], times[since], times[until]))
            return results
        end, until = min(ends)
        results.append((False, times[end], times[since], times[until]))
        start = end + 1


@pytest.mark.parametrize("seed", range(60))
def test_events_are_those_of_a_plain_reference(seed: int) -> None:
    random = np.random.default_rng(seed)
    above = bool(random.integers(2))
    share = 0.5
    rule = replace(
        RULE,
        above=above,
        until=share + (-1 if above else 1) * random.choice([0.0, 0.1, 0.4]),
        seconds=float(random.choice([0.0, 0.04, 0.2, 1.0])),
        pause=float(random.choice([0.0, 0.04, 0.2, 1.0])),
    )
    count = 60
    steps = np.full(count, 0.04) if seed % 3 else random.uniform(0.01, 0.5, count)
    times = [float(time) for time in np.cumsum(steps)]
    # a slow wave, and flicker: long situations with short gaps
    wave = 0.5 + 0.3 * np.sin(np.arange(count) / random.uniform(2, 9)) + random.uniform(-0.25, 0.25, count)
    shares = [float(value) for value in np.round(wave, 2)]
    expected = reference(rule, times, shares)
    assert as_tuples(changes(rule, times, shares)) == expected


def test_the_reference_sees_events() -> None:
    times = [0.1 * index for index in range(40)]
    shares = [1.0] * 15 + [0.0] * 25
    assert len(reference(RULE, times, shares)) == 2, "the test above compares something"


def test_exact_values() -> None:
    times = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0]
    shares = [0.5, 0.6, 0.7, 0.9, 0.6, 0.5, 0.6, 0.4, 0.3, 0.2, 0.9]
    begin, end = changes(RULE, times, shares)
    # 0.5 is not above 0.5; 0.6 at 0.5 s holds for a second at 1.5 s; one frame of 0.5 is a pause of less than a second
    assert as_tuples([begin, end]) == [(True, 1.5, 0.5, 1.5), (False, 4.0, 0.5, 3.0)]
    assert (begin.share, begin.peak, end.share, end.peak) == (0.9, 0.9, 0.3, 0.9)


def test_a_situation_that_is_too_short_is_no_event() -> None:
    times = [0.04 * index for index in range(50)]
    assert changes(RULE, times, [1.0] * 25 + [0.0] * 25) == [], "0.96 s"
    assert len(changes(RULE, times, [1.0] * 26 + [0.0] * 24)) == 2, "1.00 s"


def test_hysteresis_makes_one_event_of_one_situation() -> None:
    times = [0.1 * index for index in range(100)]
    shares = [0.55 if index % 20 < 10 else 0.45 for index in range(100)]  # a second of each
    flickers = replace(RULE, seconds=0.5, pause=0.5)
    assert len(changes(flickers, times, shares)) == 10
    assert as_tuples(changes(replace(flickers, until=0.4), times, shares))[0] == (True, 0.5, 0.0, 0.5)
    assert len(changes(replace(flickers, until=0.4), times, shares)) == 2
    assert len(changes(replace(flickers, pause=1.5), times, shares)) == 2, "so does a pause"


def test_below() -> None:
    rule = replace(RULE, share=0.2, until=0.3, above=False, seconds=0.0, pause=0.0)
    begin, end = changes(rule, [0, 1, 2, 3, 4], [0.2, 0.1, 0.25, 0.05, 0.3])
    assert as_tuples([begin, end]) == [(True, 1, 1, 1), (False, 4, 1, 3)]
    assert end.peak == 0.05, "the smallest share"


def test_an_event_that_goes_on_at_the_end() -> None:
    assert as_tuples(changes(RULE, [0, 1, 2], [1, 1, 1])) == [(True, 1, 0, 1), (False, 2, 0, 2)]
    assert changes(RULE, [0, 0.5], [1, 1]) == [], "it had not begun"


def test_shares_of_the_frame_and_of_a_zone() -> None:
    frame = np.bincount([0, 0, 0, 0, 1, 1, 2, 255], minlength=256)
    zones = {"lane": np.bincount([1, 1, 1, 2], minlength=256), "empty": np.zeros(256, np.int64)}
    assert RULE.share_of(frame, zones) == 0.25
    assert replace(RULE, classes=("car", "sky"), ids=(1, 2)).share_of(frame, zones) == 0.375
    assert replace(RULE, zone="lane").share_of(frame, zones) == 0.75
    assert replace(RULE, zone="empty").share_of(frame, zones) == 0.0


def test_the_clock_is_that_of_the_source() -> None:
    clock = Clock()
    assert clock.at(7.5, 100.0) == Moment(0.0, 7.5)
    assert clock.at(7.75, 900.0) == Moment(0.25, 7.75), "for any time of arrival"
    assert clock.at(2.0, 901.0) == Moment(0.25, 2.0), "joined recordings: no time passes"
    assert clock.at(2.5, 902.0) == Moment(0.75, 2.5)


def test_the_clock_of_arrivals_where_the_source_has_none() -> None:
    clock = Clock()
    assert [clock.at(None, time).seconds for time in (100.0, 100.5, 103.0)] == [0.0, 0.5, 3.0]
    assert clock.at(50.0, 104.0) == Moment(4.0, 50.0)
    assert clock.at(51.5, 110.0) == Moment(5.5, 51.5)


def test_the_clock_of_images() -> None:
    clock = Clock(pace=4.0)
    assert [clock.at(None, time).seconds for time in (100.0, 100.001, 103.0)] == [0.0, 0.25, 0.5]
