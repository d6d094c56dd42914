"""`segpress doctor`: the present and missing parts of a machine by name, and the advice for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from pipeline import runtimes, verbs
from pipeline.evaluation import jetson, machine, providers
from pipeline.verbs import doctor

WORKS, BROKEN = {"works": True, "version": "1"}, {"works": False, "why": "x"}
A100 = {"name": "NVIDIA A100", "driver": "570.1", "compute_capability": "8.0"}
RTX = {"name": "NVIDIA GeForce RTX 4090", "driver": "570.1", "compute_capability": "8.9"}


def test_the_tiny_network_is_a_valid_onnx_file() -> None:
    parsed = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[1] x) => (float[1] y) {y = Relu(x)}'
    )
    assert onnx.printer.to_text(onnx.load_from_string(providers.MODEL)) == onnx.printer.to_text(parsed)
    onnx.checker.check_model(providers.MODEL)


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert verbs.run("doctor", ["--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["numpy"] == np.__version__ and facts["packages"]["cv2"]
    assert set(facts["runtimes"]) == set(runtimes.available())
    assert facts["runtimes"]["onnxruntime"] == {"works": True, "version": onnxruntime.__version__}
    assert facts["providers"]["cpu"] == {"works": True} and set(facts["providers"]) == {"cpu", "cuda", "tensorrt"}
    assert facts["advice"]["runtime"] in runtimes.available() and facts["cpu"]["cores"] >= 1
    if not facts["gpus"]:
        assert not facts["providers"]["cuda"]["works"] and facts["providers"]["cuda"]["why"]
        assert (facts["advice"]["runtime"], facts["advice"]["provider"]) == ("onnxruntime", "cpu")
    assert verbs.run("doctor", []) == 0
    text = capsys.readouterr().out
    assert f"onnxruntime        {onnxruntime.__version__}\n" in text and "provider cpu       works\n" in text
    for name, place in facts["libraries"].items():
        assert f"{name:18} {place or 'missing'}\n" in text
    assert "choose             convert.runtime: " in text


def test_a_provider_that_is_listed_and_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A fake ONNX Runtime that lists CUDA, logs the missing library, and falls back to the CPU."""
    (tmp_path / "onnxruntime.py").write_text(
        "import sys\n__version__ = '9'\n"
        "def get_available_providers(): return ['CUDAExecutionProvider', 'CPUExecutionProvider']\n"
        "class InferenceSession:\n"
        "    def __init__(self, model, providers, enable_fallback):\n"
        "        print('Failed to load libonnxruntime_providers_cuda.so with error: libcublasLt.so.12: cannot open '\n"
        "              'shared object file: No such file or directory', file=sys.stderr)\n"
        "    def get_providers(self): return ['CPUExecutionProvider']\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert providers.failure("cuda") == "the library libcublasLt.so.12 is missing"
    assert providers.failure("tensorrt") == "ONNX Runtime 9 as installed here does not contain it"
    (tmp_path / "onnxruntime.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert providers.failure("cuda") == "its process ended with status -9"


def facts(gpus: list[dict[str, str]], works: set[str], *, board: Any = None, kernels: str = "vnni") -> dict[str, Any]:
    return {
        "gpus": gpus,
        "jetson": board,
        "cpu": {"int8_kernels": kernels},
        "runtimes": {name: WORKS if name in works else BROKEN for name in runtimes.available()},
        "providers": {"cpu": {"works": True}, "cuda": {"works": "cuda" in works}},
    }


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (facts([], {"onnxruntime"}), {"runtime": "onnxruntime", "provider": "cpu"}),
        (
            facts([], set()),
            {"runtime": "onnxruntime", "provider": "cpu", "install": "pip install '.[onnxruntime]' (for onnxruntime)"},
        ),
        (facts([A100], {"onnxruntime", "tensorrt"}), {"runtime": "tensorrt"}),
        (
            facts([A100], {"onnxruntime", "tensorrt_rtx", "cuda"}),
            {"runtime": "onnxruntime", "provider": "cuda", "install": "pip install '.[tensorrt]' (for tensorrt)"},
        ),
        (facts([RTX], {"onnxruntime", "tensorrt_rtx"}), {"runtime": "tensorrt_rtx"}),
        (facts([RTX], {"tensorrt", "tensorrt_rtx"}), {"runtime": "tensorrt"}),
        (facts([], {"tensorrt"}, board={"l4t": "R36.4.0"}), {"runtime": "tensorrt"}),
        (
            facts([], set(), board={"l4t": "R36.4.0"}),
            {"runtime": "tensorrt", "install": "sudo apt install python3-libnvinfer (for tensorrt)"},
        ),
    ],
)
def test_advice(state: dict[str, Any], expected: dict[str, str]) -> None:
    advice = machine.advise(state)
    assert advice.pop("why") and advice == expected


