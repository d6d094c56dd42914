"""The stages of dvc.yaml as steps in a folder of their own."""

from __future__ import annotations

from pathlib import Path

import yaml

from pipeline.verbs import _graph, _study

ROOT = Path(__file__).parents[2]


def test_a_run_has_the_stages_of_the_graph(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    names = [name for name in graph if name not in ("report", "gate")]
    plan = _graph.steps(tmp_path, names, student="kd")
    assert [step.name for step in plan] == names
    for step in plan:
        body = graph[step.name].get("do", graph[step.name])
        outputs = [next(iter(each)) if isinstance(each, dict) else each for each in body.get("outs", ())]
        outputs += [next(iter(each)) for kind in ("metrics", "plots") for each in body.get(kind, ())]
        assert [str(path.relative_to(tmp_path)) for path in step.outputs] == [
            o.replace("${key}", "kd") for o in outputs
        ]
        wanted = {dependency.replace("${key}", "kd") for dependency in body.get("deps", ())}
        assert set(step.inputs) == wanted | {"params"}
        assert step.always == bool(body.get("always_changed"))
        assert not any("$" in str(argument) for argument in step.run.args)  # type: ignore[attr-defined]
    distill = next(step for step in plan if step.name == "distill")
    model = yaml.safe_load((ROOT / "params.yaml").read_text())["students"]["kd"]["model"]
    assert distill.inputs["params"]["students.kd.model"] == model


def test_the_code_of_a_stage_is_an_input() -> None:
    """Through the stage sources, as in DVC: so a study runs again what new code changes."""
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name in (*_study.SHARED, "distill", "qat", *_study.DEPLOYED):
        if name not in ("device", "raw_data", "sources"):
            body = graph[name].get("do", graph[name])
            assert any(dependency.startswith("artifacts/sources/") for dependency in body["deps"]), name
