"""Confidence of a real engine: files and overlays of the stage, and results of a segmenter."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline import runtimes
from pipeline.errors import UserError
from pipeline.frames import Array, read_label_map, write_png
from pipeline.labels import LabelSpec
from pipeline.runtimes._base import NO_CONFIDENCE
from pipeline.video.segmenter import Segmenter

#: Colours (BGR) of four stripes, what the deploy graph below says of each: the label, and its confidence.
STRIPES = ((0, 0, 0), (64, 0, 0), (0, 128, 0), (0, 0, 192))
LABELS = (0, 0, 1, 2)
CONFIDENCE = (85, 153, 209, 237)  # 255 times 1/3, 3/5, 9/11 and 27/29


# a real engine, and the stage


@pytest.fixture(scope="module")
def engine_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Engines of ONNX Runtime with the second output and without it. The channels of a frame (8, 16), times ln(3) / 64,
    are the logits of three classes."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    node, numbers, kinds = onnx.helper.make_node, onnx.numpy_helper.from_array, onnx.TensorProto
    constants = {
        "scale": np.array(np.log(3) / 64, np.float32),
        "full": np.array(255, np.float32),
        "channels": np.array([1], np.int64),
    }
    nodes = [
        node("Cast", ["frames"], ["floats"], to=kinds.FLOAT),
        node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        node("Mul", ["planes", "scale"], ["logits"]),
        node("ArgMax", ["logits"], ["ids"], axis=1, keepdims=0),
        node("Cast", ["ids"], ["labels"], to=kinds.UINT8),
    ]
    more = [
        node("Softmax", ["logits"], ["shares"], axis=1),
        node("ReduceMax", ["shares", "channels"], ["largest"], keepdims=0),
        node("Mul", ["largest", "full"], ["scaled"]),
        node("Round", ["scaled"], ["rounded"]),
        node("Cast", ["rounded"], ["confidence"], to=kinds.UINT8),
    ]
    value = onnx.helper.make_tensor_value_info
    folder = tmp_path_factory.mktemp("engines")
    labels = LabelSpec(names=("road", "car", "sky"), palette=((200, 0, 0), (0, 200, 0), (0, 0, 200)))
    runtime = runtimes.build("onnxruntime", {"threads": 1})
    for confident in (False, True):
        outputs = ["labels", "confidence"] if confident else ["labels"]
        graph = onnx.helper.make_graph(
            nodes + (more if confident else []),
            "deploy",
            [value("frames", kinds.UINT8, [1, 8, 16, 3])],
            [value(name, kinds.UINT8, [1, 8, 16]) for name in outputs],
            [numbers(array, name) for name, array in constants.items() if confident or name == "scale"],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, folder / "deploy.onnx")
        runtimes.build_engine(
            runtime,
            folder / "deploy.onnx",
            folder / str(confident),
            name="onnxruntime",
            options={"threads": 1},
            meta={**labels.to_meta(), "precision": "fp32", "parents": {}},
        )
    return {confident: folder / str(confident) for confident in (False, True)}


def stripes(size: tuple[int, int] = (16, 32), order: Sequence[int] = (0, 1, 2, 3)) -> Array:
    colours = np.array(STRIPES, np.uint8)[list(order)]
    return np.tile(np.repeat(colours, size[1] // 4, axis=0), (size[0], 1, 1))


def columns(values: Sequence[int]) -> Array:
    """(16, 32) of what each stripe has."""
    return np.tile(np.repeat(np.array(values, np.uint8), 8), (16, 1))


@pytest.fixture
def infer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine_folders: dict[bool, Path]) -> Callable[..., int]:
    """Calls the stage on two images of stripes, the second with its stripes reversed, in another working directory."""
    script = Path(__file__).parents[2] / "stages/infer.py"
    spec = importlib.util.spec_from_file_location("infer_stage", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, order in (("a", (0, 1, 2, 3)), ("b", (3, 2, 1, 0))):
        write_png(tmp_path / f"frames/{name}.png", stripes(order=order))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def call(*args: object, confident: bool = True) -> int:
        given = ["infer.py", str(engine_folders[confident]), str(tmp_path / "frames"), *map(str, args)]
        monkeypatch.setattr(sys, "argv", given)
        return int(module.main())

    return call


def read_png(path: str) -> Array:
    image = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image, np.uint8)


def test_the_engine(engine_folders: dict[bool, Path]) -> None:
    engine, _ = runtimes.open_engine(engine_folders[True])
    frames = stripes((8, 16))[np.newaxis]
    label_maps, confidence = engine.run_with_confidence(frames)
    assert engine.gives_confidence
    assert label_maps[0, 3, ::4].tolist() == list(LABELS)
    assert confidence[0, 3, ::4].tolist() == list(CONFIDENCE)
    assert np.array_equal(engine.run(frames), label_maps)
    without, _ = runtimes.open_engine(engine_folders[False])
    assert not without.gives_confidence
    with pytest.raises(UserError, match="this engine gives no confidence; set export"):
        without.run_with_confidence(frames)


def test_the_stage(infer: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    outputs = ("--masks", "m", "--lines", "l.jsonl", "--json", "s.json")
    assert infer(*outputs, "--confidence", "c") == 0
    assert "written: c\n" in capsys.readouterr().out
    assert sorted(path.name for path in Path("c").iterdir()) == ["a.png", "b.png", "confidence.json"]
    assert np.array_equal(read_png("c/a.png"), columns(CONFIDENCE))
    assert np.array_equal(read_png("c/b.png"), columns(CONFIDENCE[::-1]))
    assert np.array_equal(read_label_map(Path("m/a.png")), columns(LABELS))
    expected = {"road": round((85 + 153) / 510, 4), "car": round(209 / 255, 4), "sky": round(237 / 255, 4)}
    for line in map(json.loads, Path("l.jsonl").read_text().splitlines()):
        assert line["confidence"] == expected
        assert line["mean_confidence"] == round(sum(CONFIDENCE) / 4 / 255, 4)
    assert json.loads(Path("s.json").read_text())["confidence"] == expected
    masks = {name: Path(f"m/{name}").read_bytes() for name in ("a.png", "b.png")}
    assert infer("--masks", "m", "--out", "o", confident=False) == 0
    assert masks == {name: Path(f"m/{name}").read_bytes() for name in masks}, "the labels are the same without"
    assert infer("--confidence", "c", "--region", "16,0,16,16") == 0, "the folder is replaced"
    assert read_png("c/a.png")[0, ::8].tolist() == [0, 0, 209, 237]


def test_the_stage_with_an_ignored_zone(infer: Callable[..., int]) -> None:
    points = [[0, 0], [8, 0], [8, 16], [0, 16]]
    Path("z.json").write_text(json.dumps({"zones": [{"name": "mount", "ignore": True, "points": points}]}))
    outputs = ("--out", "o", "--confidence", "c", "--lines", "l.jsonl", "--alpha", 1, "--no-legend")
    assert infer("--zones", "z.json", "--uncertainty", *outputs) == 0
    assert read_png("c/a.png")[0, ::8].tolist() == [0, *CONFIDENCE[1:]]
    line = json.loads(Path("l.jsonl").read_text().splitlines()[0])
    assert line["confidence"] == {"road": 0.6, "car": round(209 / 255, 4), "sky": round(237 / 255, 4)}
    assert line["mean_confidence"] == round(sum(CONFIDENCE[1:]) / 3 / 255, 4)
    picture = read_png("o/a.png")
    assert (picture[5:11, 3:5] == 0).all(), "as the frame; the outline is around it"
    assert abs(picture[8, 12].astype(int) - warm(stripes()[8, 12], 153, alpha=1.0)).max() <= 1.5


@pytest.mark.parametrize(
    ("args", "options"),
    [
        (["--uncertainty"], "--uncertainty"),
        (["--confidence", "c", "--masks", "m"], "--confidence"),
        (["--uncertainty", "--confidence", "c"], "--uncertainty and --confidence"),
    ],
)
def test_an_engine_without_it_is_refused(
    infer: Callable[..., int], args: list[str], options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer(*args, "--lines", "l.jsonl", "--json", "s.json", confident=False) == 1
    assert capsys.readouterr().err == f"error: {options}: {NO_CONFIDENCE}\n"
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--uncertainty", "--masks", "m"], "--uncertainty changes the overlay, and this run writes and shows none"),
        (["--benchmark", "--confidence", "c"], "--benchmark writes nothing; leave"),
        (["--confidence", "c.png"], "c.png: confidence is a folder of PNG files"),
        (["--confidence", "-"], "--confidence -: pictures are not written to standard output"),
        (["--confidence", "m", "--masks", "m"], "m: named for two things; name two places"),
    ],
)
def test_options_that_do_not_fit(
    infer: Callable[..., int], args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer(*args) == 1
    assert f"error: {message}" in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_masks_are_not_replaced_by_confidence(infer: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert infer("--masks", "m") == 0
    assert infer("--confidence", "m") == 1
    assert "m: holds files that segpress did not write" in capsys.readouterr().err
    assert sorted(path.name for path in Path("m").iterdir()) == ["a.png", "b.png", "classes.json"]


def test_segmenter(engine_folders: dict[bool, Path]) -> None:
    frames = [stripes(), stripes(order=(3, 2, 1, 0))]
    with Segmenter(engine_folders[True], region="8,0,24,16") as segmenter:
        assert segmenter.gives_confidence
        results = list(segmenter.stream(iter(frames), confidence=True))
        assert [len(items) for items in segmenter.stream(frames)] == [2, 2]
        for frame, (given, mask, confidence) in zip(frames, results, strict=True):
            assert np.array_equal(given, frame)
            again = segmenter.mask_and_confidence(frame)
            assert np.array_equal(again[0], mask) and np.array_equal(again[1], confidence)
            assert np.array_equal(segmenter.mask(frame), mask)
            assert (confidence[:, :8] == 0).all() and (mask[:, :8] == 255).all()
    assert results[0][2][0, 20] == 209 and results[0][1][0, 20] == 1
    with Segmenter(engine_folders[False]) as segmenter:
        with pytest.raises(UserError, match="gives no confidence"):
            segmenter.mask_and_confidence(frames[0])
        with pytest.raises(UserError, match="gives no confidence"):
            segmenter.stream(frames, confidence=True)  # at once, not with the first frame


def warm(colour: Array, confidence: int, *, alpha: float) -> Any:
    """The colour of a pixel in the overlay of uncertainty: inferno, as opaque as ``alpha`` from one half on."""
    heat = cv2.applyColorMap(np.array([[255 - confidence]], np.uint8), cv2.COLORMAP_INFERNO)[0, 0]
    opacity = alpha * min(1.0, 2 * (1 - confidence / 255))
    return (1 - opacity) * colour.astype(float) + opacity * heat.astype(float)