def test_a_cpu_without_vnni_gets_a_hint() -> None:
    assert "avx2" in machine.advise(facts([], {"onnxruntime"}, kernels="avx2"))["int8"]
    assert "int8" not in machine.advise(facts([A100], {"tensorrt"}, kernels="avx2"))


def test_a_jetson_and_a_driver_are_read_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.board(tmp_path) is None
    for name, text in {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.board(tmp_path) == {"l4t": "R36.4.0", "model": "NVIDIA Jetson Orin Nano Developer Kit"}
    monkeypatch.setattr(jetson, "output", lambda *command: "")
    monkeypatch.setattr(machine._cuda, "device", lambda: {"gpu": "Orin", "compute_capability": "8.7"})
    assert machine.gpus(tmp_path) == [{"name": "Orin", "driver": "570.86.15", "compute_capability": "8.7"}]
    monkeypatch.setattr(machine._cuda, "device", lambda: None)
    assert machine.gpus(tmp_path) == []
    monkeypatch.setattr(jetson, "output", lambda *command: "NVIDIA A100, 570.1, 8.0\nNVIDIA A100, 570.1, 8.0\n")
    assert machine.gpus(tmp_path) == [A100, A100]


def test_libraries_of_pip_packages_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libcuda.so.1" if name == "cuda" else None)
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "tensorrt_libs/libnvinfer.so.10"
    file.parent.mkdir()
    file.touch()
    assert machine.library("cuda") == "libcuda.so.1" and machine.library("nvinfer") == str(file)
    assert machine.library("absent") is None


def test_the_text_names_missing_parts() -> None:
    state = {
        **facts([RTX], {"onnxruntime"}, board={"l4t": "R36.4.0", "model": "Orin"}),
        "segpress": None,
        "python": "3.10.1",
        "system": "Linux",
        "packages": {"numpy": "2", "cv2": None, "av": None, "torch": None, "onnx": "1", "dvc": "3"},
        "libraries": {"libnvinfer.so": None, "libcuda.so": "libcuda.so.1"},
    }
    state["cpu"] |= {"name": "Xeon", "cores": 2}
    state["providers"]["cuda"]["why"] = "the library libcublasLt.so.12 is missing"
    lines = list(doctor.lines({**state, "advice": machine.advise(state)}))
    for line in (
        "CPU                Xeon, 2 cores, INT8 kernels: vnni",
        "GPU                NVIDIA GeForce RTX 4090, compute capability 8.9, driver 570.1",
        "Jetson             Orin, Jetson Linux R36.4.0",
        "cv2                missing; pip install .",
        "av                 missing; pip install '.[video]'",
        "torch              missing; pip install '.[train]'",
        "tensorrt           does not work: x",
        "provider cuda      does not work: the library libcublasLt.so.12 is missing",
        "libnvinfer.so      missing",
        "install            sudo apt install python3-libnvinfer (for tensorrt)",
    ):
        assert line in lines, lines
