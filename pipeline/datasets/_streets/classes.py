"""Train ids, names and colours of ``streets``. The order defines the train ids: never change it."""

from __future__ import annotations

from pipeline.labels import LabelSpec

ROAD, LANE_MARK, SIDEWALK, BUILDING, VEGETATION, SKY, POLE, SIGN, CAR, PEDESTRIAN, BICYCLE = range(11)

LABELS = LabelSpec(
    names=(
        "road",
        "lane_mark",
        "sidewalk",
        "building",
        "vegetation",
        "sky",
        "pole",
        "sign",
        "car",
        "pedestrian",
        "bicycle",
    ),
    palette=(
        (128, 64, 128),
        (250, 250, 250),
        (244, 35, 232),
        (96, 96, 104),
        (107, 142, 35),
        (70, 150, 210),
        (205, 170, 125),
        (250, 210, 0),
        (20, 30, 160),
        (220, 20, 60),
        (255, 128, 0),
    ),
)
