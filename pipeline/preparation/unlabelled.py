"""Frames without labels: from files to an artifact without near-duplicates.

Images are read and checked as those of labelled data sets, and kept as :mod:`pipeline.preparation.originals` says. The
reader of ``infer`` reads videos. A frame is left out if it is smaller than its thumbnail, if it has no contrast, if it
looks the same as a labelled frame (students must not learn from frames of val and test, and have those of train with
labels), or if it looks the same as an earlier frame of this artifact. :mod:`pipeline.preparation.copies` measures this.
The bytes of the artifact do not depend on the number of workers.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pipeline import artifact
from pipeline.datasets._images import read_image
from pipeline.datasets._patterns import some
from pipeline.errors import Problems, UserError
from pipeline.frames import Array, digest
from pipeline.preparation.copies import ALIKE, SIDE, Index, is_flat, thumbnail
from pipeline.preparation.frame_sources import KEY, Files
from pipeline.preparation.originals import write_image
from pipeline.preparation.survey import in_order
from pipeline.preparation.unfinished import Unfinished
from pipeline.prepared import UNLABELLED, Prepared, jpeg_facts
from pipeline.video.drawing.picture import SQUARE, Picture
from pipeline.video.selection import Selection
from pipeline.video.sources import Frame, Source, open_source
from pipeline.video.sources._timing import USUAL_FPS, slack_of

LIST = "frames.jsonl"
#: Reasons for which frames are left out, as the list names them.
SMALL, BLANK, LABELLED, DUPLICATE = "small", "blank", "labelled", "near-duplicate"
MEANINGS = {
    SMALL: f"smaller than {SIDE}x{SIDE} pixels",
    BLANK: "without contrast",
    LABELLED: "like a labelled frame",
    DUPLICATE: "like an earlier frame",
}
Every = int | Literal["auto"]


@dataclass(frozen=True)
class Candidate:
    """A frame that may be used.

    Attributes:
        name: of the sample.
        source: name of its file; all frames of a video have the same one.
        read: decodes the frame, (H, W, 3) BGR uint8.
        file: the image file; None: it is a frame of a video.
        number, seconds: 0-based number of the frame in its video, and its time, if the reader knows it.
    """

    name: str
    source: str
    read: Callable[[], Array]
    file: Path | None = None
    number: int | None = None
    seconds: float | None = None

    @property
    def facts(self) -> dict[str, Any]:
        seconds = None if self.seconds is None else round(self.seconds, 3)
        place = {} if self.number is None else {"frame": self.number, "seconds": seconds}
        return {"name": self.name, "source": self.source, **place}


def prepare_unlabelled(
    files: Files,
    out: Path,
    *,
    prepared: Prepared,
    every: Every,
    duplicates: float | None,
    progress: Callable[[str, int], object] = lambda *step: None,
    warn: Callable[[str], object] = lambda warning: None,
    workers: int = 1,
) -> dict[str, Any]:
    """Write the frames as an artifact. It has the split ``unlabelled``, without label files, and ``frames.jsonl`` with
    one line per frame: its source, its number and time in a video, the sha256 of its size and pixels (see
    :func:`pipeline.frames.digest`), and the reason if it was left out.

    Args:
        files: see :func:`pipeline.preparation.frame_sources.find_files`; without files the artifact has no frames.
        prepared: the labelled data set.
        every: every N-th frame of a video; ``auto``: the first frame of each second.
        duplicates: a frame is left out if the correlation of its thumbnail with an earlier one is this or more; at most
            ``copies.ALIKE``, because copies of labelled frames must not stay. None: near-duplicates stay, and the limit
            for labelled frames is ``copies.ALIKE``.
        progress: called with (title, number of steps) at each step.
        warn: called with each warning, if there are no errors.
        workers: number of threads that read; as many threads write.

    Returns:
        the facts of meta.json. ``unlabelled`` has the numbers of files, of frames that were read and kept, and of those
        left out, by reason; and ``damaged``: what is damaged in each damaged video.

    Raises:
        UserError: a source is missing, a file cannot be read, or no frame is left. The message lists all errors. Or
            another process prepares the same frames.
    """
    problems = Problems("frames without labels")
    facts: dict[str, Any] = {
        **prepared.labels.to_meta(), "dataset": prepared.name, "parents": {"dataset": prepared.artifact.hash},
        "options": {"every": every, "duplicates": duplicates},
    }  # fmt: skip
    for problem in (*files.missing, *files.problems, *_own_results(files, out)):
        problems.add(problem)
    problems.raise_if_any(advice="Nothing was written. Correct these errors, then run dvc repro again.")
    damaged: dict[str, str] = {}
    names: dict[str, None] = {}  # in order
    dropped: Counter[str] = Counter()
    work = Unfinished(out, identity={}, samples=(), resumable=False)
    with work, artifact.create(out, kind=UNLABELLED, meta=facts, scratch=work.files) as folder:
        seen = Seen(prepared if files.names else None, duplicates=duplicates, progress=progress, workers=workers)
        with (folder / LIST).open("w", encoding="utf-8") as listed, _Writing(folder, workers) as writing:
            for candidate, reading in in_order(_read, _candidates(files, every, problems, damaged, progress), workers):
                try:
                    frame, thumb, pixels = reading.result()
                except UserError as error:
                    problems.add(f"{candidate.name}: {error}")
                    continue
                small = min(frame.shape[:2]) < SIDE
                reason, like = (SMALL, None) if small else seen.why_not(candidate.name, thumb)
                if reason:
                    dropped[reason] += 1
                elif candidate.name in names:
                    problems.add(f"{candidate.name}: the name of two frames; rename {candidate.source}")
                else:
                    names[candidate.name] = None
                    writing.add(candidate, frame)
                line = {**candidate.facts, "sha256": pixels.hex(), "left_out": reason or None, "like": like}
                listed.write(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n")
        if files.names and not names and not problems.messages:
            problems.add(f"{KEY}: no frame is left: {_counted(dropped)}; add other sources")
        problems.raise_if_any(advice="Nothing was written. Correct these errors, then run dvc repro again.")
        facts["splits"] = {UNLABELLED: list(names)}
        facts[UNLABELLED] = {
            "images": len(files.images), "videos": len(files.videos), "read": len(names) + dropped.total(),
            "kept": len(names), "left_out": dict(sorted(dropped.items())), "damaged": damaged,
        }  # fmt: skip
        facts |= jpeg_facts(folder, writing.written)
    for warning in (*files.warnings, *([f"frames that are left out: {_counted(dropped)}"] if dropped else [])):
        warn(warning)
    return facts


def _own_results(files: Files, out: Path) -> Iterator[str]:
    """The error about sources that contain what an earlier run wrote."""
    own = os.path.join(os.path.abspath(out), "")  # noqa: PTH100, PTH118 - resolve() is slow for many files
    written = [file for file in files.names if os.path.abspath(file).startswith(own)]  # noqa: PTH100
    if written:
        yield f"{KEY}: {some(written)} of {out}, which this stage writes; name the folders of your frames only"


def _counted(dropped: Counter[str]) -> str:
    return ", ".join(f"{count} {MEANINGS[reason]}" for reason, count in sorted(dropped.items()))


def _read(candidate: Candidate) -> tuple[Array, Array, bytes]:
    """A frame, its thumbnail and its digest."""
    frame = candidate.read()
    return frame, thumbnail(frame), digest(frame)


class Seen:
    """Finds the frames that look the same as a labelled frame or as an earlier one.

    Args:
        prepared: the labelled data set; None: there are no frames to compare.
        duplicates: lowest correlation of near-duplicates; None: frames are compared with labelled frames only.
    """

    def __init__(
        self, prepared: Prepared | None, *, duplicates: float | None, progress: Callable[[str, int], object],
        workers: int,
    ) -> None:  # fmt: skip
        self._index = Index(ALIKE if duplicates is None else duplicates)
        self._grows = duplicates is not None
        self._labelled: set[str] = set()
        if prepared is None:
            return
        samples = [(split, number) for split in prepared.splits for number in range(len(prepared.splits[split]))]
        splits = {name: prepared.split(name) for name in prepared.splits}

        def thumbnail_of(sample: tuple[str, int]) -> Array:
            return thumbnail(splits[sample[0]].frame(sample[1]))

        for (split, number), reading in in_order(thumbnail_of, samples, workers):
            progress("labelled frames", len(samples))
            name = f"{split}/{splits[split].names[number]}"
            self._labelled.add(name)
            self._index.add(name, reading.result())

    def why_not(self, name: str, thumb: Array) -> tuple[str, str | None]:
        """Why a frame is left out, and the frame that it is like. The reason is empty if the frame is used; then later
        frames are compared with it."""
        if is_flat(thumb):
            return BLANK, None
        match = self._index.like(thumb)
        if match is not None:
            return (LABELLED if match.name in self._labelled else DUPLICATE), match.name
        if self._grows:
            self._index.add(f"{UNLABELLED}/{name}", thumb)
        return "", None


class _Writing:
    """Threads that write the image files; only a few frames wait at the same time, to save memory.

    Attributes:
        written: paths of all files, relative to the folder.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        self.written: list[str] = []
        self._folder, self._workers = folder, workers
        self._pending: deque[Future[Path]] = deque()

    def __enter__(self) -> _Writing:
        self._pool = ThreadPoolExecutor(self._workers)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            while self._pending and kind is None:
                self._finish()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, candidate: Candidate, frame: Array) -> None:
        images = self._folder / UNLABELLED / "images"
        self._pending.append(self._pool.submit(write_image, images, candidate.name, frame, source=candidate.file))
        if len(self._pending) > 2 * self._workers:
            self._finish()

    def _finish(self) -> None:
        self.written.append(self._pending.popleft().result().relative_to(self._folder).as_posix())


