"""A published network, from its ONNX file to the results: TwinLiteNet's road on CamVid."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from ruamel.yaml import YAML

from pipeline import artifact, runtimes
from pipeline.reporting import results as reporting

pytestmark = pytest.mark.slow  # every stage is a process: 90 seconds in all
ROOT = Path(__file__).parents[2]
MODEL = "weights/onnx/twinlitenet_bdd100k_drivable_lane.onnx"
DESCRIPTION = {
    "model": "twinlitenet.onnx",
    "head": "da",
    "output": "logits",
    "channel_order": "RGB",
    "classes": ["background", "road"],
    "palette": [[40, 40, 40], [128, 64, 128]],
    "merge": {"road": ["road"]},
    "rest": "background",
}


def stage(name: str, *arguments: str | Path) -> str:
    return printed_by(str(ROOT / "stages" / f"{name}.py"), *arguments)


def verb(name: str, *arguments: str | Path) -> str:
    return printed_by("-m", "pipeline.verbs", name, *arguments)


def printed_by(*arguments: str | Path) -> str:
    command = [sys.executable, *map(str, arguments)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def run(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """`segpress import` on twelve train and six val frames of CamVid."""
    folder = tmp_path_factory.mktemp("own")
    for split, count in (("train", 12), ("val", 6)):
        lines = (real_data / "camvid" / f"{split}.txt").read_text().splitlines()
        lines = lines[:: len(lines) // count][:count]
        (folder / "camvid").mkdir(exist_ok=True)
        (folder / "camvid" / f"{split}.txt").write_text("\n".join(lines) + "\n")
        for kind in (split, f"{split}annot"):
            (folder / "camvid" / kind).mkdir()
            for line in lines:
                name = Path(line.split()[0]).name
                shutil.copy(real_data / "camvid" / kind / name, folder / "camvid" / kind / name)
    shutil.copy(real_data / MODEL, folder / "twinlitenet.onnx")
    raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    raw.update(dataset="camvid")
    raw["datasets"]["camvid"]["root"] = str(folder / "camvid")
    raw["calibrate"].update(images=6, allow_missing_classes=False)
    raw["quantize"].update(trial_images=0, float_layers=[])
    raw["check"].update(runs=10, warmup=1, seconds=0.0, samples=1)
    for name, content in (("params.yaml", raw), ("twin.yaml", DESCRIPTION)):
        with (folder / name).open("w") as stream:
            YAML().dump(content, stream)
    values, described = ("--params", folder / "params.yaml"), folder / "twin.yaml"
    stage("prepare", *values, "--out", folder / "prepared")
    out = folder / "twin"
    printed = verb("import", described, "--dataset", folder / "prepared", "--out", out, *values)
    results = json.loads((out / "results/twin.json").read_text())
    return SimpleNamespace(
        folder=out,
        prepared=folder / "prepared",
        described=described,
        data=out / "dataset",
        onnx=out / "onnx/twin",
        int8=out / "int8/twin",
        printed=printed,
        results=results,
        values=values,
    )


def test_the_deploy_graph_is_the_published_network(run: Any, real_data: Path) -> None:
    parity = artifact.load(run.onnx, kind="onnx").meta["parity"]
    assert parity["agreement"]["fp32"] > 0.9999 and parity["agreement"]["fp16"] > 0.999
    assert parity["class_share"]["road"] > 0.1 and "share of each class on 8 train frames: " in run.printed
    video = cv2.VideoCapture(str(real_data / "video/solidWhiteRight.mp4"))
    engine, _ = runtimes.open_engine(run.folder / "engines/twin/fp32")
    original = onnxruntime.InferenceSession(str(real_data / MODEL), providers=["CPUExecutionProvider"])
    for place in (10, 200):
        video.set(cv2.CAP_PROP_POS_FRAMES, place)
        frame = cv2.resize(video.read()[1], (640, 360), interpolation=cv2.INTER_AREA)
        image = (frame[:, :, ::-1].astype(np.float32) / 255).transpose(2, 0, 1)[None]
        expected = original.run(["da"], {"images": np.ascontiguousarray(image)})[0][0].argmax(axis=0)
        assert 0.2 < expected.mean() < 0.5  # a motorway: its lower half, without the verge
        assert (engine.run(frame[None])[0] == expected).mean() > 0.9999


def test_road_is_segmented_and_int8_keeps_it(run: Any) -> None:
    results = run.results
    assert (results["student"], results["loss"], results["classes"]) == ("twin", "imported", ["background", "road"])
    assert results["model"] == "onnx twinlitenet.onnx da" and results["images"] == 6 and "teacher" not in results
    road = {name: variant["per_class_iou"][1] for name, variant in results["variants"].items()}
    assert set(road) == {"fp32", "fp16", "int8"}
    assert road["fp32"] > 70 and abs(road["fp16"] - road["fp32"]) < 0.5 and road["int8"] > road["fp32"] - 6
    assert results["drop"]["miou_int8_vs_float"] == pytest.approx(
        results["variants"]["fp32"]["miou"] - results["variants"]["int8"]["miou"], abs=1e-3
    )
    assert "miou_int8_vs_teacher" not in results["drop"]


def test_the_report_reads_it(run: Any) -> None:
    (row,) = reporting.load(run.folder / "results")
    assert row.reference is row.fp32 and row.teacher.miou is None
    page = (run.folder / "report/index.html").read_text()
    assert "twinlitenet.onnx" in page and "float prediction" in page
    assert "| twin | imported | not measured |" in (run.folder / "report/table.md").read_text()
    rows = (run.folder / "results/twin.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 2 and not [line for line in rows if "teacher" in line]


def test_it_has_a_model_card(run: Any) -> None:
    text = (run.folder / "results/twin.md").read_text()
    assert "trained elsewhere and imported by segpress" in text and "segpress infer OUT/engines/twin drive.mp4" in text
    assert run.results["commercial"] is False and "Commercial use: **no**" in text
    roles = [(each["role"], each["name"]) for each in run.results["licences"]]
    assert roles == [("weights", None), ("calibration data", "CC BY-NC 4.0")]
    assert f"- INT8 mIoU: {run.results['variants']['int8']['miou']:.2f}" in text
    mean = ", ".join(f"{value:g}" for value in artifact.load(run.onnx, kind="onnx").meta["mean"])
    assert f"mean {mean};" in text and "Images: " in text and str(run.folder) not in text


def test_a_second_run_skips_unchanged_steps(run: Any) -> None:
    where = (run.described, "--dataset", run.prepared, "--out", run.folder, *run.values)
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.onnx")}
    printed = verb("import", *where)
    steps = [line for line in printed.splitlines() if line.startswith("[")]
    assert (
        len(steps) == 8 and [line for line in steps if "unchanged" not in line] == [steps[4]] and "device" in steps[4]
    )
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.onnx")} == before


def test_a_bundle_needs_no_student(run: Any) -> None:
    out = run.folder / "twin.tar.gz"
    verb("bundle", "twin", "--artifacts", run.folder, *run.values, "--images", "2", "--out", out)
    (run.folder / "unpacked").mkdir()
    subprocess.run(["tar", "xzf", out], cwd=run.folder / "unpacked", check=True)
    process = subprocess.run(
        ["sh", str(run.folder / "unpacked/twin/run.sh")],
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.folder / "unpacked/twin/results.json").exists(), process.stderr
    results = json.loads((run.folder / "unpacked/twin/results.json").read_text())
    assert set(results) == set(run.results) and (results["student"], results["loss"]) == ("twin", "imported")
    assert results["quantization"]["in_float"] == run.results["quantization"]["in_float"]
    assert results["licences"] == run.results["licences"] and results["commercial"] is False
    card, here = ((folder / name).read_text() for folder, name in (
        (run.folder / "unpacked/twin", "MODEL_CARD.md"), (run.folder / "results", "twin.md"),
    ))  # fmt: skip
    assert card.partition("## How to run")[0] == here.partition("## How to run")[0], "the same network, measured here"


def test_a_data_set_in_other_classes_is_refused(run: Any) -> None:
    command = [
        sys.executable, str(ROOT / "stages/check.py"), *map(str, run.values), "--device", run.folder / "device.json",
        "--dataset", run.prepared, "--engines", run.folder / "engines/twin",
        "--predictions", run.folder / "p", "--out", run.folder / "r.json",
    ]  # fmt: skip
    process = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 1 and "background, road; use the data set of the network" in process.stderr
    assert "segpress import OWN.yaml --until dataset" in process.stderr and not (run.folder / "r.json").exists()


@pytest.mark.parametrize("file", ["onnx/twin/fp32.onnx", "onnx/twin/fp16.onnx", "int8/twin/int8_tensorrt.onnx"])
def test_tensorrt_builds_it(run: Any, tmp_path: Path, file: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx builds engines without a GPU: pip install segpress[rtx]")
    runtime = runtimes.build("tensorrt_rtx", {"compute_capabilities": ["SM86"], "workspace_mib": 256})
    build: Callable[..., Any] = runtime.build
    printed = build(run.folder / file, tmp_path / "engine.plan")
    assert (tmp_path / "engine.plan").stat().st_size > 1_000_000
    kinds = {kind for precisions in printed["precisions"].values() for kind in precisions}
    expected = {"fp32.onnx": {"float32"}, "fp16.onnx": {"float16"}, "int8_tensorrt.onnx": {"float16", "int8"}}
    assert kinds == expected[Path(file).name]
    assert set(printed["precisions"]) >= {"convolution", "deconvolution"}
