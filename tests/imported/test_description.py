"""The description file: all its problems are reported at once, each with the allowed values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.imported import description


def test_the_defaults(described: Any, tmp_path: Path) -> None:
    loaded = described(None)
    assert (loaded.mean, loaded.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert (loaded.layout, loaded.output_layout, loaded.head, loaded.input_size) == ("NCHW", None, None, None)
    assert loaded.model == tmp_path / "model.onnx" and loaded.labels.ignore_index == 255 and loaded.rest == "ignore"


def test_one_number_is_used_for_three_channels(described: Any) -> None:
    assert described(None, mean=0.5, std=[0.1, 0.2, 0.3]).mean == (0.5, 0.5, 0.5)


def test_a_colour_may_be_hexadecimal(described: Any) -> None:
    loaded = described(None, palette=["#8000ff", "#fff", [1, 2, 3]])
    assert loaded.labels.palette == ((128, 0, 255), (255, 255, 255), (1, 2, 3))


def test_all_problems_are_reported_at_once(described: Any) -> None:
    with pytest.raises(UserError) as caught:
        described(
            None, chanel_order="RGB", output="scores", mean=[123.7, 116.3, 103.5], std=0.0, input_size=[0, 64],
            classes="road", channel_order=None,
        )  # fmt: skip
    message = str(caught.value)
    assert "own.yaml: 7 problems" in message
    for part in (
        "chanel_order: unknown key; did you mean 'channel_order'?",
        "channel_order: missing",
        "output: got 'scores'; allowed: 'logits' or 'labels'",
        "mean: got [123.7, 116.3, 103.5]; pixels are 0 to 1 here; divide values in 0..255 by 255, also those of std",
        "std: got 0.0; pixels are divided by it",
        "input_size.0: got 0",
        "classes: got 'road'; allowed: a list",
    ):
        assert part in message, message


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"palette": [[1, 2, 3]]}, "palette has 1 colours for 3 classes"),
        (
            {"palette": ["red", *3 * ["#000"]]},
            "palette.0: got 'red'; allowed: [red, green, blue] with integers in 0..255",
        ),
        ({"palette": [[0, 0, 256], [0, 0, 0], [1, 1, 1]]}, "palette.0: got [0, 0, 256]; allowed: [red, green, blue]"),
        ({"palette": [7, [0, 0, 0], [1, 1, 1]]}, "palette.0: got 7"),
        ({"ignore_index": 2}, "ignore_index: got 2; allowed: 3..255"),
        ({"classes": ["a", "a", "b"]}, "class names must be unique"),
        ({"original_ids": [23, 7, 26]}, "original_ids and original_ignored: set both or neither"),
        ({"original_ids": [23, 7], "original_ignored": 0}, "original_ids has 2 ids for 3 classes"),
        ({"merge": {"raod": ["road"]}}, "merge.raod: no class of the network; did you mean 'road'?"),
        ({"merge": {"sky": ["x"], "car": ["x"]}}, "merge.car: 'x' is already listed for sky"),
        ({"classes": ["car"], "palette": [[1, 2, 3]]}, "name the others first: background"),
        ({"threshold": 0.3, "output": "labels"}, "threshold: only for `output: logits` with one channel"),
        ({"ids": {"road": [255]}}, "ids: only for `output: labels`"),
        ({"ids": {"raod": [255]}, "output": "labels"}, "ids.raod: not in `classes`; did you mean 'road'?"),
        ({"ids": {"sky": [1]}, "output": "labels"}, "ids: 1 means sky and road; list the ids of road too"),
        ({"ids": {"sky": [-1]}, "output": "labels"}, "ids.sky.0: got -1"),
        ({"rest": "skyy"}, "rest: got 'skyy'; did you mean 'sky'?"),
    ],
)
def test_contradictions(described: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        described(None, **keys)
    assert message in str(caught.value)


def test_a_missing_file_and_invalid_yaml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.yaml: no such file; name the description of your network"):
        description.load(tmp_path / "none.yaml")
    (tmp_path / "own.yaml").write_text("model: [")
    with pytest.raises(UserError, match=r"own.yaml:1:9: not valid YAML"):
        description.load(tmp_path / "own.yaml")
