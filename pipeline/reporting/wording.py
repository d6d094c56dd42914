"""Measurements in words: numbers with the right digits, the one-sentence summary, which student leads.

Whatever was not measured says so; nothing here raises.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.reporting.measured import Result

NOT_MEASURED = "not measured"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"


def fixed(value: float | None, digits: int = 1) -> str:
    """``71.2``; negative values carry a true minus sign, and a rounded zero carries none."""
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
    return NOT_MEASURED if value is None else f"{value:.1f}{TIMES}"


def milliseconds(value: float | None) -> str:
    """Three significant digits or so: ``5.91``, ``12.4``, ``140``."""
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


def marked(text: str, unstable: bool) -> str:
    return f"{text} (unstable)" if unstable and text != NOT_MEASURED else text


def worst(result: Result) -> str:
    """``pole 2.2``: the class that INT8 hurts most."""
    drop = result.drop
    return f"{drop.worst_class} {fixed(drop.worst_class_drop)}" if drop.worst_class_drop is not None else NOT_MEASURED


def summary(result: Result) -> str:
    """What INT8 gained and lost for this student, as one sentence without its name.

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
    if result.speed_is_unstable() and result.speedup is not None:
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
    """The student to lead with: highest INT8 mIoU among those that keep every budget, else among all measured."""
    measured = [result for result in results if result.int8.miou is not None]
    passing = [result for result in measured if result.verdict == "pass"]
    return max(passing or measured, key=lambda result: result.int8.miou or 0.0, default=None)


def baseline(results: Sequence[Result]) -> Result | None:
    """The student trained without a teacher."""
    return next((result for result in results if result.loss == "none"), None)
