"""Shared fixtures: the folder of real data (tests skip without it), and one student that is exported and quantised."""

# ruff: noqa: PLC0415 - torch is imported only where a test needs the student
from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
#: Packages of a device, and the folders of their shared libraries.
INSTALLED = ("numpy", "numpy.libs", "cv2", "opencv_python.libs", "onnxruntime")
#: With these variables OpenCV, numpy, libjpeg-turbo and torch compute as on an older x86 CPU: the bytes must be equal.
OLDER_CPU = {
    "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FP16,AVX,SSE4.2,SSE4.1",
    "OPENCV_IPP": "disabled",
    "NPY_DISABLE_CPU_FEATURES": "AVX512_SPR AVX512_ICL X86_V4 X86_V3",
    "JSIMD_FORCENONE": "1",
    "ATEN_CPU_CAPABILITY": "avx2",
}
#: Seconds after which a test fails, with its fixtures; a slow test has more. Without this, a test could wait for ever.
LONGEST, LONGEST_SLOW = 300, 1800
#: Files that take longest. They come first: the last of them would leave the other processes of pytest-xdist idle.
LONG = (
    "pipeline_run/test_graph.py", "pipeline_run/test_graph_changes.py", "quantization/test_simulated.py",
    "training/test_processes.py", "quantization/test_recovery.py",
    "training/test_training.py", "export/test_export.py", "training/test_memory.py", "quantization/test_calibration.py",
    "training/test_checkpoints.py", "docs/test_commands.py", "docs/test_site.py", "training/test_precision.py",
)  # fmt: skip
DATA = Path(os.environ.get("SEGPRESS_DATA", ROOT.parent / "shared" / "data"))


