"""Measurements as text: rounded numbers, the summary in one sentence, and which student the page shows first.

A value that was not measured becomes "not measured"; nothing here raises.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluation.budgets import title
from pipeline.reporting.measured import Result

NOT_MEASURED = "not measured"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
#: Up to this number, undecided classes are explained one by one.
SHOWN = 3


def fixed(value: float | None, digits: int = 1) -> str:
    """``71.2``; negative values have a typographic minus sign, and a value that rounds to zero has no sign."""
    if value is None:
        return NOT_MEASURED
    text = f"{abs(value):.{digits}f}"
    return MINUS + text if value < 0 and float(text) else text


def signed(value: float | None, digits: int = 1) -> str:
    """``+1.9`` or ``−0.4`` points."""
    if value is None:
        return NOT_MEASURED
    text = fixed(value, digits)
    return text if text.startswith(MINUS) or not float(text) else f"+{text}"


def factor(value: float | None) -> str:
    """``2.1×``; below 1 with one more digit, so that 0.97 is not shown as 1.0."""
    return NOT_MEASURED if value is None else f"{value:.{1 if value >= 1 else 2}f}{TIMES}"


def milliseconds(value: float | None) -> str:
    """About three significant digits: ``5.91``, ``12.4``, ``140``."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def megabytes(size: int | None) -> str:
    """Bytes as MB of 10^6 bytes."""
    if size is None:
        return NOT_MEASURED
    return f"{size / 1e6:.{2 if size < 1e7 else 1}f}"


def count(value: int | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,}"


def marked(text: str, *marks: str) -> str:
    """``5.70 (unstable)``; empty marks are left out."""
    words = ", ".join(mark for mark in marks if mark)
    return f"{text} ({words})" if words and text != NOT_MEASURED else text


def latency(result: Result, variant: str) -> str:
    """Median of a variant in ms: ``5.70``, ``5.70 (unstable)``."""
    return marked(milliseconds(result.variant(variant).latency.p50), "unstable" if variant in result.unstable else "")


def best_and_last(result: Result) -> str:
    """``45.3/45.1``, ``45.3/45.1 (last exported)``: float mIoU of the best and the last weights of a training."""
    weights = result.weights
    if weights.last.miou is None:
        return NOT_MEASURED
    both = f"{fixed(weights.best.miou)}/{fixed(weights.last.miou)}"
    return marked(both, "last exported" if weights.exported == "last" else "")


def speed_up(result: Result) -> str:
    """``2.1×``, ``0.67× (slower)``, ``1.1× (unstable)``."""
    return marked(factor(result.speedup), *speed_marks(result))


def speed_marks(result: Result) -> list[str]:
    """Warnings beside the speed-up: slower, unstable."""
    if result.speedup is None:
        return []
    marks = (("slower", result.speedup < 1), ("unstable", result.speed_is_unstable))
    return [mark for mark, applies in marks if applies]


def worst(result: Result) -> str:
    """``pole 2.2 (0.9 to 3.6)``: the class that loses most in INT8, its loss, and the interval of the loss."""
    drop, bounds = result.drop, _worst_interval(result)
    if drop.worst_class_drop is None:
        return NOT_MEASURED
    return f"{drop.worst_class} {fixed(drop.worst_class_drop)}" + (f" ({interval(bounds)})" if bounds else "")


def worst_with_confidence(result: Result) -> str:
    """``pole: 0.9 to 3.6 lost, with 95% confidence``."""
    name, bounds = result.drop.worst_class or NOT_MEASURED, _worst_interval(result)
    return f"{name}: {interval(bounds)} lost, with {confidence(result.drop.confidence)} confidence" if bounds else name


def _worst_interval(result: Result) -> tuple[float, float] | None:
    return dict(zip(result.classes, result.drop.class_intervals, strict=False)).get(result.drop.worst_class)


def interval(bounds: tuple[float, float]) -> str:
    return f"{fixed(bounds[0])} to {fixed(bounds[1])}"


def signed_interval(bounds: tuple[float, float]) -> str:
    return f"{signed(bounds[0])} to {signed(bounds[1])}"


