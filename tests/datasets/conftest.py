"""CamVid in small: the official layout with random pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.frames import write_png

PREFIX = "/SegNet/CamVid/"  # of the author's machine, as the official lists carry it
NAMES = {"train": ("0001TP_006690", "0001TP_006720", "0016E5_00390"), "val": ("0016E5_07959", "0016E5_07961")}


@pytest.fixture
def camvid_root(tmp_path: Path) -> Path:
    """A folder ``CamVid`` with lists, images and masks of ids 0..11."""
    root = tmp_path / "raw" / "CamVid"
    generator = np.random.default_rng(0)
    for split, names in NAMES.items():
        lines = [f"{PREFIX}{split}/{name}.png {PREFIX}{split}annot/{name}.png\n" for name in names]
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.txt").write_text("".join(lines))
        for name in names:
            mask = generator.integers(0, 12, (12, 16), dtype=np.uint8)
            mask[0, :12] = range(12)
            write_png(root / split / f"{name}.png", generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            write_png(root / f"{split}annot" / f"{name}.png", mask)
    return root
