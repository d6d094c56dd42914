"""The bundle: its content, its run with only numpy, OpenCV and ONNX Runtime, and the input that it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import grimp
import numpy as np
import pytest

from pipeline import artifact, verbs
from pipeline.bundle import archive
from pipeline.errors import UserError
from pipeline.evaluation import fastest
from pipeline.frames import read_frame, write_png
from pipeline.prepared import Prepared
from pipeline.reporting import results as reporting
from pipeline.video.engines import chosen

ROOT = Path(__file__).parents[2]
FACTS = {
    "student": {"student": "tiny", "loss": "kd", "model": "smp deeplabv3plus", "parameters": 12},
    "runtime": "onnxruntime",
    "runtime_options": {"threads": 1},
    "check": {"warmup": 1, "runs": 10, "seconds": 0.0, "unstable_cov": 9.0, "unstable_drift": 9.0, "samples": 4},
    "budgets": {"miou_drop": 90.0, "class_drop": None, "latency_p99_ms": None, "size_mb": None},
}


@pytest.fixture(scope="module")
def prepared(student: Any, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Eight frames with labels of noise."""
    names = [f"frame-{index}" for index in range(8)]
    meta = {"dataset": "noise", "splits": {"val": names}, **student.labels.to_meta()}
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "dataset"
    with artifact.create(path, kind="dataset", meta=meta) as folder:
        for index, name in enumerate(names):
            write_png(folder / "val/images" / f"{name}.png", student.frames[index % 4])
            write_png(folder / "val/labels" / f"{name}.png", rng.integers(0, 5, (128, 192), dtype=np.uint8))
    return Prepared(path)


