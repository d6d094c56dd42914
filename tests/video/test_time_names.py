"""Names of frames: the same frame has the same name wherever reading begins."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.video.sources import open_source
from pipeline.video.sources._decoder import Decoder
from tests.video.stamped import encode


def uneven(count: int) -> list[int]:
    """Timestamps in ms that are one, two or many frames apart."""
    steps = np.random.default_rng(5).choice([40, 80, 80, 200, 33], count - 1)
    return [0, *np.cumsum(steps).tolist()]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("x.mp4", "libx264", {"g": "8"}),
        ("x.mp4", "libx264", {"g": "8", "x264-params": "open-gop=1:bframes=3:b-adapt=0"}),
        ("x.mkv", "libx264", {"g": "8"}),
        ("x.ts", "libx264", {"g": "8"}),
        ("x.webm", "libvpx", {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "10"}),
        ("x.nut", "mpeg4", {"g": "8", "bf": "2"}),
        ("x.flv", "libx264", {"g": "8"}),
    ],
)
def test_a_frame_has_one_name_wherever_reading_begins(
    name: str, codec: str, options: dict[str, str], tmp_path: Path
) -> None:
    stamps = uneven(60)
    path = encode(tmp_path / name, stamps, codec=codec, options=options)
    whole = {f.name: (f.timestamp, f.picture.bgr()) for f in open_source(str(path)).frames()}
    assert list(whole) == [f"x-{number:06d}" for number in range(60)]
    for start in (0.05, 1.3, stamps[40] / 1000, stamps[59] / 1000):
        got = list(open_source(str(path)).frames(start=start))
        assert [f.name for f in got] == list(whole)[-len(got) :]
        for f in got[:3]:
            assert f.timestamp == whole[f.name][0]
            assert np.array_equal(f.picture.bgr(), whole[f.name][1])


def test_names_without_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fragmented MP4 has no index before it is read."""
    path = encode(tmp_path / "x.mp4", uneven(60), options={"g": "8"}, muxer={"movflags": "frag_keyframe+empty_moov"})
    expected = [(f.name, f.timestamp) for f in open_source(str(path)).frames() if f.timestamp and f.timestamp >= 2]
    assert 0 < len(expected) < 60
    monkeypatch.setattr("pipeline.video.sources._numbers._in_index", lambda *args, **options: pytest.fail("was used"))
    assert [(f.name, f.timestamp) for f in open_source(str(path)).frames(start=2)] == expected


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.ts", "x.flv", "x.mpg"])
def test_frames_before_the_start_are_not_decoded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = {".mpg": "mpeg2video"}.get(Path(name).suffix, "libx264")
    path = encode(tmp_path / name, range(100), codec=codec, unit=Fraction(1, 25), options={"g": "8", "bf": "2"})
    decoders: list[Decoder] = []
    real = Decoder.seek

    def seek(self: Decoder, start: float) -> Any:
        decoders.append(self)
        return real(self, start)

    monkeypatch.setattr(Decoder, "seek", seek)
    first = next(iter(open_source(str(path)).frames(start=3)))
    assert first.name == "x-000075"
    (decoder,) = decoders
    assert 1 <= decoder.decoded < 30


def test_damage_does_not_shift_names(tmp_path: Path) -> None:
    path = encode(tmp_path / "x.mp4", range(0, 8000, 40), options={"g": "10"})
    whole = {f.timestamp: f.name for f in open_source(str(path)).frames()}
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start + (end - start) // 4 : start + (end - start) // 3] = b"\xff" * ((end - start) // 3 - (end - start) // 4)
    path.write_bytes(data)
    source = open_source(str(path))
    left = {f.timestamp: f.name for f in source.frames()}
    assert 100 < len(left) < 200
    assert "could not be decoded" in source.damage
    assert set(left.values()) <= set(whole.values())
    assert {time: name for time, name in left.items() if time < 2 or time > 3}.items() <= whole.items()
    late = {f.timestamp: f.name for f in source.frames(start=6)}
    assert late.items() <= whole.items()
    assert len(late) == 50
