"""The fastest variant of a student that keeps every budget, and the record of it, from which `infer` takes it.

The record is a file beside the folder of the engines. It is valid for these engines only, so it holds the identity of
each, see :func:`identities`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import artifact
from pipeline.evaluation.budgets import title

#: Variants that can be chosen, from the most exact to the least.
PRECISIONS = ("fp32", "fp16", "int8")
#: A less exact variant must be this many times as fast as each more exact one.
LEAST_GAIN = 1.02
#: A reason names at most this many broken budgets.
NAMED = 3
#: What an engine's latency depends on, from its meta.json. Engines of ONNX Runtime for GPUs are copies of the ONNX
#: files, so equal files do not mean equal engines.
IDENTITY = ("files", "runtime", "runtime_options", "fingerprint")
MEASURE = "measure it with: dvc repro check (on a device: run its bundle)"


def find(
    measured: Mapping[str, Mapping[str, Any]],
    *,
    broken: Mapping[str, Sequence[Mapping[str, Any]]],
    undecided: Mapping[str, Sequence[Mapping[str, Any]]],
    unstable: Collection[str] = (),
) -> dict[str, Any]:
    """The fastest variant that keeps every budget, and the reason why each other variant is not chosen.

    A less exact variant is chosen only if it is measurably faster than every more exact one that keeps the budgets: by
    :data:`LEAST_GAIN`, from the upper bound of its median to the lower bound of the other one. Otherwise noise would
    choose, and labels would change for nothing.

    Args:
        measured: results of the variants by name, with ``runtime`` and ``latency_ms`` (``p50``, ``p50_interval``).
            Names that are not in :data:`PRECISIONS`, such as torch, are ignored.
        broken: for each variant the budgets that it breaks, from ``budgets.violations``.
        undecided: for each variant the budgets that the frames cannot decide, from ``budgets.undecided``.
        unstable: variants whose latency is unstable.

    Returns:
        ``variant`` and ``runtime`` (None if every variant breaks a budget), ``what``: the choice as a sentence,
        ``undecided`` budgets of the variant, and ``others``: ``variant`` and ``what`` of each other one.
    """
    candidates = [name for name in PRECISIONS if name in measured]
    reasons = {name: _budgets(broken[name]) for name in candidates if broken[name]}
    kept = [name for name in candidates if name not in reasons]
    if not kept:
        choice: dict[str, Any] = {"variant": None, "runtime": None, "what": "no variant keeps every budget"}
        return {**choice, "undecided": [], "others": _others(reasons, candidates)}
    times = {name: measured[name]["latency_ms"] for name in kept}
    best = kept[0]
    for place, name in enumerate(kept):
        if all(_measurably_faster(times[name], times[other]) for other in kept[:place]):
            best = name
    reasons |= {name: _slower(name, times, kept=kept, best=best) for name in kept if name != best}
    open_budgets = [str(entry["what"]) for entry in undecided[best]]
    keeps = "breaks no budget (some are undecided)" if open_budgets else "keeps every budget"
    what = f"{title(best)} is the fastest variant that {keeps}: {float(times[best]['p50']):.4g} ms at p50"
    if len(kept) > 1 and not set(kept).isdisjoint(unstable):
        what += "; latency unstable, measure again on a machine without other work"
    choice = {"variant": best, "runtime": measured[best]["runtime"], "what": what}
    return {**choice, "undecided": open_budgets, "others": _others(reasons, candidates)}


def lines(choice: Mapping[str, Any]) -> list[str]:
    """The result of :func:`find` for the terminal: the choice, then a line for each other variant."""
    return [choice["what"], *(f"  {other['variant']}: {other['what']}" for other in choice["others"])]


def record_of(engines: Path) -> Path:
    """The record's file for a folder of engines: ``artifacts/engines/kd`` has ``artifacts/engines/kd.json``."""
    place = engines if engines.name not in ("", "..") else engines.resolve()
    return place.with_name(f"{place.name}.json")


