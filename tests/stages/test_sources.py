"""stages/sources.py: what it writes for each stage, beside the code, which tests/provenance checks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


def sources(folder: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """The written facts by stage, or stage and student."""
    with (folder / "params.yaml").open("w") as stream:
        YAML().dump(raw, stream)
    out = folder / "sources"
    command = [sys.executable, "stages/sources.py", "--params", str(folder / "params.yaml"), "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return {
        file.relative_to(out).with_suffix("").as_posix(): json.loads(file.read_text()) for file in out.rglob("*.json")
    }


def test_values_that_params_yaml_leaves_out_are_part_of_the_stages_that_use_them(tmp_path: Path) -> None:
    raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    assert not [name for name, facts in sources(tmp_path, raw).items() if "defaults" in facts]
    for section, key in (("distill", "ema"), ("distill", "class_balance"), ("export", "confidence")):
        del raw[section][key]
    del raw["distill"]["unlabelled"]["keep"]
    written = sources(tmp_path, raw)
    left_out = {"ema": None, "class_balance": 0.0, "unlabelled": {"keep": 0.5}}
    assert {name: facts["defaults"] for name, facts in written.items() if "defaults" in facts} == {
        **{f"{stage}/{student}": left_out for stage in ("distill", "qat") for student in ("alone", "kd")},
        **{f"export/{student}": {"confidence": False} for student in ("alone", "kd")},
    }
    raw["teacher"]["train"] = False
    assert "defaults" not in sources(tmp_path, raw)["train_teacher"]


def test_more_teachers_are_part_of_the_stages_that_learn_from_them(tmp_path: Path) -> None:
    raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "weights.safetensors").write_bytes(b"one")
    raw["distill"]["teaching"]["others"] = [str(other)]
    network = {"name": "smp", "architecture": "fpn", "encoder": "tu-resnet10t", "weights": str(other)}
    raw["distill"]["stage0"]["model"] = network
    before = sources(tmp_path, raw)
    assert {name for name, facts in before.items() if "teachers" in facts} == {
        f"{stage}/{student}" for stage in ("distill", "qat") for student in ("alone", "kd")
    }
    (other / "weights.safetensors").write_bytes(b"two")
    after = sources(tmp_path, raw)
    assert after["distill/kd"]["teachers"] != before["distill/kd"]["teachers"]
    assert list(after["distill/kd"]["teachers"]) == [str(other)]
    assert {name for name, facts in before.items() if "features" in facts} == {"distill/alone", "distill/kd"}
    assert after["distill/kd"]["features"] != before["distill/kd"]["features"]
