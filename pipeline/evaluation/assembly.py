"""Assembles one results file from the measurements of each variant, for `check` and for a bundle on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import artifact, licence, runtimes
from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.evaluation import budgets as limits
from pipeline.evaluation import drops, fastest, latency, objects
from pipeline.evaluation.scoring import Score
from pipeline.prepared import Prepared

#: Name of the variant that torch computes.
TORCH = "torch"
#: Value of ``loss`` for a network that was not trained here.
IMPORTED = "imported"
#: Value of ``loss`` for a teacher that is measured like a student.
TEACHER = "teacher"


def assemble(
    variants: Mapping[str, dict[str, Any]],
    *,
    scores: Mapping[str, Score],
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
    slow_int8: str = "",
) -> dict[str, Any]:
    """The content of ``results/<student>.json`` (IoU in percent, latency in ms).

    Args:
        variants: by name, each with size, hash and latency; ``torch`` is the float reference, else
            ``fp32``.
        scores: of each variant.
        about: ``student``, ``loss``, ``model``, ``parameters``, ``licences``, ``commercial``; of a student also
            ``weights``.
        dataset_sha256: hash of the data set that the frames come from.
        device: this machine, from ``device.describe``.
        engine: artifact of the INT8 engine.
        teacher: ``miou``, ``per_class_iou`` and its description; None: no teacher.
        budgets: section ``budgets`` of params.yaml.
        conditions: of the machine before and after the timing.
        unstable_cov, unstable_drift: limits of ``latency.unstable``.
        slow_int8: of the runtime, see ``runtimes.Runtime``.
    """
    names = prepared.labels.names
    variants = {name: {**variant, **scores[name].summary} for name, variant in variants.items()}
    float_name = TORCH if TORCH in variants else "fp32"
    reference, int8 = variants[float_name], variants["int8"]
    losses = {
        name: drops.measure(
            scores[float_name].frames, scores[name].frames, names=names, confidence=budgets.get("confidence")
        )
        for name in variants
        if name != TORCH
    }
    lost = losses["int8"]
    timings = {name: variant["latency_ms"] for name, variant in variants.items()}
    unstable = latency.unstable(timings, cov=unstable_cov, drift=unstable_drift)
    quantization = describe_quantization(engine)
    reason = slow_int8 or limits.reason_of_slowness(quantization)
    speed = limits.speed(timings["fp32"], timings["int8"], unstable=unstable, reason=reason)
    broken = {
        name: limits.violations(budgets, each, variants[name], speed if name == "int8" else None, variant=name)
        for name, each in losses.items()
    }
    undecided = {name: limits.undecided(budgets, each, variant=name) for name, each in losses.items()}
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
        "variants": variants,
        "drop": {
            **limits.drop(reference, int8, names, teacher_miou=teacher["miou"] if teacher else None),
            **lost.facts(names),
        },
        "objects": objects.facts(scores[float_name].objects, scores["int8"].objects),
        "speedup_int8_vs_fp32": speed["ratio"],
        "quantization": quantization,
        "conditions": list(conditions),
        "unstable": unstable,
        "fastest": fastest.find(variants, broken=broken, undecided=undecided, unstable=unstable),
        "budgets": [{"budget": name, "limit": limit} for name, limit in sorted(budgets.items())],
        "passed": not broken["int8"],
        "violations": broken["int8"],
        "undecided": undecided["int8"],
        "warnings": limits.warnings(budgets, speed),
    }


def require_labels(prepared: Prepared, split: str, score: Score) -> None:
    """Raise UserError when the frames label no class of the network."""
    if score.summary["miou"] is None:
        raise UserError(
            f"{prepared.artifact.path}: no pixel of split '{split}' is labelled with "
            f"{', '.join(prepared.labels.names)}; choose another check.split, or correct the labels"
        )


def describe_engine(engine: Artifact) -> dict[str, Any]:
    """Size and hash of an engine's file, and the runtime with its version."""
    file = runtimes.file_of(engine)
    name = engine.meta["runtime"]
    return {
        "size_bytes": file.stat().st_size,
        "sha256": artifact.sha256(file),
        "runtime": f"{name} {engine.meta['fingerprint'].get(name, '')}".strip(),
    }


def describe_quantization(engine: Artifact) -> dict[str, Any]:
    """How the INT8 engine's file was produced, and which layers lose most; empty for files of other programs."""
    meta = engine.meta
    if "calibration" not in meta:
        return {}
    fallback = meta.get("fallback", {}).get(meta["source"], {})
    stays = meta.get("in_float", {}).get(meta["source"], {})
    aware = {key: meta[key] for key in ("quantization_aware",) if key in meta}
    return {
        **meta["calibration"],
        **aware,
        "in_float": [
            *stays.get("layers", fallback.get("float_layers", [])),
            *meta.get("build", {}).get("released", []),
        ],
        **({"float_operators": stays["operators"]} if stays else {}),
        "budget_held": fallback.get("held"),
        "budget_undecided": fallback.get("undecided", []),
        "sensitivity": meta.get("sensitivity", []),
    }


def describe_model(network: Artifact) -> str:
    """A network in a few words: its plugin and those of its options that are texts."""
    model = network.meta["model"]
    return " ".join([model["name"], *(str(value) for value in model["options"].values() if isinstance(value, str))])


def describe_student(network: Artifact, *, name: str, exported: str, split: str) -> dict[str, Any]:
    """``about`` of a student, or of a teacher, that was trained here.

    Args:
        exported: ``best`` or ``last``: which of its weights were exported.
        split: of which the mIoU of both weights is reported.
    """
    taught = "loss" in network.meta or "teacher" in network.meta.get("parents", {})
    loss = network.meta["loss"]["name"] if taught else TEACHER
    parameters = network.meta["parameters"]
    weights = {"exported": exported, **_reached(network.meta, split)}
    sources = licence.recorded(network.meta)
    return {
        "student": name, "loss": loss, "model": describe_model(network), "parameters": parameters, "weights": weights,
        "licences": sources, "commercial": licence.commercial(sources),
    }  # fmt: skip


def _reached(meta: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Step and mIoU of the best and the last weights on a split, as far as a network artifact has them."""
    last = meta.get("last", {})
    steps = {"best": meta.get("best_step"), "last": last.get("step")}
    metrics = {"best": meta.get("metrics", {}), "last": last.get("metrics", {})}
    return {
        name: {"step": step, "miou": metrics[name][split]["miou"]} for name, step in steps.items()
        if split in metrics[name]
    }  # fmt: skip


def describe_imported(network: Artifact, *, name: str, prepared: Prepared) -> dict[str, Any]:
    """``about`` of a network that was not trained here, from an artifact with its facts.

    Args:
        prepared: the data set; its train frames chose the INT8 ranges, so its licence counts.
    """
    model, parameters = describe_model(network), network.meta["parameters"]
    file = str(network.meta["model"]["options"].get("file", "an ONNX file"))
    sources = [licence.source("weights", file, None), licence.data(prepared.artifact.meta, role="calibration data")]
    return {
        "student": name, "loss": IMPORTED, "model": model, "parameters": parameters,
        "licences": sources, "commercial": licence.commercial(sources),
    }  # fmt: skip