def confidence(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{100 * value:g}%"


def verdict(result: Result) -> str:
    """``pass``, ``pass (undecided: pole, sign)``, ``fail``."""
    return marked(result.verdict, undecided(result))


def fastest(result: Result) -> str:
    """``INT8``, ``fp16``, ``none``: the fastest variant that keeps every budget."""
    return title(result.fastest.variant) or ("none" if result.fastest.what else NOT_MEASURED)


def undecided(result: Result) -> str:
    """``undecided: pole, sign``; empty where every budget is decided."""
    classes = [note.class_name for note in result.undecided if note.class_name]
    names = classes if len(classes) <= SHOWN else [f"{len(classes)} classes"]
    if len(classes) < len(result.undecided):
        names = [*names, "mIoU"]
    return f"undecided: {', '.join(names)}" if names else ""


def notes(result: Result) -> list[str]:
    """Sentences to show beside broken budgets: warnings and undecided classes, many classes in one sentence."""
    warnings = [note.what for note in result.warnings]
    whole = [note for note in result.undecided if not note.class_name]
    classes = [note for note in result.undecided if note.class_name]
    if len(classes) > SHOWN:
        names = ", ".join(note.class_name for note in classes)
        return [*warnings, *(note.what for note in whole), f"not enough pixels of {len(classes)} classes: {names}"]
    return [*warnings, *(note.what for note in (*whole, *classes))]


def summary(result: Result) -> str:
    """Gains and losses of INT8 for this student, as one sentence without its name.

    ``2.1× faster and 3.6× smaller than its float version for 0.4 mIoU; 6.1 below the teacher``
    """
    if result.int8.miou is None:
        return NOT_MEASURED
    gains = [
        _compared(result.speedup, "faster", "slower", "as fast as"),
        _compared(result.shrink, "smaller", "larger", "as large as"),
    ]
    known = [gain for gain in gains if gain]
    if len(known) == 2 and known[1].endswith(" than"):
        known[0] = known[0].removesuffix(" than")
    missing = [name for name, gain in zip(("speed", "size"), gains, strict=True) if not gain]
    clauses = []
    first = " and ".join(known) + " its float version" if known else ""
    clauses.append(" ".join(part for part in (first, _cost(result.drop.versus_float, bool(known))) if part))
    clauses.append(_to_teacher(result.drop.versus_teacher))
    if missing:
        clauses.append(f"{' and '.join(missing)} {NOT_MEASURED}")
    if result.speed_is_unstable and result.speedup is not None:
        clauses.append("latency unstable")
    return "; ".join(clause for clause in clauses if clause)


def _compared(ratio: float | None, more: str, less: str, same: str) -> str:
    if ratio is None or ratio <= 0:
        return ""
    if round(ratio, 1) == 1.0:
        return same
    return f"{factor(ratio)} {more} than" if ratio > 1 else f"{factor(1 / ratio)} {less} than"


def _cost(drop: float | None, joined: bool) -> str:
    if drop is None:
        return "for an accuracy not measured" if joined else ""
    if round(drop, 1) == 0:
        return "at no cost in mIoU"
    if drop < 0:
        return f"{'and ' if joined else ''}{fixed(-drop)} mIoU better"
    return f"for {fixed(drop)} mIoU" if joined else f"{fixed(drop)} mIoU below its float version"


def _to_teacher(drop: float | None) -> str:
    if drop is None:
        return ""
    if round(drop, 1) == 0:
        return "level with the teacher"
    return f"{fixed(abs(drop))} {'below' if drop > 0 else 'above'} the teacher"


def best(results: Sequence[Result]) -> Result | None:
    """The student to show first: the highest INT8 mIoU among those that keep every budget, else among all measured.

    It is never the teacher.
    """
    measured = [result for result in results if result.int8.miou is not None and not result.is_teacher]
    passing = [result for result in measured if result.verdict == "pass"]
    return max(passing or measured, key=lambda result: result.int8.miou or 0.0, default=None)


def baseline(results: Sequence[Result], student: Result) -> Result | None:
    """The same network trained without a teacher."""
    return next((result for result in results if result.loss == "none" and _network(result) == _network(student)), None)


def _network(result: Result) -> tuple[str, int | None]:
    return result.model, result.parameters
