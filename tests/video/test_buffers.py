"""Memory is used again if, and only if, nothing refers to it."""

from __future__ import annotations

import threading

import numpy as np

from pipeline.labels import LabelSpec
from pipeline.video.drawing.overlay import Overlay
from pipeline.video.drawing.picture import Box, Picture
from pipeline.video.pixels import count_ids
from pipeline.video.workers.buffers import Buffers

SHAPE = (4, 6)


def test_memory_without_references_is_used_again() -> None:
    buffers = Buffers()
    first = buffers.get(SHAPE)
    address = first.ctypes.data
    second = buffers.get(SHAPE)
    assert second.ctypes.data != address
    del first
    third = buffers.get(SHAPE)
    assert third.ctypes.data == address
    assert buffers.get(SHAPE).ctypes.data not in {address, second.ctypes.data}


def test_views_keep_it() -> None:
    buffers = Buffers()
    row = buffers.get(SHAPE)[1:2, ::2]
    view = memoryview(buffers.get(SHAPE))
    kept = {row.base.ctypes.data if row.base is not None else 0, np.asarray(view).ctypes.data}
    assert len(kept) == 2
    for _ in range(5):
        array = buffers.get(SHAPE)
        assert array.ctypes.data not in kept


def test_shapes_do_not_mix() -> None:
    buffers = Buffers()
    assert buffers.get((2, 3)).shape == (2, 3)
    assert buffers.get((3, 2)).shape == (3, 2)
    assert buffers.get((2, 3, 3)).shape == (2, 3, 3)
    buffers.clear()
    assert buffers.get((2, 3)).shape == (2, 3)


def test_references_end_in_other_threads() -> None:
    """Each reader of an array sees its own data, for any number of readers."""
    buffers = Buffers()
    wrong: list[int] = []

    def read(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], value: int) -> None:
        for _ in range(20):
            if not (array == value).all():
                wrong.append(value)

    addresses = set()
    threads: list[threading.Thread] = []
    for value in range(200):
        array = buffers.get((64, 64))
        array[:] = value
        addresses.add(array.ctypes.data)
        threads.append(threading.Thread(target=read, args=(array, value), daemon=True))
        del array
        threads[-1].start()
        if len(threads) == 4:
            threads.pop(0).join(60)
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert len(addresses) < 20, "it was used again"


def test_pictures_that_are_kept_do_not_change(labels: LabelSpec) -> None:
    overlay = Overlay(labels)
    frames = np.random.default_rng(0).integers(0, 256, (30, 12, 16, 3), np.uint8)
    label_map = np.zeros((12, 16), np.uint8)
    kept = []
    for frame in frames:
        picture = Picture.of_bgr(frame)
        kept.append(overlay.draw(picture, label_map, box=Box(0, 0, 12, 16), pixels=count_ids(label_map)))
    for frame, picture in zip(frames, kept, strict=True):
        assert np.array_equal(
            picture.bgr(),
            Overlay(labels)
            .draw(Picture.of_bgr(frame), label_map, box=Box(0, 0, 12, 16), pixels=count_ids(label_map))
            .bgr(),
        )
