"""A run that is killed five times ends with the bits of one that is left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_five_kills_change_nothing(tmp_path: Path) -> None:
    """With CIRKD's memory, an averaged student and loader processes; some kills fall into writing a checkpoint."""
    command = [sys.executable, "benchmarks/kills.py", "--kills", "5", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["kills"] == 5 and found["while_writing"] >= 1 and found["differs"] == []