def pytest_configure() -> None:
    """Let SIGINT (Ctrl-C) interrupt the processes that tests start.

    Under ``nohup make test &`` this process ignores SIGINT, and the processes that it starts inherit this: tests of
    interruption would never end.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of ``LONG`` first, in their order; the Makefile tells pytest-xdist to keep it."""
    places = {ROOT / "tests" / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let a test fail that takes too long, also where it waits for a process, thread or socket."""
    seconds = LONGEST_SLOW if item.get_closest_marker("slow") else LONGEST

    def late(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"the test takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    # again every 10 s: the first failure may wait in a `finally` or at the end of a `with`
    signal.setitimer(signal.ITIMER_REAL, seconds, 10)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data sets, weights and videos.

    If it is missing, the test skips; if SEGPRESS_REQUIRE_DATA is set, it fails.
    """
    if not DATA.is_dir():
        reason = f"needs real data in {DATA}, which is not part of the project; set SEGPRESS_DATA to its folder"
        if os.environ.get("SEGPRESS_REQUIRE_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    return DATA


@pytest.fixture(scope="session")
def on_older_cpu() -> Callable[[str], list[str]]:
    """``on_older_cpu(program)``: the lines that a Python program prints with the variables ``OLDER_CPU``."""

    def run(program: str) -> list[str]:
        check = "import cv2\nassert '*AVX2?' in cv2.getCPUFeaturesLine() or '*AVX2' not in cv2.getCPUFeaturesLine()\n"
        command = [sys.executable, "-W", "ignore", "-c", check + program]
        result = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **OLDER_CPU}, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()

    return run


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a virtual environment that has only the packages of a device."""
    folder = tmp_path_factory.mktemp("bare") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    assert not list(packages.iterdir())
    site = Path(sysconfig.get_path("purelib"))
    for name in INSTALLED:
        if (site / name).exists():
            (packages / name).symlink_to(site / name)
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> SimpleNamespace:
    """A student like the default student, with random weights, up to its INT8 files. Its label maps have all classes.

    The first process of pytest-xdist makes its files, in the folder that all share, in 20 s; the others read them.

    Attributes: ``network``, ``frames`` (BGR), ``parent`` (network artifact), ``onnx``, ``calibration`` and ``int8``
    (artifacts), ``labels``, ``parity``.
    """
    import cv2
    import numpy as np

    from pipeline import artifact
    from pipeline.labels import LabelSpec
    from pipeline.models.weights import network_artifact

    own, size = tmp_path_factory.getbasetemp(), (128, 192)
    folder = (own.parent if hasattr(request.config, "workerinput") else own) / "student"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (6, 9, 3), dtype=np.uint8) for _ in range(4)]
    frames = [np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8) for coarse in noise]
    labels = LabelSpec(
        names=tuple("abcde"),
        palette=tuple((40 * i, 0, 255 - 40 * i) for i in range(5)),
        original_ids=(7, 11, 26, 0, 33),
        original_ignored=4,
    )
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "parity.json").is_file():
            make_student(folder, frames, labels, size)
    network, parent = network_artifact.load(folder / "network")
    return SimpleNamespace(
        network=network.eval(),
        frames=frames,
        parent=parent,
        onnx=artifact.load(folder / "onnx", kind="onnx"),
        labels=labels,
        calibration=artifact.load(folder / "calibration", kind="calibration"),
        int8=artifact.load(folder / "int8", kind="int8"),
        parity=json.loads((folder / "parity.json").read_text()),
    )


def make_student(folder: Path, frames: list[Any], labels: Any, size: tuple[int, int]) -> None:
    """Write the artifacts of :func:`student`, and ``parity.json`` as the last file."""
    import numpy as np
    import torch

    from pipeline import artifact, models
    from pipeline.export.export import export_network
    from pipeline.export.graphs import DeployGraph
    from pipeline.models.weights import network_artifact
    from pipeline.quantization.calibration_artifact import calibrate
    from pipeline.quantization.quantize import Settings, quantize

    torch.manual_seed(0)
    options = {
        "architecture": "deeplabv3plus",
        "encoder": "tu-tf_mobilenetv3_small_minimal_100",
        "options": {"decoder_channels": 96},
    }
    network = models.build("smp", options, num_classes=5).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.normal_(module.running_mean, 0, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    classifier = network.net.segmentation_head[0]  # type: ignore[union-attr,index]
    with torch.no_grad():
        batch = DeployGraph(network, input_size=size).to_input(torch.from_numpy(np.stack(frames)))
        logits = network(batch).logits.transpose(0, 1).flatten(1)  # (K, pixels)
        classifier.weight /= logits.std(dim=1)[:, None, None, None]
        classifier.bias.copy_((classifier.bias - logits.mean(dim=1)) / logits.std(dim=1))
    network_artifact.save(
        folder / "network", network, name="smp", options=options, labels=labels, input_size=size, facts={}
    )
    parent = artifact.load(folder / "network", kind="network")
    parity = export_network(
        network, parent, folder / "onnx", frames=frames, label_stride=1, built_with={"torch": torch.__version__}
    )
    onnx = artifact.load(folder / "onnx", kind="onnx")
    calibrate(
        onnx, folder / "calibration", frames=frames, facts={"calibration_frames": {"names": ["a", "b", "c", "d"]}}
    )
    calibration = artifact.load(folder / "calibration", kind="calibration")
    quantize(onnx, calibration, folder / "int8", settings=Settings(method="minmax"))
    (folder / "parity.json").write_text(json.dumps(parity))


@pytest.fixture(scope="session")
def write_int8() -> Callable[..., None]:
    """``write_int8(placement, source, target, ranges, float_head=...)`` writes the INT8 file of a float file."""
    import onnx

    from pipeline.quantization import graph as graphs

    def write(placement: Any, source: Path, target: Path, ranges: Any, *, float_head: bool, **options: Any) -> None:
        graph = graphs.load(str(source))
        kept = {graph.classifier.name} if float_head else set()
        onnx.save(placement.place(graph, ranges, float_nodes=kept, **options), target)

    return write
