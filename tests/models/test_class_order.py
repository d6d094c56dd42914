"""Classes are matched by name; a class without a match is reported with the closest names."""

from __future__ import annotations

import pytest

from pipeline.errors import UserError
from pipeline.models.weights.class_order import rows

CITYSCAPES = ["road", "sidewalk", "building", "traffic light", "person", "rider", "car", "bicycle"]


def mapped(ours: list[str], theirs: list[str], allow_new: bool = False, **class_map: str) -> list[int | None]:
    return rows(ours, theirs, class_map=class_map, allow_new=allow_new, subject="x")


def test_case_spaces_and_underscores_do_not_matter() -> None:
    assert mapped(["Car", "Traffic_Light", "trafficlight"][:2], CITYSCAPES) == [6, 3]
    assert mapped(["side-walk"], CITYSCAPES) == [1]
    assert mapped(["car"], ["Car", "car"]) == [1], "the exact name goes first"


def test_a_map_matches_other_names() -> None:
    assert mapped(["pedestrian", "road"], CITYSCAPES, pedestrian="Person") == [4, 0]
    assert mapped(["rider"], CITYSCAPES, rider="person") == [4], "the map goes before an equal name"


def test_new_classes_have_no_row() -> None:
    assert mapped(["tree", "car"], CITYSCAPES, allow_new=True) == [None, 6]


def test_problems_come_all_at_once_with_the_closest() -> None:
    with pytest.raises(UserError) as caught:
        mapped(["bicyclist", "car", "tree", "roads"], CITYSCAPES, cars="car", roads="raod")
    message = str(caught.value)
    assert message.startswith("x: 4 problems")
    assert "the checkpoint has no class 'bicyclist'; the closest: bicycle" in message
    assert f"the checkpoint has no class 'tree'; it has {', '.join(CITYSCAPES)}" in message
    assert "class_map.cars: the data set has no such class; did you mean 'car'?" in message
    assert "class_map.roads: the checkpoint has no class 'raod'; the closest: road" in message
    assert "model.class_map" in message and "model.new_classes: some" in message


def test_a_class_of_the_checkpoint_is_used_once() -> None:
    with pytest.raises(UserError, match="person and rider are both 'person' of the checkpoint"):
        mapped(["person", "rider"], CITYSCAPES, rider="person")


def test_a_name_that_fits_two_is_refused() -> None:
    with pytest.raises(UserError, match=r"'screen' is 2 classes of the checkpoint: \['Screen', 'SCREEN'\]"):
        mapped(["screen"], ["Screen", "SCREEN"])


def test_a_long_list_is_cut() -> None:
    with pytest.raises(UserError, match=r"it has c0, .*, c29 and 120 more"):
        mapped(["zebra"], [f"c{i}" for i in range(150)])


def test_forms_of_unicode_do_not_matter() -> None:
    composed, apart = "stra\u00dfe caf\u00e9", "stra\u00dfe cafe\u0301"
    assert mapped([composed, "car"], ["car", apart]) == [1, 0]
    assert mapped([composed, "car"], ["car", "road"], **{apart: "road"}) == [1, 0]
