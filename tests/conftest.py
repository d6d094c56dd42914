"""What tests share: where real data lies, and what happens where it does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SEGPRESS_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data sets, weights and videos. Absent: the test skips; with SEGPRESS_REQUIRE_DATA set it fails."""
    if not DATA.is_dir():
        reason = f"needs real data in {DATA}, which is not part of the project; set SEGPRESS_DATA to its folder"
        if os.environ.get("SEGPRESS_REQUIRE_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    return DATA
