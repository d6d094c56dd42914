from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import resize_label_map
from pipeline.video.drawing.picture import Box, Picture, Yuv
from pipeline.video.view import Looking, Region, View, place


def view(size: tuple[int, int], policy: str = "stretch", region: str | None = None) -> View:
    part = Region.parse(region) if region else None
    return Looking(policy, part).at(size, input_size=(128, 192), output_size=(64, 96))


@pytest.mark.parametrize(
    ("size", "policy", "box", "inner"),
    [
        ((720, 1280), "stretch", Box(0, 0, 720, 1280), Box(0, 0, 128, 192)),
        ((720, 1280), "letterbox", Box(0, 0, 720, 1280), Box(10, 0, 108, 192)),  # 192 * 9 / 16 = 108
        ((720, 1280), "crop", Box(0, 100, 720, 1080), Box(0, 0, 128, 192)),  # 720 * 3 / 2 = 1080
        ((1280, 720), "letterbox", Box(0, 0, 1280, 720), Box(0, 60, 128, 72)),
        ((1280, 720), "crop", Box(400, 0, 480, 720), Box(0, 0, 128, 192)),
        ((256, 384), "letterbox", Box(0, 0, 256, 384), Box(0, 0, 128, 192)),
        ((1, 1), "stretch", Box(0, 0, 1, 1), Box(0, 0, 128, 192)),
        ((1, 4000), "letterbox", Box(0, 0, 1, 4000), Box(62, 0, 2, 192)),
    ],
)
def test_policies(size: tuple[int, int], policy: str, box: Box, inner: Box) -> None:
    chosen = view(size, policy)
    assert (chosen.box, chosen.inner) == (box, inner)


@pytest.mark.parametrize(
    ("aspect", "policy", "box", "inner"),
    [
        (Fraction(16, 11), "stretch", Box(0, 0, 576, 720), Box(0, 0, 128, 192)),
        (Fraction(16, 11), "letterbox", Box(0, 0, 576, 720), Box(10, 0, 106, 192)),  # shown as 1047 x 576
        (Fraction(16, 11), "crop", Box(0, 62, 576, 594), Box(0, 0, 128, 192)),  # 594 * 16 / 11 = 576 * 3 / 2
        (Fraction(16, 15), "letterbox", Box(0, 0, 576, 720), Box(0, 10, 128, 170)),  # shown as 768 x 576
        (Fraction(16, 15), "crop", Box(32, 0, 512, 720), Box(0, 0, 128, 192)),  # 512 * 3 / 2 = 768
    ],
)
def test_pixels_that_are_not_square(aspect: Fraction, policy: str, box: Box, inner: Box) -> None:
    """The engine sees the shapes that a viewer sees."""
    chosen = Looking(policy).at((576, 720), input_size=(128, 192), output_size=(64, 96), aspect=aspect)
    assert (chosen.box, chosen.inner) == (box, inner)


@pytest.mark.parametrize("policy", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("region", [None, "100,50,400,300", "0%,50%,100%,50%"])
@pytest.mark.parametrize("yuv", [False, True])
def test_the_label_map_returns_to_its_place(policy: str, region: str | None, yuv: bool) -> None:
    """A bright square in the frame, thresholded in the engine's input, returns to its place."""
    frame = np.zeros((480, 640), np.uint8)
    frame[280:340, 300:380] = 200
    grey = np.full((240, 320), 128, np.uint8)
    picture = Picture((frame, grey, grey), Yuv()) if yuv else Picture.of_bgr(np.stack([frame] * 3, axis=2))
    chosen = view((480, 640), policy, region)
    fitted = chosen.fit(picture)
    assert fitted.shape == (128, 192, 3)
    label_map = (fitted[::2, ::2, 1] > 150).astype(np.uint8)
    whole = place(chosen.cut(label_map), chosen.box, size=(480, 640), outside=255)
    assert whole.shape == (480, 640)
    wrong = (whole == 1) != (frame > 0)
    assert wrong.mean() < 0.012, "borders only"
    outside = np.ones((480, 640), bool)
    box = chosen.box
    outside[box.top : box.top + box.height, box.left : box.left + box.width] = False
    assert (whole[outside] == 255).all()


@pytest.mark.parametrize("output_size", [(33, 65), (50, 70), (200, 300)])
@pytest.mark.parametrize("policy", ["stretch", "letterbox", "crop"])
def test_label_maps_of_any_size(policy: str, output_size: tuple[int, int]) -> None:
    """Imported networks: their label maps are not a whole fraction of the input, or larger than it."""
    frame = np.zeros((480, 640, 3), np.uint8)
    frame[280:340, 300:380] = 200
    chosen = Looking(policy).at((480, 640), input_size=(129, 193), output_size=output_size)
    bright = (chosen.fit(Picture.of_bgr(frame))[..., 1] > 150).astype(np.uint8)
    whole = place(chosen.cut(resize_label_map(bright, output_size)), chosen.box, size=(480, 640), outside=255)
    wrong = (whole == 1) != (frame[..., 0] > 0)
    assert wrong.mean() < 0.02, "borders only"


def test_padding_is_grey() -> None:
    fitted = view((720, 1280), "letterbox").fit(Picture.of_bgr(np.zeros((720, 1280, 3), np.uint8)))
    assert (fitted[:10] == 114).all()
    assert (fitted[-10:] == 114).all()
    assert not fitted[10:-10].any()


@pytest.mark.parametrize(
    ("text", "size", "box"),
    [
        ("0,0,640,480", (480, 640), Box(0, 0, 480, 640)),
        ("0%,0%,100%,100%", (481, 641), Box(0, 0, 481, 641)),
        ("101,51,201,99", (480, 640), Box(52, 100, 100, 200)),  # to even numbers, ties to even halves
        ("50%, 50%, 50%, 50%", (480, 640), Box(240, 320, 240, 320)),
        ("1,1,639,479", (480, 640), Box(0, 0, 480, 640)),
        ("639,479,1,1", (481, 641), None),
    ],
)
def test_regions(text: str, size: tuple[int, int], box: Box | None) -> None:
    if box is None:
        with pytest.raises(UserError, match="below 2x2"):
            Region.parse(text).of(size)
    else:
        assert Region.parse(text).of(size) == box


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,x", "1,2,30%,4", "-1,0,5,5", "0,0,0,5", "nan,0,5,5", "0,0,inf,5"])
def test_bad_regions(text: str) -> None:
    with pytest.raises(UserError, match="needed: left,top,width,height, all in pixels"):
        Region.parse(text)


def test_beyond_the_frame_and_unknown_policy() -> None:
    with pytest.raises(UserError, match=r"region 600,0,100,100 reaches beyond the frame, which is 640x480"):
        view((480, 640), region="600,0,100,100")
    with pytest.raises(UserError, match="resize policy: got 'squeeze'; allowed: stretch, letterbox, crop"):
        view((480, 640), "squeeze")
