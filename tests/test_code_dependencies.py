"""The code dependencies in dvc.yaml are exactly what each stage imports: no result goes stale in silence."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import grimp
import pytest
from ruamel.yaml import YAML

from pipeline import plugins, recipes

ROOT = Path(__file__).parents[1]
#: Checks, messages and bars: they carry values and decide no result.
PLUMBING = {
    "pipeline",
    "pipeline.params",
    "pipeline.plugin_options",
    "pipeline.yaml_file",
    "pipeline.errors",
    "pipeline.progress",
    "pipeline.inspection",
    "pipeline.contact_sheet",
}
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("pipeline")


def is_plugin(module: str) -> bool:
    parts = module.split(".")
    return len(parts) == 3 and parts[1] in plugins.KINDS and parts[2] in plugins.available(parts[1])


def imported(script: Path, graph: grimp.ImportGraph) -> set[str]:
    """Modules of `pipeline` that a script imports, directly and indirectly, chosen plugins left out."""
    direct: set[str] = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pipeline":
            direct.add(node.module)
            direct.update(f"{node.module}.{alias.name}" for alias in node.names)
    found, queue = set(), [module for module in direct if module in graph.modules]
    while queue:
        module = queue.pop()
        if module in found or module in PLUMBING:
            continue
        found.add(module)
        parents = [".".join(module.split(".")[:i]) for i in range(1, module.count(".") + 1)]
        queue += [*graph.find_modules_directly_imported_by(module), *parents]
    return {module for module in found if not is_plugin(module)}


def plugin_modules(kind: str, graph: grimp.ImportGraph) -> set[str]:
    """What the plugins of a kind import of their own kind: its private modules."""
    names = [f"pipeline.{kind}.{name}" for name in plugins.available(kind)]
    private: set[str] = set()
    queue = list(names)
    while queue:
        for module in graph.find_modules_directly_imported_by(queue.pop()):
            if module.startswith(f"pipeline.{kind}._") and module not in private:
                private.add(module)
                queue.append(module)
    return private


def as_file(module: str) -> str:
    """The dependency that stands for a module; a private package of a plugin is one dependency, its folder."""
    parts = module.split(".")
    if len(parts) > 2 and parts[1] in plugins.KINDS and (ROOT / Path(*parts[:3])).is_dir():
        parts = parts[:3]
        return str(Path(*parts))
    path = Path(*parts)
    return str(path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py"))


#: Which kinds of plugin a stage makes: it depends on the chosen one, and on the private modules of the kind.
USES = {
    "device": {"runtimes"},
    "raw_data": {"datasets"},
    "prepare": {"datasets"},
    "weights": set(),
    "train_teacher": {"models"},
    "losses": set(),  # depends on the whole folder of losses
    "distill": {"models"},  # and on its losses by the file that the stage `losses` writes
    "export": {"models"},
    "qat": {"models"},
    "calibrate": set(),
    "quantize": set(),
    "convert": {"runtimes"},
    "check": {"models", "runtimes"},
    "report": set(),
    "gate": set(),
}


@pytest.mark.parametrize("name", sorted(STAGES))
def test_dependencies_are_what_the_stage_imports(name: str, graph: grimp.ImportGraph) -> None:
    stage = STAGES[name].get("do", STAGES[name])
    declared = [str(dep) for dep in stage["deps"] if str(dep).startswith(("pipeline/", "stages/"))]
    expected = {as_file(module) for module in imported(ROOT / f"stages/{name}.py", graph)}
    for kind in USES[name]:
        expected |= {as_file(module) for module in plugin_modules(kind, graph)}
        assert any(re.match(rf"pipeline/{kind}/\$\{{.+\}}\.py", dep) for dep in declared), f"{kind} plugin is no dep"
    others = {"report": {"pipeline/reporting/report.html.j2"}, "losses": {"pipeline/losses"}}
    expected |= {f"stages/{name}.py"} | others.get(name, set())
    assert sorted(dep for dep in declared if "$" not in dep) == sorted(expected)


def test_distill_depends_on_its_losses_by_their_recipe_alone() -> None:
    stage = STAGES["distill"]["do"]
    assert "artifacts/losses/${key}.json" in stage["deps"] and STAGES["losses"]["outs"] == ["artifacts/losses"]
    assert "--loss artifacts/losses/${key}.json" in stage["cmd"]
    assert not [value for value in (*stage["deps"], *stage["params"]) if "loss" in value and "$" in value][1:]


@pytest.mark.parametrize("name", plugins.available("losses"))
def test_a_recipe_names_all_the_code_of_its_losses(name: str, graph: grimp.ImportGraph) -> None:
    """Files of pipeline/losses in the recipe, all others among the dependencies of distill."""
    found, queue = set(), [f"pipeline.losses.{name}"]
    while queue:
        if (module := queue.pop()) not in found | PLUMBING:
            found.add(module)
            queue += graph.find_modules_directly_imported_by(module)
    ours = {module for module in found if module.startswith("pipeline.losses.")}
    assert set(recipes.sources([name])) == {f"{module.split('.')[-1]}.py" for module in ours}
    assert found - ours <= imported(ROOT / "stages/distill.py", graph)
