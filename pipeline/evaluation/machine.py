"""What this machine has for segpress and what is missing, for `segpress doctor`; it changes nothing on the machine."""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from pipeline import plugins, runtimes
from pipeline.evaluation import jetson, providers
from pipeline.evaluation.exactness import SATURATING, int8_kernels
from pipeline.runtimes import _cuda
from pipeline.runtimes.onnxruntime import PROVIDERS, cpu_model, instructions

#: Packages that verbs use, by the name that Python imports, with the extra that installs each.
PACKAGES = {"numpy": "", "cv2": "", "av": "video", "torch": "train", "onnx": "train", "dvc": "train"}
#: Shared libraries that runtimes on NVIDIA GPUs load; the first is the driver's.
LIBRARIES = ("cuda", "cudart", "cublasLt", "cudnn", "nvinfer", "nvonnxparser", "tensorrt_rtx")


def read(root: Path = Path("/")) -> dict[str, Any]:
    """All facts, as plain values.

    Args:
        root: folder that contains /etc and /proc.

    Returns:
        ``segpress``, ``python``, ``system``, ``packages`` (version by name; None: missing), ``cpu``, ``gpus``,
        ``jetson`` (None: another machine), ``libraries`` (place by name; None: missing), ``runtimes`` and ``providers``
        (of ONNX Runtime): ``works``, then ``version``, or ``why`` it does not work; and ``advice``, see :func:`advise`.
    """
    facts: dict[str, Any] = {
        "segpress": _version("segpress"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: _module_version(name) for name in PACKAGES},
        "cpu": cpu(),
        "gpus": gpus(root),
        "jetson": board(root),
        "libraries": {f"lib{name}.so": library(name) for name in LIBRARIES},
        "runtimes": {name: _runtime(name) for name in runtimes.available()},
    }
    facts["providers"] = (
        {name: _provider(name) for name in PROVIDERS} if facts["runtimes"]["onnxruntime"]["works"] else {}
    )
    return {**facts, "advice": advise(facts)}


def cpu() -> dict[str, Any]:
    """Name, cores that this process may use, and the instructions of INT8 kernels."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"name": cpu_model(), "cores": cores, "int8_kernels": int8_kernels(platform.machine(), instructions())}


def gpus(root: Path) -> list[dict[str, str]]:
    """``name``, ``driver`` and ``compute_capability`` of each NVIDIA GPU, from nvidia-smi, else from the driver."""
    answer = jetson.output("nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader")
    rows = [[value.strip() for value in line.split(",")] for line in answer.splitlines()]
    keys = ("name", "driver", "compute_capability")
    if rows and all(len(row) == len(keys) for row in rows):
        return [dict(zip(keys, row, strict=True)) for row in rows]
    device = _cuda.device()
    if device is None:
        return []
    version = re.search(r"Module\D*([\d.]+)", jetson.text(root / "proc/driver/nvidia/version"))
    driver = {"driver": version[1]} if version else {}
    return [{"name": device["gpu"], **driver, "compute_capability": device["compute_capability"]}]


def board(root: Path) -> dict[str, str] | None:
    """Release of Jetson Linux (L4T) and model of a Jetson; None for other machines."""
    release = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", jetson.text(root / "etc/nv_tegra_release"))
    if release is None:
        return None
    model = jetson.text(root / "proc/device-tree/model").strip("\0 ")
    return {"l4t": f"R{release[1]}.{release[2]}", "model": model or "unknown model"}


def library(name: str) -> str | None:
    """A shared library: its name on the linker's path, else its file in a pip package; None: missing."""
    if system := ctypes.util.find_library(name):
        return system
    patterns = (f"*_libs/lib{name}.so*", f"nvidia/*/lib/lib{name}.so*")
    files = (file for folder in sys.path for pattern in patterns for file in sorted(Path(folder).glob(pattern)))
    return next((str(file) for file in files), None)


def advise(facts: dict[str, Any]) -> dict[str, str]:
    """Advice on packages to install and on values of params.yaml.

    Args:
        facts: see :func:`read`.

    Returns:
        ``runtime`` (value of ``convert.runtime``), ``why``; where they apply ``provider`` (of onnxruntime), ``install``
        (the command for a better runtime that does not work yet) and ``int8`` (a note on INT8 kernels of this CPU).
    """
    fits = {name: plugins.load("runtimes", name).fit(facts) for name in facts["runtimes"]}
    works = {name: bool(state["works"]) for name, state in facts["runtimes"].items()}
    best = min(fits, key=lambda name: (-fits[name].rank, not works[name], name))
    advice = {"runtime": best, "why": fits[best].why}
    if not works[best]:
        advice["install"] = f"{fits[best].install} (for {best})"
        others = [name for name in fits if works[name] and fits[name].rank]
        if others:
            other = max(others, key=lambda name: fits[name].rank)
            advice |= {"runtime": other, "why": f"{best} fits this machine better, and does not work yet"}
    if advice["runtime"] == "onnxruntime":
        cuda = facts["gpus"] and facts["providers"].get("cuda", {}).get("works")
        advice["provider"] = "cuda" if cuda else "cpu"
    kernels = facts["cpu"]["int8_kernels"]
    if advice.get("provider") == "cpu" and kernels in SATURATING:
        advice["int8"] = (
            f"this CPU has no VNNI: its INT8 kernels ({kernels}) can overflow with INT8 files of other programs; the "
            "files of segpress quantize never do"
        )
    return advice


def _runtime(name: str) -> dict[str, Any]:
    """Whether a runtime plugin starts here, with its version, or why not."""
    try:
        version = runtimes.build(name, {}).fingerprint().get(name)
    except Exception as error:  # a broken installation raises its own types
        return {"works": False, "why": " ".join(str(error).split())[:300]}
    return {"works": True, "version": str(version)}


def _provider(name: str) -> dict[str, Any]:
    why = providers.failure(name)
    return {"works": True} if why is None else {"works": False, "why": why}


def _module_version(name: str) -> str | None:
    """Version of a package that can be imported, from its metadata where there are any; None: missing."""
    if importlib.util.find_spec(name) is None:
        return None
    return _version("opencv-python" if name == "cv2" else name) or getattr(
        importlib.import_module(name), "__version__", "unknown version"
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
