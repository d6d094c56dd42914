"""IoU of every class and variant in long form, the shape that DVC plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any


def class_table(results: Mapping[str, Any]) -> str:
    """CSV with the columns class, variant, iou (percent) of a results file; absent classes have no row.

    Args:
        results: the contents of the file.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "variant", "iou"])
    teacher = {"teacher": results["teacher"]} if "teacher" in results else {}
    rows = {**teacher, **results["variants"]}
    for variant, measured in rows.items():
        for name, iou in zip(results["classes"], measured["per_class_iou"], strict=True):
            if iou is not None:
                writer.writerow([name, variant, iou])
    return text.getvalue()
