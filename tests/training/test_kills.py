"""A run that is killed five times ends with the same bits as a run without interruption."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_five_kills_change_nothing(tmp_path: Path) -> None:
    """With CIRKD's memory, an averaged student and loader processes; some kills come while a checkpoint is written."""
    command = [sys.executable, "benchmarks/kills.py", "--kills", "5", "--json", str(tmp_path / "record.json")]
    process = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert process.returncode == 0, process.stdout + process.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["kills"] == 5 and record["while_writing"] >= 1 and record["differs"] == []
