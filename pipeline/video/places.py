"""Paths for the results of several sources: no result replaces another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.errors import UserError
from pipeline.video.outputs import STANDARD_OUTPUT, Outputs, distinct, names_file
from pipeline.video.sinks._destination import redacted

#: Placeholder for the name of the source in paths of results.
NAME = "{name}"


def check_several(wanted: Outputs, count: int, read: Sequence[Path] = (), *, together: bool = False) -> None:
    """Raise UserError for outputs that ``count`` sources cannot have; ``read`` are their files.

    One source can have all outputs.

    Args:
        together: whether they run at the same time.
    """
    if wanted.report and NAME in str(wanted.report):
        raise UserError(f"--json {wanted.report}: there is one summary of all sources; leave {NAME} out")
    if count < 2:
        return
    if wanted.report and wanted.report != STANDARD_OUTPUT:
        distinct([wanted.report], read)
    if wanted.benchmark or wanted.window:
        raise UserError(f"--benchmark and --window are for one source; got {count}: name one of them")
    if wanted.stream and NAME not in wanted.stream:
        raise UserError(
            f"--out {redacted(wanted.stream)}: {count} sources cannot be sent to one address; write {NAME} where the "
            f"name of the source belongs, such as rtsp://server:8554/{NAME}"
        )
    if wanted.stream and not together:
        raise UserError(
            f"--out with an address is for one source, or for live sources; got {count}: name one, or add --serve"
        )
    for option, place in (("--out", wanted.out), ("--lines", wanted.lines)):
        if (
            place is not None
            and place != STANDARD_OUTPUT
            and (option == "--lines" or names_file(place))
            and NAME not in str(place)
        ):
            raise UserError(
                f"{option} {place}: all {count} sources would write to the same place; write {NAME} "
                f"where the name of the source belongs: {option} '{place.with_name(f'{NAME}-{place.name}')}'"
            )


def of_name(place: Path, name: str | None) -> Path:
    """A path with ``{name}`` replaced by the name of a source."""
    return Path(str(place).replace(NAME, name)) if name else place


def of_source(
    wanted: Outputs, name: str | None, *, several: bool, read: Sequence[Path] = (), expected: int | None = None
) -> Outputs:
    """Paths of one source: its name replaces ``{name}``. With ``several`` sources a folder without ``{name}`` gets one
    folder per source."""

    def place(given: Path | None, *, folder: bool) -> Path | None:
        if given is None or name is None:
            return given
        if NAME in str(given):
            return of_name(given, name)
        return given / name if several and folder else given

    return replace(
        wanted,
        name=name,
        read=read,
        expected=expected,
        out_is_folder=wanted.out is not None and not wanted.out.suffix,
        out=place(wanted.out, folder=wanted.out is not None and not names_file(wanted.out)),
        masks=place(wanted.masks, folder=True),
        confidence=place(wanted.confidence, folder=True),
        lines=place(wanted.lines, folder=False),
        several=several,
        stream=wanted.stream.replace(NAME, name) if wanted.stream and name else wanted.stream,
        event_dir=place(wanted.event_dir, folder=True),
    )
