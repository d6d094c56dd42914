"""Training curves as DVCLive writes them, which can be restored to an earlier step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from dvclive import Live

from pipeline import artifact

SUMMARY = "metrics.json"


class Curves:
    """Tables of metrics by step in a folder, for ``dvc plots``; without a folder it writes nothing.

    Args:
        folder: its earlier tables are removed; None for a process that writes none.
        saved: the tables that :meth:`state` returned, to resume from them.
    """

    def __init__(self, folder: Path | None, saved: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._live: Live | None = None
        self._rows: list[tuple[int, Mapping[str, float]]] = []
        if folder is None:
            return
        for file in _files(folder):
            file.unlink()
        for name, text in (saved or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        self._live = Live(str(folder), resume=bool(saved), save_dvc_exp=False, dvcyaml=None, report=None)
        if saved:
            self._live.step = json.loads(saved[SUMMARY])["step"]  # Live would start one step later

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None and self._folder is not None:
            self.write()
            self._live.end()
            if (repo := self._live._dvc_repo) is not None:  # Live opens it and never closes it: 8 open files per run
                repo.close()
            summary = self._folder / SUMMARY  # sorted by key: the order of events differs between runs
            artifact.write_text(summary, artifact.dump_json(json.loads(summary.read_text("utf-8"))))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep one row for the table of every metric until :meth:`write`."""
        self._rows.append((step, metrics))

    def write(self) -> None:
        """Append the rows to their tables: about 0.1 ms each, so call it while a GPU computes."""
        rows, self._rows = self._rows, []
        if self._live is None:
            return
        for step, metrics in rows:
            self._live.step = step
            for name, value in metrics.items():
                self._live.log_metric(name, value, timestamp=False)

    def state(self) -> dict[str, str]:
        """The text of every table by its path in the folder."""
        if self._folder is None or self._live is None:
            return {}
        self.write()
        self._live.make_summary()
        return {file.relative_to(self._folder).as_posix(): file.read_text("utf-8") for file in _files(self._folder)}


def _files(folder: Path) -> list[Path]:
    return sorted([*folder.glob(SUMMARY), *folder.glob("plots/metrics/**/*.tsv")])
