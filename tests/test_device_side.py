"""The device side runs on Python 3.10 with numpy, OpenCV and one runtime, in an environment without other packages."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import grimp
import numpy as np
import pytest

from pipeline import runtimes
from pipeline.frames import Array, resize_frame, resize_label_map

ROOT = Path(__file__).parents[1]
ABSENT = (
    *("torch", "pydantic", "annotated_types", "onnx", "dvc", "rich", "av", "ruamel", "yaml", "accelerate"),
    "safetensors",
)
ROOTS = ("pipeline.runtimes", "pipeline.evaluation", "pipeline.video")
VERBS = tuple(f"pipeline.verbs.{name}" for name in ("__main__", "infer", "check_bundle", "doctor"))


def device_modules() -> list[str]:
    """Every module of the device packages, and all modules of `pipeline` that they import."""
    graph = grimp.build_graph("pipeline")
    modules = {m for root in ROOTS for m in (root, *graph.find_descendants(root))} | set(VERBS)
    modules |= {upstream for module in modules for upstream in graph.find_upstream_modules(module)}
    return sorted(modules)


def device_files() -> list[Path]:
    files = [ROOT / Path(*name.split(".")) for name in device_modules()]
    return [ROOT / "stages/infer.py", *(f / "__init__.py" if f.is_dir() else f.with_suffix(".py") for f in files)]


@pytest.fixture(scope="module")
def device(bare_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pipeline/, stages/infer.py and a link to the bare environment."""
    folder = tmp_path_factory.mktemp("device")
    (folder / "env").symlink_to(bare_python.parents[1])
    shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "stages").mkdir()
    shutil.copy(ROOT / "stages/infer.py", folder / "stages")
    return folder


def run(device: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Python of the environment, in its folder, without the variables of this one."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}
    command = [str(device / "env/bin/python"), *map(str, arguments)]
    return subprocess.run(command, cwd=device, env=environment, capture_output=True, text=True, check=False)


def test_the_environment_lacks_everything_else(device: Path) -> None:
    code = "import importlib.util as u, json, sys; print(json.dumps([n for n in sys.argv[1:] if u.find_spec(n)]))"
    done = run(device, "-c", code, *ABSENT, "numpy", "cv2", "onnxruntime")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["numpy", "cv2", "onnxruntime"]


def test_every_device_module_imports_there(device: Path) -> None:
    modules = device_modules()
    assert {"pipeline.runtimes.tensorrt", "pipeline.runtimes.onnxruntime", "pipeline.evaluation.latency"} <= set(
        modules
    )
    assert {"pipeline.video.loop", "pipeline.artifact", "pipeline.labels"} <= set(modules)
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*sorted(sys.modules))"
    done = run(device, "-c", code, *modules)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert set(modules) <= loaded
    assert "onnxruntime" not in loaded  # only the chosen runtime, and only when it is used


def test_options_of_a_runtime_are_checked_there(device: Path) -> None:
    code = "from pipeline import runtimes; runtimes.build('onnxruntime', {'threads': 0, 'provider': 'gpu'})"
    done = run(device, "-c", code)
    assert done.returncode == 1
    assert "threads: got 0; allowed: 1 or more" in done.stderr
    assert "provider: got 'gpu'; allowed: 'cpu' or 'cuda' or 'tensorrt'" in done.stderr


@pytest.fixture(scope="module")
def engine(student: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"threads": 1}
    out = tmp_path_factory.mktemp("engines") / "int8"
    meta = {key: student.onnx.meta[key] for key in ("classes", "palette", "ignore_index", "input_size")}
    source = student.int8.file("int8_cpu.onnx")
    runtime = runtimes.build("onnxruntime", options)
    runtimes.build_engine(runtime, source, out, name="onnxruntime", options=options, meta=meta)
    return out


@pytest.fixture(scope="module")
def pictures(student: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Array]:
    """Frames by name: of the engine's size, larger, and of another shape."""
    sizes = {"a": (128, 192), "b": (300, 400), "c": (90, 250)}
    return {
        name: np.asarray(cv2.resize(frame, (width, height)), np.uint8)
        for (name, (height, width)), frame in zip(sizes.items(), student.frames, strict=False)
    }


