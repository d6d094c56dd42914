"""Frames, videos and a labelled data set, for frames without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline import datasets
from pipeline.frames import Array
from pipeline.preparation.prepare import prepare
from pipeline.prepared import Prepared


def scene(seed: int, *, size: tuple[int, int] = (64, 96)) -> Array:
    """A frame that looks like no frame of another seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Rendered frames: 4 of train, 3 of val."""
    out: Path = tmp_path_factory.mktemp("labelled") / "dataset"
    options = {"train": 4, "val": 3, "sequence": 0, "size": [64, 96], "seed": 3}
    prepare(datasets.build("streets", options), out, name="streets", options=options, progress=lambda *step: None)
    return Prepared(out)


@pytest.fixture
def film(tmp_path: Path) -> Callable[..., Path]:
    """Writes a video with the given frames at the given times in seconds."""
    av = pytest.importorskip("av", reason="PyAV makes the test videos")

    def write(name: str, frames: Sequence[Array], times: Sequence[float], *, rotation: int = 0) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                stream.set_display_rotation(rotation)
            for frame, time in zip(frames, times, strict=True):
                picture = av.VideoFrame.from_ndarray(frame, format="bgr24")
                picture.time_base, picture.pts = Fraction(1, 1000), round(time * 1000)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        return path

    return write