def _candidates(
    files: Files, every: Every, problems: Problems, damaged: dict[str, str], progress: Callable[[str, int], object]
) -> Iterator[Candidate]:
    """All images, then the chosen frames of the videos. A video that cannot be read is added to ``problems``. Damage of
    other videos is added to ``damaged``, by name; the reader warns of it."""
    for name, file in files.images.items():
        progress("images", len(files.images))
        yield Candidate(name, name, partial(read_image, file), file=file)
    for name, file in files.videos.items():
        progress("videos", len(files.videos))
        try:
            with closing(open_source(str(file))) as source:
                for frame in _chosen(source, every):
                    number = frame.name.rpartition("-")[2]
                    read = partial(_square, frame.picture)
                    yield Candidate(f"{name}/{number}", name, read, number=int(number), seconds=frame.timestamp)
                if source.damage:
                    damaged[name] = source.damage
        except UserError as error:
            problems.add(str(error))


def _chosen(source: Source, every: Every) -> Iterator[Frame]:
    if every != "auto":
        return Selection(every=every).frames(source)
    return _each_second(Selection().frames(source), source.fps or USUAL_FPS)


def _each_second(frames: Iterable[Frame], fps: float) -> Iterator[Frame]:
    """The first frame of each second. It may begin half a frame before the second, because timestamps are rounded."""
    slack, due = slack_of(1 / fps), -math.inf
    for number, frame in enumerate(frames):
        time = number / fps if frame.timestamp is None else frame.timestamp
        if time >= due - slack:
            yield frame
            due = math.floor(time + slack) + 1


def _square(picture: Picture) -> Array:
    """A picture as (H, W, 3) BGR with square pixels, as labelled images have."""
    return picture.bgr() if picture.aspect == SQUARE else picture.within(picture.size)
