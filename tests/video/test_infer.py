"""The stage: the real script with the fake engine instead of a loaded one."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.frames import read_frame, read_label_map
from pipeline.labels import LabelSpec
from tests.video.test_sound import film as film_of_sound

SCRIPT = Path(__file__).parents[2] / "stages/infer.py"


def test_video(infer: Any, engine: Any, make_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    video = make_video()
    assert infer(video, "--limit", 5, "--masks", "m", "--out", "o.mp4", "--json", "s/summary.json") == 0
    assert engine.closed
    assert sorted(p.name for p in Path().iterdir()) == ["m", "o.mp4", "s"]
    meta = json.loads(Path("s/summary.json").read_text())
    assert (meta["frames"], meta["engine"], meta["source"]) == (5, "e", str(video))
    text = capsys.readouterr().out
    assert "5 frames in " in text
    for path in ("o.mp4", "m", "s/summary.json"):
        assert f"written: {path}\n" in text


def test_sound_and_streams(infer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    av = pytest.importorskip("av")
    film_of_sound(tmp_path / "film.mp4")
    assert infer(tmp_path / "film.mp4", "--audio", "--stream", 0, "--no-tone-map", "--no-deinterlace") == 0
    with av.open("film-overlay.mp4") as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
    assert infer(tmp_path / "film.mp4", "--out", "o", "--audio") == 1
    assert "error: --audio copies sound into an overlay video" in capsys.readouterr().err
    assert infer(tmp_path / "film.mp4", "--stream", 1) == 1
    assert "error: " in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["film-overlay.mp4"]


def test_defaults(infer: Any, folder: Path) -> None:
    assert infer(folder / "a.png") == 0
    assert infer(folder, "--no-legend") == 0
    assert sorted(p.name for p in Path().iterdir()) == ["a-overlay.png", "frames-overlay.mp4"]


def test_without_av(
    infer: Any, make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    video = make_video()
    monkeypatch.setitem(sys.modules, "av", None)
    assert infer(video) == 1
    assert "error: drive-overlay.mp4: H.264 needs PyAV: pip install av; or write masks" in capsys.readouterr().err
    assert infer(video, "--masks", "m") == 0
    assert infer(video, "--out", "pictures") == 0
    assert len(list(Path("m").glob("*.png"))) == len(list(Path("pictures").glob("*.png"))) == 8


def test_ctrl_c_keeps_finished_frames(
    infer: Any,
    engine: Any,
    make_video: Callable[..., Path],
    ctrl_c: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    av = pytest.importorskip("av")
    ctrl_c(2)
    assert infer(make_video(count=200), "--masks", "m", "--out", "o.mp4", "--json", "s.json") == 130
    assert engine.closed
    output = capsys.readouterr().out
    assert "(interrupted)" in output
    frames = json.loads(Path("s.json").read_text())["frames"]
    assert 1 <= frames < 200
    assert len(list(Path("m").glob("*.png"))) == frames
    with av.open("o.mp4") as container:
        assert len(list(container.decode(video=0))) == frames


def test_ctrl_c_during_the_warm_up_leaves_nothing(
    infer: Any, engine: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(frames: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "run", interrupt)
    assert infer(folder, "--masks", "m", "--out", "o.mp4", "--json", "s.json") == 130
    assert not list(Path().iterdir())
    assert engine.closed
    assert capsys.readouterr().err.startswith("interrupted: ")


def test_options_that_change_pictures_and_masks(infer: Any, folder: Path, labels: LabelSpec) -> None:
    def masks(*args: object) -> Any:
        assert infer(folder / "a.png", "--masks", "m", *args) == 0
        return read_label_map(Path("m/a.png"))

    whole = masks()
    assert np.array_equal(whole[0, ::16], [0, 1, 2, 3])
    assert np.array_equal(masks("--region", "32,0,32,48")[0, ::16], [255, 255, 2, 3])
    assert np.array_equal(masks("--resize", "letterbox"), whole), "the same shape"
    assert (masks("--resize", "crop", "--region", "0,0,64,24")[:24] != 255).any()
    assert np.array_equal(masks("--smooth"), whole)
    assert infer(folder / "a.png", "--out", "o.png", "--side-by-side", "--only", "car", "--alpha", 1) == 0
    picture = read_frame(Path("o.png"))
    assert picture.shape == (48, 128, 3)
    assert (picture[:, 64 + 16 : 64 + 32] == labels.palette[1][::-1]).all()
    assert np.array_equal(picture[:, 64 + 32 :], picture[:, 32:64])


def test_lines_on_standard_output(infer: Any, folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert infer(folder, "--lines", "-") == 0
    output = capfdbinary.readouterr()
    lines = [json.loads(line) for line in output.out.splitlines()]
    assert [line["frame"] for line in lines] == ["a", "b", "c"]
    assert lines[0]["shares"] == {"road": 0.25, "car": 0.25, "sky": 0.25, "tree": 0.25}
    assert b"3 frames in" in output.err, "the summary goes elsewhere"


def test_benchmark(infer: Any, make_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert infer(make_video(), "--benchmark", "--json", "b.json") == 0
    output = capsys.readouterr().out
    for text in ("p50 ms", "waiting", "age", "engine alone, before and after: ", " of it"):
        assert text in output
    assert [path.name for path in Path().iterdir()] == ["b.json"]
    assert json.loads(Path("b.json").read_text())["engine_alone_fps"] > 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--alpha", "2"], "error: alpha is 2.0; allowed: 0"),
        (["--only", "roadd"], "error: --only: 'roadd' is no class of this engine; did you mean 'road'?"),
        (["--region", "1,2"], "error: region: got '1,2'; needed: left,top,width,height"),
        (["--start", "1"], "images have no time; choose them by --every, --limit or a pattern"),
        (["--masks", "m", "--ids", "original"], "error: "),
        (["--json", "/dev/null/s.json"], "error: /dev/null/s.json: cannot be written"),
        (["--out", "/dev/null/o.mp4"], "error: /dev/null/o.mp4: cannot be written"),
    ],
)
def test_user_errors(
    infer: Any, engine: Any, folder: Path, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer(folder, *args) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert engine.calls <= 1
    assert not list(Path().iterdir())


def test_stream_out(infer: Any, make_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    av = pytest.importorskip("av")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}/live/x"
    times: list[float] = []

    def receive() -> None:
        with (
            av.open(f"rtmp://{address}", options={"listen": "1"}, timeout=5) as container,
            contextlib.suppress(av.error.OSError),  # the error at the end of the stream
        ):
            times.extend(frame.time for frame in container.decode(video=0))

    receiver = threading.Thread(target=receive, daemon=True)
    receiver.start()
    time.sleep(0.3)
    assert infer(make_video(count=20), "--out", f"rtmp://me:s3cret@{address}", "--json", "s.json") == 0
    receiver.join(5)
    assert times == pytest.approx([index / 25 for index in range(20)], abs=2e-3)
    meta = json.loads(Path("s.json").read_text())
    assert meta["stream"] == {"to": f"rtmp://{address}", "sent": 20, "dropped": 0, "connections": 1}
    assert meta["seconds"] > 19 / 25, "in real time"
    output = capsys.readouterr()
    assert f"sent to rtmp://{address}: 20 frames, 0 dropped\n" in output.out
    assert "s3cret" not in output.out + output.err + Path("s.json").read_text()
    assert [path.name for path in Path().iterdir()] == ["s.json"]


def test_playlist(infer: Any, make_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    av = pytest.importorskip("av")
    assert infer(make_video(count=60), "--out", "hls/live.m3u8") == 0
    assert "written: hls/live.m3u8\n" in capsys.readouterr().out
    with av.open("hls/live.m3u8") as container:
        assert len(list(container.decode(video=0))) == 60
    assert len(list(Path("hls").iterdir())) == 3


@pytest.mark.parametrize("address", ["rstp://me:s3cret@host/x", "udp://me:s3cret@host", "rtsp:/me:s3cret@host/x"])
def test_bad_address_before_anything_is_opened(infer: Any, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert infer("gone.mp4", "--out", address) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: --out ")
    assert error.count("\n") == 1
    assert "s3cret" not in error


@pytest.mark.parametrize("args", [["--limit", "0"], ["--limit", "x"], ["--threads", "-1"]])
def test_bad_option_values(infer: Any, folder: Path, args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        infer(folder, *args)
    assert raised.value.code == 2
    assert f"argument {args[0]}: got '{args[1]}'; allowed: a whole number from 1" in capsys.readouterr().err


def test_runs_from_any_folder_without_installation(tmp_path: Path) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        # -P would hide stages/; -E ignores the PYTHONPATH of the test run
        command = [sys.executable, "-E", str(SCRIPT), *args]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    helped = run("--help")
    assert helped.returncode == 0, helped.stderr
    assert "infer.py ENGINE rtsp://camera/1 --serve 8080" in helped.stdout
    assert max(map(len, helped.stdout.splitlines())) <= 120
    missing = run("engine", "gone.mp4")
    assert missing.returncode == 1
    assert missing.stderr == (
        "error: gone.mp4: no such file or folder; give a video, an image, a folder of images, a quoted pattern, the "
        "number of a camera, an address (rtsp://...) or a GStreamer pipeline\n"
    )


def test_zones(infer: Any, make_video: Callable[..., Path]) -> None:
    bonnet = {"name": "bonnet", "unit": "shares", "ignore": True, "points": [[0, 0.5], [1, 0.5], [1, 1], [0, 1]]}
    sky = {"name": "sky", "points": [[0, 0], [64, 0], [64, 24], [0, 24]]}
    Path("zones.json").write_text(json.dumps({"zones": [sky, bonnet]}))
    outputs = ("--masks", "m", "--lines", "l.jsonl", "--json", "s.json")
    assert infer(make_video(), "--limit", 2, "--zones", "zones.json", *outputs) == 0
    line = json.loads(Path("l.jsonl").read_text().splitlines()[0])
    assert list(line["zones"]) == ["sky"]
    assert line["zones"]["sky"]["shares"] == pytest.approx(line["shares"], abs=1e-5)
    assert list(json.loads(Path("s.json").read_text())["zones"]) == ["sky"]
    mask = read_label_map(sorted(Path("m").glob("*.png"))[0])
    assert (mask[24:] == 255).all() and (mask[:24] < 4).all()


def test_a_zone_outside_the_frame(
    infer: Any, make_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("zones.json").write_text(json.dumps({"zones": [{"name": "far", "points": [[0, 0], [640, 0], [0, 480]]}]}))
    assert infer(make_video(), "--zones", "zones.json") == 1
    assert "zone 'far': point [640.0, 0.0] is outside the frame, which is 64x48" in capsys.readouterr().err
