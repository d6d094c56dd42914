"""Segmentation inside another Python program: frames in, label maps out, with the threads of the loop."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, overload

import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.runtimes import NO_CONFIDENCE, Engine
from pipeline.video.drawing.picture import Picture
from pipeline.video.engines import open_engines
from pipeline.video.loop import segment
from pipeline.video.selection import NoFramesError
from pipeline.video.sinks import Result, Stop
from pipeline.video.smoothing import Smoother
from pipeline.video.sources import Frame, Source
from pipeline.video.view import Looking, Region, View, place
from pipeline.video.workers.buffers import Buffers
from pipeline.video.workers.flow import Channel, Closed

_LEFT = "the caller takes no more masks"


class Segmenter:
    """An engine for the frames of your own program.

    Args:
        engine: engine folder, built on this machine, or a folder of variants, of which the fastest is used.
        threads, contexts: see :func:`pipeline.video.engines.open_engines`.
        resize: ``stretch``, ``letterbox`` or ``crop``, see :class:`pipeline.video.view.Looking`.
        region: part of the frames that is segmented, see :meth:`pipeline.video.view.Region.parse`.
        smoother: smooths the label maps of :meth:`stream`.

    Attributes:
        labels: meaning of the ids: names, colours, the ignored id.
        gives_confidence: whether the engine gives the confidence of its labels.

    Raises:
        UserError: the engine was not built on this machine, or an option is invalid.

    Example:
        with Segmenter("artifacts/engines/kd") as segmenter:
            for frame, mask in segmenter.stream(frames):  # mask: (H, W) train ids
                ...
    """

    def __init__(
        self,
        engine: str | Path,
        *,
        threads: int | None = None,
        contexts: int | None = None,
        resize: str = "stretch",
        region: str | None = None,
        smoother: Smoother | None = None,
    ) -> None:
        self._looking = Looking(resize, Region.parse(region) if region else None)
        self._smoother = smoother
        self._engines, facts = open_engines(Path(engine), threads=threads, contexts=contexts)
        self._alone: Engine | None = None  # for mask(); the others may be busy
        self.labels = facts.labels
        self.gives_confidence = self._engines[0].gives_confidence

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine."""
        for engine in [*self._engines, *([self._alone] if self._alone else [])]:
            engine.close()

    def mask(self, frame: Array) -> Array:
        """Train ids (H, W) uint8 of one frame (H, W, 3) BGR uint8; the ignored id outside the region."""
        engine, view, batch = self._prepare(frame)
        return self._placed(engine.run(batch), view, frame, outside=self.labels.ignore_index)

    def mask_and_confidence(self, frame: Array) -> tuple[Array, Array]:
        """The mask of one frame as in :meth:`mask`, and the confidence of its labels.

        Returns:
            train ids (H, W) uint8; and confidence (H, W) uint8: the probability of the label, 0 to 1 as 0 to
            255, and 0 outside the region.

        Raises:
            UserError: the engine gives no confidence.
        """
        engine, view, batch = self._prepare(frame)
        label_maps, confidence = engine.run_with_confidence(batch)
        mask = self._placed(label_maps, view, frame, outside=self.labels.ignore_index)
        return mask, self._placed(confidence, view, frame, outside=0)

    def _prepare(self, frame: Array) -> tuple[Engine, View, Array]:
        """The engine for single frames, the view of the frame, and the batch for the engine."""
        picture = _picture(frame, 0)
        if self._alone is None:
            self._alone = self._engines[0].another()
        engine = self._alone
        view = self._looking.at(picture.size, input_size=engine.input_size, output_size=engine.output_size)
        return engine, view, np.repeat(view.fit(picture)[np.newaxis], engine.batches[0], axis=0)

    def _placed(self, outputs: Array, view: View, frame: Array, *, outside: int) -> Array:
        """The first of an engine's outputs (N, h, w) at the size of the frame, (H, W)."""
        return place(view.cut(outputs[0]), view.box, size=(frame.shape[0], frame.shape[1]), outside=outside)

    @overload
    def stream(
        self, frames: Iterable[Array], *, copy: bool = True, confidence: Literal[False] = False
    ) -> Iterator[tuple[Array, Array]]: ...

    @overload
    def stream(
        self, frames: Iterable[Array], *, copy: bool = True, confidence: Literal[True]
    ) -> Iterator[tuple[Array, Array, Array]]: ...

    def stream(
        self, frames: Iterable[Array], *, copy: bool = True, confidence: bool = False
    ) -> Iterator[tuple[Array, ...]]:
        """``(frame, mask)`` of every frame, in order, as in :meth:`mask`. The next frames are processed meanwhile.

        A thread iterates ``frames``, up to a few dozen frames ahead. Each frame is copied when it arrives, so all of
        them may share one buffer, as many cameras do; the copy is yielded. The copy takes 0.5 ms at 1280x720. Leaving
        the loop early ends the iteration; if ``frames`` still waits after 2 s, its thread is abandoned. Only one stream
        may be open at a time; :meth:`mask` may be called meanwhile.

        Args:
            copy: False: yield the same arrays, which nobody may change before their masks are yielded.
            confidence: yield ``(frame, mask, confidence)``, as in :meth:`mask_and_confidence`. Where a smoother changed
                a label, it is the confidence of the label that the network gave.

        Raises:
            UserError: a frame is not (H, W, 3) uint8; ``confidence`` is True and the engine gives none. Errors of
                ``frames`` are raised as they are.
        """
        if confidence and not self.gives_confidence:
            raise UserError(NO_CONFIDENCE)
        return self._stream(frames, copy=copy, confidence=confidence)

    def _stream(self, frames: Iterable[Array], *, copy: bool, confidence: bool) -> Iterator[tuple[Array, ...]]:
        handed: Channel[tuple[Array, ...]] = Channel(2)
        failed: list[BaseException] = []
        if self._smoother:
            self._smoother.reset()

        def work() -> None:
            try:
                segment(
                    _Given(frames, copy=copy),
                    self._engines,
                    labels=self.labels,
                    sinks=[
                        _Handing(handed, outside=self.labels.ignore_index, confidence=confidence),
                        _Leaving(handed),
                    ],
                    smoother=self._smoother,
                    looking=self._looking,
                    engines_wait=self._engines[0].on_gpu,
                )
            except NoFramesError:
                pass
            except BaseException as error:
                failed.append(error)
            finally:
                handed.end()

        thread = threading.Thread(target=work, name="segpress-stream", daemon=True)
        thread.start()
        try:
            yield from handed
        finally:
            handed.close()
            thread.join()
        if failed:
            raise failed[0]