@pytest.mark.parametrize("script", [["stages/infer.py"], ["-m", "pipeline.verbs", "infer"]])
def test_infer_writes_the_masks_of_the_engine(
    device: Path, engine: Path, pictures: dict[str, Array], tmp_path: Path, script: list[str]
) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for name, frame in pictures.items():
        assert cv2.imwrite(str(frames / f"{name}.png"), frame)
    results = ("--masks", tmp_path / "masks", "--json", tmp_path / "s.json")
    done = run(device, *script, engine, frames, *results)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "s.json").read_text())
    opened, facts = runtimes.open_engine(engine)
    assert (summary["frames"], summary["engine"]) == (3, facts.hash)
    masks = {path.stem: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (tmp_path / "masks").glob("*.png")}
    assert len(masks) == 3
    for (name, mask), frame in zip(sorted(masks.items()), pictures.values(), strict=True):
        labels = opened.run(resize_frame(frame, opened.input_size)[None])[0]
        expected = resize_label_map(labels, (frame.shape[0], frame.shape[1]))
        assert mask is not None
        assert np.array_equal(mask, expected), name
        assert len(np.unique(mask)) > 1


def test_infer_says_what_the_device_lacks(device: Path, engine: Path, tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "frame.png"), np.zeros((128, 192, 3), np.uint8))
    done = run(device, "stages/infer.py", engine, tmp_path, "--out", tmp_path / "o.mp4")
    assert done.returncode == 1
    assert "H.264 needs PyAV: pip install av" in done.stderr
    assert "Traceback" not in done.stderr


def test_verbs_of_the_host_name_the_package_and_the_extra(device: Path) -> None:
    for name, package in (("bundle", "rich"), ("show", "rich"), ("import", "onnx"), ("preset", "ruamel")):
        done = run(device, "-m", "pipeline.verbs", name, "--help")
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert f"segpress {name} needs the package {package}, which is not installed" in done.stderr
        assert "pip install '.[train]'" in done.stderr


def test_no_import_of_a_training_library() -> None:
    graph = grimp.build_graph("pipeline", include_external_packages=True)
    optional = {"av", "yaml", "annotated_types"}  # imported where they are needed, or where they are installed
    for module in device_modules():
        imported = graph.find_modules_directly_imported_by(module) & set(ABSENT) - optional
        assert not imported, f"{module} imports {imported}"


def test_syntax_is_that_of_python_3_10() -> None:
    with pytest.raises(SyntaxError):  # the check can fail
        ast.parse("try:\n    pass\nexcept* ValueError:\n    pass\n", feature_version=(3, 10))
    files = device_files()
    assert len(files) > 25
    for file in files:
        ast.parse(file.read_text(encoding="utf-8"), filename=str(file), feature_version=(3, 10))


def used_names(file: Path) -> dict[str, list[str]]:
    """Standard modules that a file imports, with the names it takes from them; hasattr(m, "n") excuses m.n."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    used: dict[str, set[str]] = {}
    local: dict[str, str] = {}
    excused: set[tuple[str, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                used.setdefault(alias.name, set())
                local[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            used.setdefault(node.module, set()).update(alias.name for alias in node.names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in local:
            used[local[node.value.id]].add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
            owner, name = node.args
            if isinstance(owner, ast.Name) and isinstance(name, ast.Constant):
                excused.add((owner.id, str(name.value)))
    return {
        module: sorted(name for name in names if (module, name) not in excused)
        for module, names in used.items()
        if module.split(".")[0] in sys.stdlib_module_names and module != "__future__"
    }


CHECK = """
import importlib, json, py_compile, sys
wanted, files = json.load(sys.stdin)
modules = {module: importlib.import_module(module) for module in wanted}
missing = [m + "." + name for m, names in wanted.items() for name in names if not hasattr(modules[m], name)]
for index, file in enumerate(files):
    py_compile.compile(file, cfile=sys.argv[1] + "/%d.pyc" % index, doraise=True)
print(json.dumps([sys.version_info[:2], missing]))
"""


def test_python_3_10_compiles_it_and_has_what_it_uses(tmp_path: Path) -> None:
    interpreters = sorted((Path.home() / ".pyenv/versions").glob("3.10*/bin/python"))
    if not interpreters:
        pytest.skip("no Python 3.10 in ~/.pyenv/versions; the syntax is checked by another test")
    wanted: dict[str, set[str]] = {"hashlib": {"file_digest"}}  # new in 3.11: the check must report it
    for file in device_files():
        for module, names in used_names(file).items():
            wanted.setdefault(module, set()).update(names)
    text = json.dumps([{module: sorted(names) for module, names in wanted.items()}, [str(f) for f in device_files()]])
    command = [str(interpreters[-1]), "-I", "-c", CHECK, str(tmp_path)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[3, 10], ["hashlib.file_digest"]]
    assert "pathlib" in wanted
    assert {"sha256"} <= wanted["hashlib"]