@pytest.fixture(scope="module")
def packed(student: Any, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "tiny.tar.gz"
    archive.write(out, onnx=student.onnx, int8=student.int8, prepared=prepared, split="val", images=3, facts=FACTS)
    return out


@pytest.fixture
def unpacked(packed: Path, tmp_path: Path) -> Path:
    with tarfile.open(packed) as opened:
        opened.extractall(tmp_path, filter="data")
    return tmp_path / "tiny"


def test_frames_of_a_bundle_are_png(student: Any, tmp_path: Path) -> None:
    """Another decoder may decode a JPEG to other pixels, so the device gets none."""
    meta = {"dataset": "noise", "splits": {"val": ["a"]}, **student.labels.to_meta()}
    with artifact.create(tmp_path / "dataset", kind="dataset", meta=meta) as folder:
        (folder / "val/images").mkdir(parents=True)
        cv2.imwrite(str(folder / "val/images/a.jpg"), student.frames[0])
        write_png(folder / "val/labels/a.png", np.zeros((128, 192), np.uint8))
    prepared = Prepared(tmp_path / "dataset")
    out = tmp_path / "jpeg.tar.gz"
    archive.write(out, onnx=student.onnx, int8=student.int8, prepared=prepared, split="val", images=1, facts=FACTS)
    with tarfile.open(out) as opened:
        opened.extractall(tmp_path, filter="data")
    (image,) = (tmp_path / "jpeg" / "dataset" / "val" / "images").iterdir()
    assert image.name == "a.png" and np.array_equal(read_frame(image), prepared.split("val").frame(0))


def run(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """run.sh from another folder, without the variables of this environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}
    return subprocess.run(
        ["sh", str(folder / "run.sh"), *arguments],
        cwd="/",
        env={**environment, "PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_runs_with_only_its_requirements_installed(bare_python: Path, unpacked: Path, tmp_path: Path) -> None:
    result = run(bare_python, unpacked)
    assert result.returncode == 0, result.stderr
    results = json.loads((unpacked / "results.json").read_text())
    assert (results["student"], results["images"], results["split"], results["dataset"]) == ("tiny", 3, "val", "noise")
    assert set(results["variants"]) == {"fp32", "fp16", "int8"} and results["runtime_options"] == {"threads": 1}
    for name, variant in results["variants"].items():
        engine = unpacked / "engines" / name / "engine.onnx"
        assert variant["size_bytes"] == engine.stat().st_size and variant["sha256"] == artifact.sha256(engine)
        assert variant["latency_ms"]["p50"] > 0 and variant["latency_ms"]["n"] == 10
    choice = results["fastest"]
    assert len(choice["others"]) == 2 and choice["what"] in result.stdout.splitlines()
    assert chosen(unpacked / "engines") == unpacked / "engines" / choice["variant"], "infer takes it on the device"
    assert len(results["conditions"]) == 2 and results["passed"] is True and results["undecided"] == []
    counts = np.array(results["objects"]["counts"])
    assert counts.shape == (5, 3) and counts.sum() > 0 and np.array(results["objects"]["recall_int8"]).shape == (5, 3)
    assert results["drop"]["class_frames"] == [3] * 5 and "class_intervals" not in results["drop"], (
        "no confidence, no intervals"
    )
    (tmp_path / "results").mkdir()
    shutil.copy(unpacked / "results.json", tmp_path / "results/tiny.json")
    (read,) = reporting.load(tmp_path / "results")  # the report reads it unchanged
    assert read.int8.miou == results["variants"]["int8"]["miou"] and read.verdict == "pass"


def test_a_broken_budget_is_an_exit_status(bare_python: Path, unpacked: Path) -> None:
    facts = json.loads((unpacked / "bundle.json").read_text())
    facts["budgets"] |= {"size_mb": 0.001, "min_speedup": 1000.0, "class_drop": 5.0, "confidence": 0.95}
    facts["fastest"] = {"device": "AMD EPYC", "what": "INT8 is the fastest variant that keeps every budget"}
    (unpacked / "bundle.json").write_text(json.dumps(facts))
    result = run(bare_python, unpacked, "--options", '{"threads": 2}', "--out", str(unpacked / "other.json"))
    assert result.returncode == 1
    assert "budget broken: the INT8 engine has" in result.stdout
    assert "no variant keeps every budget\n  fp32: the fp32 engine has " in result.stdout
    assert "on AMD EPYC, the machine that wrote this bundle: INT8 is the fastest variant" in result.stdout
    assert "x: " in result.stdout or "x as fast as float32 (" in result.stdout
    assert "; the budget requires 1000x. Left in float: 1 layer (segmentation_head.0) " in result.stdout
    last = result.stdout.splitlines()[-1]
    assert last.startswith(f"{unpacked / 'other.json'}: passed: False; ") and "undecided: not enough pixels of " in last
    assert json.loads((unpacked / "other.json").read_text())["runtime_options"] == {"threads": 2}


def test_equal_contents_give_equal_bytes(student: Any, prepared: Prepared, packed: Path, tmp_path: Path) -> None:
    again = tmp_path / "tiny.tar.gz"
    archive.write(again, onnx=student.onnx, int8=student.int8, prepared=prepared, split="val", images=3, facts=FACTS)
    assert again.read_bytes() == packed.read_bytes()
    with tarfile.open(packed) as opened:
        for entry in opened:
            assert entry.name.startswith("tiny/") and entry.isfile()
            assert (entry.uid, entry.mtime, entry.uname) == (0, 0, "")


def test_frames_are_spread_over_the_split(unpacked: Path) -> None:
    dataset = Prepared(unpacked / "dataset")
    assert dataset.splits == {"val": ["frame-0", "frame-2", "frame-5"]}
    assert dataset.split("val").frame(1).shape == (128, 192, 3)


def test_the_code_contains_all_imports_of_the_check(unpacked: Path) -> None:
    graph = grimp.build_graph("pipeline")
    scripts = {f"pipeline.verbs.{name}" for name in ("__main__", "check_bundle", "doctor")}
    needed = scripts | {upstream for script in scripts for upstream in graph.find_upstream_modules(script)}
    needed |= graph.find_descendants("pipeline.runtimes")  # plugins are found by their files
    for module in needed:
        place = unpacked / Path(*module.split("."))
        assert place.with_suffix(".py").is_file() or (place / "__init__.py").is_file(), module
    assert not list(unpacked.rglob("__pycache__"))
    text = "".join(path.read_text() for path in unpacked.rglob("*.py"))
    assert str(ROOT) not in text


def test_the_verb_finds_the_artifacts_of_a_student_by_its_name(
    student: Any, prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifacts, out = tmp_path / "artifacts", tmp_path / "tiny.tar.gz"
    for place, source in (("onnx/tiny", student.onnx.path), ("int8/tiny", student.int8.path)):
        shutil.copytree(source, artifacts / place)
    arguments = ["tiny", "--artifacts", str(artifacts), "--params", str(ROOT / "params.yaml"), "--out", str(out)]
    with pytest.raises(UserError, match=r"dataset: has no meta\.json"):
        verbs.run("bundle", arguments)
    arguments += ["--dataset", str(prepared.artifact.path), "--images", "2"]
    with pytest.raises(UserError, match=r"students/tiny: has no meta\.json"):
        verbs.run("bundle", arguments)
    assert not out.exists()
    about = {
        "loss": {"name": "kd"}, "parameters": 12, "model": {"name": "smp", "options": {"architecture": "unet"}},
        "best_step": 20, "metrics": {"val": {"miou": 45.0}}, "last": {"step": 30, "metrics": {"val": {"miou": 44.0}}},
    }  # fmt: skip
    with artifact.create(artifacts / "students/tiny", kind="network", meta=about):
        pass

    def bundled() -> dict[str, Any]:
        assert verbs.run("bundle", arguments) == 0
        with tarfile.open(out) as archive:
            facts: dict[str, Any] = json.loads(archive.extractfile("tiny/bundle.json").read())  # type: ignore[union-attr]
        return facts

    facts = bundled()
    assert "on the device: tar xzf tiny.tar.gz && sh tiny/run.sh" in capsys.readouterr().out
    weights = {"exported": "best", "best": {"step": 20, "miou": 45.0}, "last": {"step": 30, "miou": 44.0}}
    about = {"student": "tiny", "loss": "kd", "parameters": 12, "model": "smp unet", "weights": weights}
    sources = [{"role": "data", "of": "this network", "name": None, "url": "", "commercial": None, "note": ""}]
    assert facts["student"] == {**about, "licences": sources, "commercial": None}, "an earlier version wrote it"
    assert "fastest" not in facts
    choice = {"variant": "fp16", "what": "fp16 is the fastest"}
    for parent, measured in ((student.onnx.hash, True), ("of an earlier student", False)):
        with artifact.create(artifacts / "engines/tiny/fp16", kind="engine", meta={"parents": {"onnx": parent}}):
            pass
        record = fastest.write(artifacts / "engines/tiny", {"fastest": choice, "device": {"name": "CPU X"}})
        facts = bundled()
        assert facts.get("fastest") == (json.loads(record.read_text()) if measured else None)
    for wrong in (["tiny", "--ssh", "x"], ["tiny", "--", "--runtime", "tensorrt"]):
        with pytest.raises(SystemExit):
            verbs.run("bundle", wrong)
    assert "--ssh and --results go together" in (errors := capsys.readouterr().err)
    assert "for run.sh on the device" in errors
    assert facts["split"] == "val" and set(facts["budgets"]) >= {"miou_drop", "size_mb"}


def test_it_has_a_model_card_with_results_of_the_same_files_only(
    student: Any, prepared: Prepared, tmp_path: Path
) -> None:
    artifacts, out = tmp_path / "artifacts", tmp_path / "tiny.tar.gz"
    for place, source in (("onnx/tiny", student.onnx.path), ("int8/tiny", student.int8.path)):
        shutil.copytree(source, artifacts / place)
    licence = {"name": "CC BY-NC 4.0", "url": "", "commercial": False, "note": ""}
    about = {
        "loss": {"name": "kd"}, "parameters": 12, "model": {"name": "smp", "options": {"architecture": "unet"}},
        "licences": [{"role": "data", "of": "noise", **licence}], "best_step": 20,
        "metrics": {"val": {"miou": 45.4321, "per_class_iou": [45.4321] * 5}},
    }  # fmt: skip
    with artifact.create(artifacts / "students/tiny", kind="network", meta=about):
        pass
    arguments = ["tiny", "--artifacts", str(artifacts), "--params", str(ROOT / "params.yaml"), "--out", str(out)]
    arguments += ["--dataset", str(prepared.artifact.path), "--images", "2"]

    def card() -> str:
        assert verbs.run("bundle", arguments) == 0
        first = out.read_bytes()
        assert verbs.run("bundle", arguments) == 0 and out.read_bytes() == first, "equal contents, equal bytes"
        with tarfile.open(out) as archive:
            text: str = archive.extractfile("tiny/MODEL_CARD.md").read().decode()  # type: ignore[union-attr]
        return text

    text = card()
    assert "Float mIoU: 45.43" in text and "INT8 mIoU" not in text and "Commercial use: **no**" in text
    sha256 = {}
    for name, parent in (("fp32", student.onnx), ("int8", student.int8)):
        meta = {"runtime": "onnxruntime", "parents": {parent.kind: parent.hash}}
        with artifact.create(artifacts / f"engines/tiny/{name}", kind="engine", meta=meta) as folder:
            (folder / "engine.onnx").write_text(name)
        sha256[name] = artifact.sha256(artifacts / f"engines/tiny/{name}/engine.onnx")
    results = {
        "student": "tiny", "loss": "kd", "classes": list("abcde"), "split": "val", "images": 8, "dataset": "noise",
        "dataset_sha256": prepared.artifact.hash, "device": {"name": "CPU X"},
        "variants": {name: {"miou": 44.8765, "sha256": digest} for name, digest in sha256.items()}
        | {"torch": {"miou": 45.5, "sha256": "0" * 64}},
    }  # fmt: skip
    (tmp_path / "results").mkdir()

    def measured(**changes: Any) -> str:
        (tmp_path / "results/tiny.json").write_text(json.dumps({**results, **changes}))
        return card()

    assert "INT8 mIoU: 44.88" in (text := measured()) and "CPU X" in text and "sh run.sh" in text
    (artifacts / "results").mkdir()
    (tmp_path / "results/tiny.json").rename(artifacts / "results/tiny.json")
    assert "INT8 mIoU: 44.88" in card(), "segpress import writes them there"
    (artifacts / "results/tiny.json").unlink()
    other = {"variants": results["variants"] | {"int8": {"miou": 44.8765, "sha256": "1" * 64}}}
    for changes in (other, {"dataset_sha256": "2" * 64}):
        assert "INT8 mIoU" not in (text := measured(**changes)) and "45.43" in text, changes
    meta = {"runtime": "onnxruntime", "parents": {"int8": "of an earlier student"}}
    with artifact.create(artifacts / "engines/tiny/int8", kind="engine", meta=meta) as folder:
        (folder / "engine.onnx").write_text("int8")
    assert "INT8 mIoU" not in measured()


def test_arguments_after_two_dashes_go_to_the_device(
    student: Any, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, source in (("onnx/tiny", student.onnx.path), ("int8/tiny", student.int8.path)):
        shutil.copytree(source, tmp_path / place)
    about = {"loss": {"name": "kd"}, "parameters": 12, "model": {"name": "smp", "options": {"architecture": "unet"}}}
    with artifact.create(tmp_path / "students/tiny", kind="network", meta=about):
        pass
    sent: dict[str, Any] = {}
    results = {"variants": {"int8": {"miou": 50.0}}, "device": {"name": "Orin"}}

    def check(host: Any, out: Path, **options: Any) -> tuple[dict[str, Any], int]:
        sent.update(host=host.name, out=out, **options)
        return results, 1

    monkeypatch.setattr("pipeline.bundle.remote.check", check)
    places = [
        "--artifacts",
        str(tmp_path),
        "--dataset",
        str(prepared.artifact.path),
        "--out",
        str(tmp_path / "t.tar.gz"),
    ]
    ssh = ["--ssh", "u@orin", "--results", str(tmp_path / "r.json"), "--params", str(ROOT / "params.yaml")]
    assert verbs.run("bundle", ["tiny", *places, *ssh, "--", "--runtime", "tensorrt"]) == 1
    assert (sent["host"], sent["arguments"], sent["python"]) == ("u@orin", ["--runtime", "tensorrt"], "python3")
    assert json.loads((tmp_path / "r.json").read_text()) == results


def test_doctor_runs_in_a_bundle(bare_python: Path, unpacked: Path) -> None:
    command = [str(bare_python), "-m", "pipeline.verbs"]
    done = subprocess.run([*command, "--help"], cwd=unpacked, capture_output=True, text=True, check=True)
    assert "check-bundle" in done.stdout and "doctor" in done.stdout and "infer" not in done.stdout
    done = subprocess.run([*command, "doctor", "--json"], cwd=unpacked, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    assert facts["runtimes"]["onnxruntime"]["works"] and facts["providers"]["cpu"] == {"works": True}
    assert facts["packages"]["numpy"] == np.__version__ and facts["packages"]["torch"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--options", "{threads: 4}"], "error: --options: not JSON"),
        (["--options", "[1]"], "error: --options: got [1]; a JSON object is needed"),
        (["--options", '{"thread": 4}'], "did you mean 'threads'?"),
        (["--runtime", "onnxruntme"], "did you mean 'onnxruntime'?"),
        (["--runtime", "tensorrt"], "tensorrt does not import"),
    ],
)
def test_wrong_arguments(bare_python: Path, unpacked: Path, arguments: list[str], message: str) -> None:
    result = run(bare_python, unpacked, *arguments)
    assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr
    assert not (unpacked / "results.json").exists()


@pytest.mark.parametrize("what", ["tampered", "half", "no facts"])
def test_a_damaged_bundle_is_refused(bare_python: Path, unpacked: Path, what: str) -> None:
    if what == "tampered":
        file = unpacked / "int8/int8_cpu.onnx"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        message = "was changed after it was written"
    elif what == "half":
        (unpacked / "onnx/fp16.onnx").unlink()
        message = "payload 'fp16.onnx' is missing"
    else:
        (unpacked / "bundle.json").unlink()
        message = "bundle.json: no such file; run this in an unpacked bundle"
    result = run(bare_python, unpacked)
    assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr


def test_artifacts_that_cannot_be_bundled(student: Any, prepared: Prepared, tmp_path: Path) -> None:
    rest = {"prepared": prepared, "split": "val", "images": 3, "facts": FACTS}
    other = SimpleNamespace(path=tmp_path, hash="0")
    with pytest.raises(UserError, match="is of another network than"):
        archive.write(tmp_path / "b.tar.gz", onnx=other, int8=student.int8, **rest)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="has no split 'test'"):
        options: Any = {**rest, "split": "test"}
        archive.write(tmp_path / "b.tar.gz", onnx=student.onnx, int8=student.int8, **options)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"b\.tar\.gz: cannot be written"):
        archive.write(tmp_path / "file/b.tar.gz", onnx=student.onnx, int8=student.int8, **rest)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
