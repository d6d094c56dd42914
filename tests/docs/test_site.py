"""The site: every page is in its navigation, and Zensical finds no broken link."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomllib

from tests.docs import pages


def listed(entry: Any) -> list[str]:
    """The files of an entry of the navigation."""
    if isinstance(entry, str):
        return [entry]
    return [file for part in (entry.values() if isinstance(entry, dict) else entry) for file in listed(part)]


def test_every_page_is_in_the_navigation() -> None:
    files = listed(tomllib.loads((pages.ROOT / "zensical.toml").read_text())["project"]["nav"])
    assert sorted(files) == sorted([*map(pages.name, pages.PAGES), "CHANGELOG.md"])


@pytest.mark.skipif(importlib.util.find_spec("zensical") is None, reason="zensical is not installed")
def test_the_site_is_built_and_a_broken_link_is_an_error(tmp_path: Path) -> None:
    command = [sys.executable, str(pages.ROOT / "docs/build.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    html = (tmp_path / "site/docs/params.html").read_text(encoding="utf-8")
    assert "unstable_drift" in html and (tmp_path / "site/params.yaml").is_file()
    (tmp_path / "pages/docs/data.md").write_text("# Data\n\n[away](absent.md)\n", encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode != 0 and "page does not exist" in again.stdout + again.stderr
