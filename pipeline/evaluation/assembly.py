"""One results file from what was measured on each variant: the same for a check here and a bundle on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import artifact
from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.evaluation import budgets as limits
from pipeline.evaluation import latency
from pipeline.prepared import Prepared

#: What stands for the loss of a network that was not trained here.
IMPORTED = "imported"


def assemble(
    variants: Mapping[str, dict[str, Any]],
    *,
    about: Mapping[str, Any],
    prepared: Prepared,
    dataset_sha256: str,
    split: str,
    device: Mapping[str, Any],
    engine: Artifact,
    teacher: Mapping[str, Any] | None,
    budgets: Mapping[str, float | None],
    conditions: Sequence[Mapping[str, Any]],
    unstable_cov: float,
    unstable_drift: float,
) -> dict[str, Any]:
    """What ``results/<student>.json`` holds (IoU in percent, latency in ms).

    Args:
        variants: by name, each with size, hash, accuracy and latency; ``torch`` is the float reference, or ``fp32``
            where there is none.
        about: ``student``, ``loss``, ``model``, ``parameters``.
        dataset_sha256: of the data set that the frames are from.
        device: what ``device.describe`` says of this machine.
        engine: artifact of the INT8 engine.
        teacher: ``miou``, ``per_class_iou`` and what it is; None: there is none.
        conditions: before and after the timing.
        unstable_cov, unstable_drift: limits of ``latency.unstable``.

    Raises:
        UserError: the frames label no class of the network.
    """
    names = prepared.labels.names
    reference, int8 = variants.get("torch", variants["fp32"]), variants["int8"]
    if reference["miou"] is None:
        raise UserError(
            f"{prepared.artifact.path}: no pixel of split '{split}' is labelled with {', '.join(names)}; choose "
            "another check.split, or mend the labels"
        )
    lost = limits.drop(reference, int8, names, teacher_miou=teacher["miou"] if teacher else None)
    broken = limits.violations(budgets, lost, int8)
    timings = {name: variant["latency_ms"] for name, variant in variants.items()}
    ratio = float(timings["fp32"]["p50"]) / float(timings["int8"]["p50"])
    return {
        **about,
        "dataset": prepared.name,
        "dataset_sha256": dataset_sha256,
        "split": split,
        "images": len(prepared.split(split)),
        "classes": list(names),
        "absent_classes": [n for n, iou in zip(names, reference["per_class_iou"], strict=True) if iou is None],
        "input_size": engine.meta["input_size"],
        "device": dict(device),
        "runtime_options": engine.meta["runtime_options"],
        **({"teacher": dict(teacher)} if teacher else {}),
        "variants": dict(variants),
        "drop": lost,
        "speedup_int8_vs_fp32": round(ratio, 3),
        "quantization": describe_quantization(engine),
        "conditions": list(conditions),
        "unstable": latency.unstable(timings, cov=unstable_cov, drift=unstable_drift),
        "passed": not broken,
        "violations": broken,
    }


def describe_engine(engine: Artifact) -> dict[str, Any]:
    """Size and hash of an engine's file, and the runtime with its version."""
    file = engine.file(next(iter(engine.meta["files"])))
    name = engine.meta["runtime"]
    return {
        "size_bytes": file.stat().st_size,
        "sha256": artifact.sha256(file),
        "runtime": f"{name} {engine.meta['fingerprint'].get(name, '')}".strip(),
    }


def describe_quantization(engine: Artifact) -> dict[str, Any]:
    """How the INT8 engine's file was made, and which of its layers hurt; empty for a file that is not ours."""
    meta = engine.meta
    if "calibration" not in meta:
        return {}
    found = meta.get("fallback", {}).get(meta["source"], {})
    aware = {key: meta[key] for key in ("quantization_aware",) if key in meta}
    return {
        **meta["calibration"],
        **aware,
        "in_float": found.get("float_layers", []),
        "budget_held": found.get("held"),
        "sensitivity": meta.get("sensitivity", []),
    }


def describe_model(found: Artifact) -> str:
    """A network in a few words: its plugin, and the text options that were given."""
    model = found.meta["model"]
    return " ".join([model["name"], *(str(value) for value in model["options"].values() if isinstance(value, str))])


def describe_imported(found: Artifact, *, name: str) -> dict[str, Any]:
    """``about`` of a network that was not trained here, from an artifact that carries its facts."""
    model, parameters = describe_model(found), found.meta["parameters"]
    return {"student": name, "loss": IMPORTED, "model": model, "parameters": parameters}
