"""Label Studio's JSON: geometries in percent, brushes in the file or as PNG files, and the search for images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.datasets._label_studio_shapes import drawn
from pipeline.datasets.label_studio import LabelStudio
from pipeline.errors import UserError

Write = Callable[..., Path]
SIZE = (12, 16)
GEOMETRY = {"original_width": 16, "original_height": 12, "image_rotation": 0}


@pytest.fixture
def options(tmp_path: Path, makers: dict[str, Callable[[Path], dict[str, Any]]]) -> dict[str, Any]:
    return makers["label_studio"](tmp_path)


def change(options: dict[str, Any], edit: Callable[[list[Any]], object]) -> None:
    file = Path(options["root"]) / "annotations.json"
    data = json.loads(file.read_text())
    edit(data)
    file.write_text(json.dumps(data))


def everything(dataset: LabelStudio) -> dict[str, Any]:
    return {name: dataset.read(split, name)[1] for split, names in dataset.splits().items() for name in names}


def region(label: str, kind: str = "rectangle", **value: Any) -> dict[str, Any]:
    return {**GEOMETRY, "type": f"{kind}labels", "value": {**value, f"{kind}labels": [label]}}


def box(label: str) -> dict[str, Any]:
    return region(label, x=0, y=0, width=50, height=50, rotation=0)


def test_a_small_root_to_the_pixel(options: dict[str, Any]) -> None:
    """The label of the brush is in a separate result; choices are not a shape."""
    dataset = LabelStudio(**options)
    expected = np.full(SIZE, 255)
    expected[6:] = 0
    expected[6:9, 4:8] = 1
    expected[2:5, 3:11] = 2
    labels = everything(dataset)
    assert dataset.problems() == () and sorted(labels) == [f"images__{name}__1" for name in "abcdef"]
    assert all(np.array_equal(label, expected) for label in labels.values())


def test_geometries_are_in_percent_of_the_image() -> None:
    def pixels(kind: str, **value: Any) -> list[tuple[int, int]]:
        return [(int(y), int(x)) for y, x in np.argwhere(drawn(kind, value, SIZE))]

    assert pixels("polygon", points=[[0, 0], [12.5, 0], [12.5, 25], [0, 25]]) == [
        (y, x) for y in range(3) for x in (0, 1)
    ]
    assert pixels("rectangle", x=50, y=50, width=12.5, height=25) == [(y, x) for y in (6, 7, 8) for x in (8, 9)]
    turned = pixels("rectangle", x=50, y=50, width=12.5, height=25, rotation=90)  # about its top left corner
    assert turned == [(y, x) for y in (6, 7) for x in (5, 6, 7)]
    disc = pixels("ellipse", x=50, y=50, radiusX=12.5, radiusY=100 / 6)  # x and y are its centre
    assert len(disc) == 12 and np.mean(disc, axis=0).tolist() == [5.5, 7.5]


def test_the_annotation_that_is_used(options: dict[str, Any]) -> None:
    sky, car = [box("sky")], [box("car")]

    def edit(tasks: list[Any]) -> None:
        tasks[0]["annotations"] = [{"id": 1, "result": sky}, {"id": 2, "result": car}]
        tasks[1]["annotations"] = [{"id": 1, "result": sky, "ground_truth": True}, {"id": 2, "result": car}]
        tasks[2]["annotations"] = [{"id": 1, "result": sky}, {"id": 2, "result": car, "was_cancelled": True}]
        tasks[3]["annotations"] = [{"id": 1, "result": sky, "was_cancelled": True}]
        tasks[4]["annotations"] = [{"id": 1, "result": []}]

    change(options, edit)
    dataset = LabelStudio(**options)
    labels = everything(dataset)
    assert [int(labels[f"images__{name}__1"][0, 0]) for name in "abc"] == [1, 2, 2]
    assert "images__d__1" not in labels and (labels["images__e__1"] == 255).all()
    left_out, empty = dataset.warnings()[-2:]
    assert left_out == "1 tasks without an annotation are left out"
    assert empty.startswith(
        "1 images have no shape, for example annotations.json: task 4; all their pixels are ignored"
    )


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/8/0a1b2c3d-only.png", "/data/upload/only.png", "s3://bucket/x/only.png", "only.png",
        "http://127.0.0.1/only.png?token=1", "/data/local-files/?d=deep%2Fonly.png", "C:\\\\pictures\\\\only.png",
    ],
)  # fmt: skip
def test_images_are_found_by_their_names(options: dict[str, Any], write_image: Write, address: str) -> None:
    write_image(Path(options["root"]) / "deep/only.png", np.zeros((*SIZE, 3), np.uint8))
    task = {"id": 7, "data": {"img": address, "n": 3}, "annotations": [{"result": []}]}
    change(options, lambda tasks: tasks.append(task))
    assert "deep__only" in everything(LabelStudio(**{**options, "sequence": ".+"}))


def first(tasks: list[Any]) -> Any:
    """The polygon of the first task."""
    return tasks[0]["annotations"][0]["result"][0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tasks: tasks[0]["data"].update(image="x/gone.jpg"), "task 0: x/gone.jpg: no such image below"),
        (lambda tasks: tasks[0]["data"].update(image="1.jpg"), "task 0: 1.jpg: 6 images with this name below"),
        (lambda tasks: tasks[0]["data"].update(image="text"), "task 0: data names 0 images"),
        (lambda tasks: tasks[0]["data"].update(image="../../images/b/1.jpg"), "is also the image of another task"),
        (lambda tasks: tasks[0].pop("annotations"), "task 0: no annotations; export as JSON, not as JSON-MIN"),
        (
            lambda tasks: tasks[0]["annotations"].__setitem__(0, {"result": [box("tree")]}),
            "label 'tree' belongs to no class",
        ),
        (lambda tasks: first(tasks).update(image_rotation=90), "image_rotation 90"),
        (
            lambda tasks: first(tasks).update(original_width=9),
            "its shapes are for images of",
        ),
        (
            lambda tasks: first(tasks).update(type="keypointlabels"),
            "of type keypointlabels; allowed: brush",
        ),
        (
            lambda tasks: first(tasks)["value"].update(polygonlabels=["a", "b"]),
            "labels ['a', 'b']",
        ),
        (
            lambda tasks: first(tasks)["value"].pop("polygonlabels"),
            "a polygon with labels []",
        ),
        (lambda tasks: tasks.__setitem__(0, 3), "task 3: not in Label Studio's format"),
        (lambda tasks: tasks.clear(), "not a list of tasks"),
    ],
)
def test_errors_of_the_file_are_reported(
    options: dict[str, Any], edit: Callable[[list[Any]], object], message: str
) -> None:
    change(options, edit)
    errors = "; ".join(LabelStudio(**options).problems())
    assert message in errors


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"format": "png"}, "a brush in the format 'png'"),
        ({"rle": [1, 2, 3]}, "a damaged brush: it is truncated"),
        ({"rle": "x"}, "must be a list of bytes"),
    ],
)
def test_brushes_that_cannot_be_read(options: dict[str, Any], value: dict[str, Any], message: str) -> None:
    change(options, lambda tasks: tasks[0]["annotations"][0]["result"][2]["value"].update(value))
    dataset = LabelStudio(**options)
    with pytest.raises(UserError, match=r"annotations\.json: task 0: shape 3 \(sky\): .*" + message):
        everything(dataset)


def test_brushes_as_png_files(options: dict[str, Any], write_image: Write) -> None:
    """One file for each label and number; a label may have hyphens."""
    root = Path(options["root"])
    sky, car = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    sky[:3], car[2:4, :2] = 255, 255
    for task in range(6):
        write_image(root / f"masks/task-{task}-annotation-9-by-me@x.org-tag-sky-blue-0.png", sky)
        write_image(root / f"masks/task-{task}-annotation-9-by-me@x.org-tag-car-0.png", car)
    options = {**options, "classes": {"road": ["road"], "car": ["car"], "sky": ["sky-blue"]}, "masks": "masks"}
    dataset = LabelStudio(**options)
    assert dataset.problems() == ()
    expected = np.full(SIZE, 255)
    expected[6:] = 0
    expected[6:9, 4:8] = 1
    expected[2:4, :2] = 1
    expected[:3] = 2
    assert all(np.array_equal(label, expected) for label in everything(dataset).values())
    write_image(root / "masks/odd.png", sky)
    write_image(root / "masks/task-1-annotation-9-by-me@x.org-tag-car-0.png", car[:5])
    odd = LabelStudio(**options)
    assert "odd.png: unknown name; allowed: task-ID-annotation-ID-by-USER-TAG-LABEL-NUMBER.png" in odd.problems()[0]
    with pytest.raises(UserError, match=r"car-0\.png: shape \[5, 16\]; allowed: one channel of \[12, 16\]"):
        everything(odd)