def identities(engines: Path) -> dict[str, str]:
    """sha256 of what the latency of each variant in a folder depends on (:data:`IDENTITY`), by name.

    Raises:
        UserError: a variant is no complete engine.
    """
    names = [name for name in PRECISIONS if (engines / name / artifact.META).is_file()]
    metas = {name: artifact.load(engines / name, kind="engine", verify=False).meta for name in names}
    return {
        name: artifact.files_hash({key: artifact.dump_json(meta.get(key)) for key in IDENTITY})
        for name, meta in metas.items()
    }


def write(engines: Path, results: Mapping[str, Any]) -> Path:
    """Write the record beside a folder of engines, from their results; returns its file.

    Args:
        results: the content of ``results/<student>.json``, measured with these engines.
    """
    record = {**results["fastest"], "device": results["device"]["name"], "engines": identities(engines)}
    artifact.write_text(record_of(engines), artifact.dump_json(record))
    return record_of(engines)


def read(engines: Path) -> tuple[dict[str, Any], str]:
    """The record about the engines in a folder, and its file; or an empty record, and the reason in words.

    Raises:
        UserError: the record is not JSON, or a variant is no complete engine.
    """
    file = record_of(engines)
    if engines.is_symlink() and not file.is_file():
        file = record_of(engines.resolve())
    if not file.is_file():
        return {}, f"{file} does not exist, so the fastest variant is not known; {MEASURE}"
    record = artifact.read_json(file, advice=f"delete it, or {MEASURE}")
    known = record.get("engines")
    if not isinstance(known, dict) or any(known.get(name) != value for name, value in identities(engines).items()):
        return {}, f"{file} is about other engines, so the fastest variant is not known; {MEASURE}"
    return record, str(file)


def recorded(engines: Path) -> tuple[str | None, str]:
    """The variant that the record of a folder of engines names, or None; and the reason in words.

    Raises:
        UserError: see :func:`read`.
    """
    record, where = read(engines)
    if not record:
        return None, where
    name = record.get("variant")
    if name is not None and name not in identities(engines):
        return None, f"{where} names {name} as the fastest variant, and {engines} has no such engine"
    return name, f"{record.get('what')} ({where})"


def _measurably_faster(times: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the medians differ by :data:`LEAST_GAIN` even between the unfavourable bounds of their intervals."""
    return float(times["p50_interval"][1]) * LEAST_GAIN <= float(other["p50_interval"][0])


def _slower(name: str, times: Mapping[str, Mapping[str, Any]], *, kept: Sequence[str], best: str) -> str:
    """Why a variant that keeps the budgets is not chosen."""
    if kept.index(name) < kept.index(best):
        return f"{title(name)} is slower than {title(best)}: {_against(times[name], times[best])}"
    rivals = [other for other in kept[: kept.index(name)] if not _measurably_faster(times[name], times[other])]
    rival = best if best in rivals else rivals[0]
    least = f"{LEAST_GAIN - 1:.0%}".replace("%", " %")
    return (
        f"{title(name)} is not measurably faster than {title(rival)} (at least {least}): "
        f"{_against(times[name], times[rival])}"
    )


def _against(times: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """``3.51 ms (3.4 to 3.6) against 6.12 ms (6 to 6.3) at p50``."""

    def median(each: Mapping[str, Any]) -> str:
        low, high = each["p50_interval"]
        return f"{float(each['p50']):.4g} ms ({float(low):.4g} to {float(high):.4g})"

    return f"{median(times)} against {median(other)} at p50"


def _others(reasons: Mapping[str, str], candidates: Sequence[str]) -> list[dict[str, str]]:
    return [{"variant": name, "what": reasons[name]} for name in candidates if name in reasons]


def _budgets(broken: Sequence[Mapping[str, Any]]) -> str:
    more = f"; and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    return "; ".join(str(entry["what"]) for entry in broken[:NAMED]) + more
