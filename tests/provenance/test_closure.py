"""The code list of a stage holds exactly the files that Python imports, and every stage depends on its own list."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import grimp
import pytest
from ruamel.yaml import YAML

from pipeline import plugins
from pipeline.provenance import closure
from pipeline.settings import loss_mixture

ROOT = Path(__file__).parents[2]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
ALWAYS = {name for name, stage in STAGES.items() if stage.get("always_changed")}
CHOSEN = {"datasets": ["camvid"], "models": ["smp"], "losses": ["cirkd"], "runtimes": ["tensorrt"]}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("pipeline")


def as_file(module: str) -> str:
    path = Path(*module.split("."))
    return str(path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py"))


def imported(scripts: list[str], graph: grimp.ImportGraph) -> set[str]:
    """Files of `pipeline` that scripts import, by grimp."""
    direct: set[str] = set()
    for script in scripts:
        for node in ast.walk(ast.parse((ROOT / script).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pipeline":
                direct.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    files: set[str] = set()
    queue = [module for module in direct if module in graph.modules]
    while queue:
        module = queue.pop()
        if as_file(module) not in files | closure.WITHOUT_EFFECT:
            files.add(as_file(module))
            parents = [".".join(module.split(".")[:end]) for end in range(1, module.count(".") + 1)]
            queue += [*graph.find_modules_directly_imported_by(module), *parents]
    return files


@pytest.mark.parametrize("name", sorted(closure.KINDS))
def test_the_code_of_a_stage_is_what_it_imports(name: str, graph: grimp.ImportGraph) -> None:
    chosen = [f"pipeline/{kind}/{plugin}.py" for kind in closure.KINDS[name] for plugin in CHOSEN[kind]]
    code = closure.of_stage(name, CHOSEN)
    scripts = [f"stages/{name}.py", *chosen]
    files = {f"pipeline/reporting/{file.name}" for file in (ROOT / "pipeline/reporting").glob("*.j2")}
    templates = {"report": files, "check": {"pipeline/reporting/card.md.j2"}}.get(name, set())
    assert set(code) == imported(scripts, graph) | set(scripts) | templates
    assert all(len(digest) == 64 for digest in code.values()) and list(code) == sorted(code)


def test_every_stage_depends_on_its_list() -> None:
    assert set(closure.KINDS) == set(STAGES) - ALWAYS
    for name in closure.KINDS:
        per_student = "foreach" in STAGES[name]
        stage = STAGES[name]["do"] if per_student else STAGES[name]
        own = f"artifacts/sources/{name}/${{key}}.json" if per_student else f"artifacts/sources/{name}.json"
        assert [path for path in stage["deps"] if "sources" in path] == [own]
        assert f"python stages/{name}.py" in stage["cmd"]
        assert not [path for path in stage["deps"] if path.startswith(("pipeline", "stages"))]


def test_modules_without_effect_are_imported_by_few(graph: grimp.ImportGraph) -> None:
    """Only the training loop (progress and costs), the store (memory or disk) and outputs that are kept (memory) do."""
    assert all((ROOT / path).is_file() for path in closure.WITHOUT_EFFECT)
    reporting = {"pipeline.training.costs", "pipeline.training.curves", "pipeline.training.memory"}
    reporting |= {"pipeline.training.free_memory", "pipeline.training.ledger"}
    users = {user for module in reporting for user in graph.find_modules_that_directly_import(module)} - reporting
    assert users == {f"pipeline.training.{name}" for name in ("run", "fit", "store", "frame_outputs")}


def copy_of(folder: Path) -> Path:
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def changed(root: Path, path: str) -> set[str]:
    """Stages whose list of code changes with one file."""
    before = {name: closure.of_stage(name, CHOSEN, root=root) for name in closure.KINDS}
    with (root / path).open("a") as stream:
        stream.write("\n# changed\n")
    return {name for name, code in before.items() if closure.of_stage(name, CHOSEN, root=root) != code}


@pytest.mark.parametrize(
    ("path", "stages"),
    [
        ("pipeline/losses/cirkd.py", {"distill", "qat"}),
        ("pipeline/losses/_queues.py", {"distill", "qat"}),
        ("pipeline/losses/kd.py", set()),
        ("pipeline/training/memory.py", set()),
        ("pipeline/errors.py", set()),
        ("pipeline/settings/loss_mixture.py", set()),
        ("pipeline/preparation/survey.py", {"prepare", "prepare_unlabelled"}),
        ("pipeline/preparation/unlabelled.py", {"prepare_unlabelled"}),
        ("pipeline/video/selection.py", {"prepare_unlabelled"}),
        ("pipeline/video/segmenter.py", set()),
        ("pipeline/settings/unlabelled.py", set()),
        ("pipeline/settings/training_params.py", set()),
        ("pipeline/preparation/prepare.py", {"prepare"}),
        ("pipeline/datasets/camvid.py", {"prepare"}),
        ("pipeline/datasets/streets.py", set()),
        ("pipeline/runtimes/_tensorrt/builder.py", {"convert", "check"}),
        ("pipeline/quantization/cpu.py", {"qat", "quantize"}),
        ("pipeline/reporting/report.html.j2", {"report"}),
        ("stages/gate.py", {"gate"}),
    ],
)
def test_a_changed_file_changes_only_the_lists_that_contain_it(tmp_path: Path, path: str, stages: set[str]) -> None:
    assert changed(copy_of(tmp_path), path) == stages


def test_imports_of_every_form_are_found(tmp_path: Path) -> None:
    texts = {
        "stages/start.py": "from pipeline import a\nimport torch\nTEMPLATE = 'page.html'\n",
        "stages/page.html": "<p>",
        "pipeline/__init__.py": "",
        "pipeline/a.py": "def f():\n    import pipeline.sub.b\n",
        "pipeline/sub/__init__.py": "from ._c import x\n",
        "pipeline/sub/b.py": "from .. import d\nfrom pipeline.sub import _c\n",
        "pipeline/sub/_c.py": "x = 'd.py'\n",
        "pipeline/sub/d.py": "",
        "pipeline/d.py": "",
        "pipeline/e.py": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert set(closure.code(["stages/start.py"], root=tmp_path)) == set(texts) - {
        "pipeline/e.py",
        "pipeline/sub/d.py",
    }


@pytest.mark.parametrize("name", plugins.available("losses"))
def test_the_sources_of_a_loss_are_code_of_the_training(name: str) -> None:
    code = closure.of_stage("distill", {**CHOSEN, "losses": [name]})
    sources = loss_mixture.sources([name])
    assert f"pipeline/losses/{name}.py" in sources and sources.items() <= code.items()