def _picture(frame: Array, index: int) -> Picture:
    is_array = isinstance(frame, np.ndarray) and frame.ndim == 3
    if not is_array or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
        got = f"{frame.shape} {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise UserError(f"frame {index}: got {got}; needed: a numpy array (H, W, 3), BGR, uint8")
    return Picture.of_bgr(frame)


class _Given(Source):
    """Frames of another program. ``copy``: the program may change a frame when it is asked for the next one."""

    name = stem = "frames"
    waits = True

    def __init__(self, frames: Iterable[Array], *, copy: bool) -> None:
        self._frames = frames
        self._copies = Buffers() if copy else None

    def frames(self, *, start: float = 0.0) -> Iterator[Frame]:
        for index, frame in enumerate(self._frames):
            picture = _picture(frame, index)
            if self._copies is not None:
                kept = self._copies.get(frame.shape)
                np.copyto(kept, frame)
                picture = Picture.of_bgr(kept)
                del kept
            yield Frame(f"{index:06d}", None, picture)
            del picture


class _Handing:
    """Hands frames, masks and, if wanted, confidence to the caller, who may stop taking them."""

    wants_picture = False
    patient = waits = True
    written = None

    def __init__(self, handed: Channel[tuple[Array, ...]], *, outside: int, confidence: bool) -> None:
        self._handed = handed
        self._outside = outside
        self.reads_confidence = confidence

    def __enter__(self) -> _Handing:
        return self

    def write(self, result: Result) -> None:
        assert result.frame is not None
        confidence = (result.full_confidence(),) if self.reads_confidence else ()
        try:
            self._handed.put((result.frame.planes[0], result.full_label_map(self._outside), *confidence))
        except Closed:
            raise Stop(_LEFT) from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _Leaving:
    """Ends the run when the caller has stopped taking masks, even if no frame arrives."""

    wants_picture = patient = waits = False
    written = None

    def __init__(self, handed: Channel[tuple[Array, ...]]) -> None:
        self._handed = handed

    def __enter__(self) -> _Leaving:
        return self

    def write(self, result: Result) -> None:
        pass

    def poll(self) -> None:
        if self._handed.finished:
            raise Stop(_LEFT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
