"""Files that were cut off are damaged; edit lists, dropped frames and late starts are not."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pipeline.video.sources import open_source
from tests.video.fakes import quarters
from tests.video.stamped import av, encode, evenly, overlay_times, remux, times


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.webm", "x.avi", "x.flv", "fragments.mp4"])
def test_formats_with_a_length_report_that_a_file_was_cut_off(
    reader: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    muxer = {"x.mp4": "faststart", "fragments.mp4": "frag_keyframe+empty_moov+default_base_moof"}.get(name)
    path = encode(
        tmp_path / name,
        range(80),
        codec={".webm": "libvpx", ".avi": "mpeg4"}.get(Path(name).suffix, "libx264"),
        unit=Fraction(1, 25),
        options={"g": "10"},
        muxer={"movflags": muxer} if muxer else None,
        noise=True,
    )
    whole = path.read_bytes()
    source = open_source(str(path))
    caplog.clear()  # without warnings about properties that the reader ignores
    assert len(list(source.frames())) == 80
    assert not caplog.records
    for share in (0.5, 0.8):
        path.write_bytes(whole[: round(len(whole) * share)])
        source = open_source(str(path))
        caplog.clear()
        assert not source.damage
        count = len(list(source.frames()))
        assert 10 < count < 80
        (text,) = [text for text in caplog.messages if "PyAV is not installed" not in text]
        assert f"damaged: {count} frames were read; " in text
        assert "it was cut off" in text
        assert source.damage in text


def test_a_gif_without_its_end_was_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.gif"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb8"
        for index in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(quarters(index), format="bgr24")))
        container.mux(stream.encode(None))
    assert len(times(path)) == 20
    assert not caplog.records
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 5 < len(times(path)) < 20
    assert "it was cut off" in caplog.text


def test_an_edit_list_is_no_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A part that was cut out of a video without encoding it: its first frames are there, but are not shown."""

    def earlier(number: int, packet: Any) -> None:
        packet.pts -= 800
        packet.dts -= 800

    plain = encode(tmp_path / "plain.mkv", range(0, 2400, 40), options={"bf": "0", "g": "60"})
    path = remux(plain, tmp_path / "x.mp4", earlier, avoid_negative_ts="disabled")
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 60
    source = open_source(str(path))
    got = list(source.frames())
    assert [f.name for f in got] == [f"x-{number:06d}" for number in range(40)]
    assert [f.timestamp for f in got] == evenly(40)
    assert [f.name for f in source.frames(start=1)] == [f.name for f in got[25:]]
    assert (source.damage, source.count) == ("", 40)
    assert not caplog.records


def test_dropped_frames_of_an_avi_are_no_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = encode(tmp_path / "plain.avi", range(60), codec="mpeg4", unit=Fraction(1, 25))
    path = remux(plain, tmp_path / "x.avi", lambda number, packet: number not in (10, 11, 12, 30))
    source = open_source(str(path))
    got = [f.timestamp for f in source.frames()]
    assert got == pytest.approx([n / 25 for n in range(60) if n not in (10, 11, 12, 30)], abs=1e-3)
    assert source.damage == ""
    assert not caplog.records


def test_a_recording_that_begins_between_key_frames_is_no_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = encode(
        tmp_path / "x.ts", range(0, 2400, 40), options={"g": "20", "bf": "0"}, muxer={"mpegts_flags": "+resend_headers"}
    )
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    path.write_bytes(data[: 3 * 188] + data[places[7] :])
    source = open_source(str(path))
    names = [f.name for f in source.frames()]
    assert len(names) >= 40
    assert names == [f"x-{number:06d}" for number in range(len(names))]
    assert source.damage == ""
    assert "damaged" not in caplog.text
    assert [f.name for f in source.frames(start=1)] == names[-len(list(source.frames(start=1))) :]


def test_damage_has_its_own_exit_status(infer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = encode(tmp_path / "x.mkv", range(0, 2400, 40), options={"g": "10"})
    whole = path.read_bytes()
    assert infer(path, "--out", "o.mp4", "--json", "s.json") == 0
    summary = json.loads(Path("s.json").read_text())
    assert (summary["damage"], summary["status"]) == (None, 0)
    assert "damaged" not in capsys.readouterr().out
    path.write_bytes(whole[: len(whole) // 2])
    assert infer(path, "--out", "o.mp4", "--json", "s.json") == 3
    summary = json.loads(Path("s.json").read_text())
    assert summary["status"] == 3
    assert summary["frames"] == len(overlay_times("o.mp4")) > 10
    assert f"{len(whole) - len(whole) // 2} bytes or more are missing" in summary["damage"]
    assert f"the source is damaged: {summary['damage']}; exit status 3\n" in capsys.readouterr().out
    assert infer(path, "--limit", 5, "--out", "o.mp4") == 0, "what was asked for is there"
    with pytest.raises(SystemExit):
        infer("--help")
    assert "3 some input was damaged or skipped" in " ".join(capsys.readouterr().out.split())
