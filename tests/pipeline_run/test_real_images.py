"""The whole graph on real images. A file of its own: another process of pytest-xdist runs it beside test_graph.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline_run.conftest import clone, dvc, tiny

pytestmark = pytest.mark.slow


def test_the_same_graph_runs_on_real_images(real_data: Path, tmp_path: Path) -> None:
    def on_camvid(params: dict[str, Any]) -> None:
        tiny(params)
        params["dataset"] = "camvid"
        params["input_size"] = [96, 128]
        params["datasets"]["camvid"]["root"] = str((real_data / "camvid").resolve())
        del params["students"]["alone"]

    folder = clone(tmp_path / "camvid", on_camvid)
    status, output, _ = dvc(folder, "repro")
    assert status == 0, output
    results = json.loads((folder / "results/kd.json").read_text())
    assert results["dataset"] == "camvid" and results["images"] == 101 and len(results["classes"]) == 11
