"""A prepared data set of a few rendered frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import datasets
from pipeline.preparation import prepare
from pipeline.prepared import Prepared


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    out: Path = tmp_path_factory.mktemp("data") / "dataset"
    options = {"train": 10, "val": 3, "sequence": 0, "size": [64, 96], "seed": 3}
    prepare(
        datasets.build("streets", options), out, name="streets", options=options, progress=lambda split, total: None
    )
    return Prepared(out)
