"""The model card of a network, as Markdown in the form of the Hugging Face hub. The layout is in ``card.md.j2``.

It holds no date, host or path, so that equal results give equal bytes. Every text from outside is escaped. Source of
the form: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

from jinja2 import Environment, StrictUndefined

from pipeline import licence
from pipeline.artifact import Artifact
from pipeline.prepared import Prepared
from pipeline.reporting import limits, wording
from pipeline.reporting.card_tables import (
    BUDGETS,
    CLASSES,
    COMMERCIAL,
    NOT_RECORDED,
    NOT_STATED,
    SOURCES,
    VARIANTS,
    class_rows,
)
from pipeline.reporting.columns import Column, markdown, plain
from pipeline.reporting.measured import Result, Source
from pipeline.reporting.wording import NOT_MEASURED, factor, fixed

T = TypeVar("T")

LATENCY_SCOPE = "from a uint8 frame to a label map, both in host memory; resizing and decoding are not included"


class Raw(str):
    """Text that is Markdown or YAML already; all other texts are escaped."""

    __slots__ = ()


@dataclass(frozen=True)
class Details:
    """Facts that a results file lacks, from the artifacts. None: not recorded.

    Attributes:
        splits: number of images of each split of the data set.
        mean, std: normalisation of the network's input channels, pixels in 0..1.
        channel_order: of the image that the network reads, such as ``RGB``.
        steps: of the training.
        seed, batch_size: of the training.
        stage0, frames_without_labels: whether the training used them.
        imported: whether the network was trained elsewhere.
    """

    splits: Mapping[str, int]
    mean: Sequence[float] | None
    std: Sequence[float] | None
    channel_order: str | None
    steps: int | None
    seed: int | None
    batch_size: int | None
    stage0: bool
    frames_without_labels: int | None
    imported: bool

    @classmethod
    def of(cls, network: Artifact, prepared: Prepared) -> Details:
        """From the network artifact of a student, or from an artifact with the facts of an imported network."""
        facts, trained = network.facts, network.kind == "network"
        training = facts.get("training", {})
        return cls(
            splits={name: len(samples) for name, samples in prepared.splits.items()},
            mean=facts.get("mean"),
            std=facts.get("std"),
            channel_order=facts.get("channel_order") if trained else None,
            steps=facts.get("last", {}).get("step"),
            seed=training.get("seed"),
            batch_size=training.get("batch_size"),
            stage0="stage0" in facts,
            frames_without_labels=facts.get("unlabelled", {}).get("frames"),
            imported=not trained,
        )


@dataclass(frozen=True)
class Block:
    """The model card in a few lines, for the report: licences, commercial use, split and limits."""

    title: str
    licences: Sequence[str]
    commercial: str
    split: str
    limits: Sequence[str]


def block(result: Result) -> Block:
    """The values of the report's block on one student."""
    measured = f"{result.split}, {wording.count(result.images)} images of {result.dataset}" if result.split else ""
    return Block(
        title=result.label or result.student,
        licences=[f"{source.role}: {source.of}, {source.name or NOT_STATED}" for source in result.licences],
        commercial=COMMERCIAL[result.commercial],
        split=measured or NOT_MEASURED,
        limits=limits.sentences(result),
    )


def unmeasured(
    about: Mapping[str, Any], network: Artifact, prepared: Prepared, *, split: str, aware: Mapping[str, Any]
) -> Result:
    """What is known of a network without results: the accuracy of its float weights, as its training measured it.

    Args:
        about: from ``assembly.describe_student`` or ``assembly.describe_imported``.
        network: see :meth:`Details.of`.
        split: whose accuracy is shown.
        aware: ``quantization_aware`` of the exported network; empty: it was not fine-tuned with 8 bits simulated.
    """
    exported = about.get("weights", {}).get("exported")
    facts = network.facts.get("last", {}) if exported == "last" else network.facts
    metrics = facts.get("metrics", {}).get(split, {})
    reached = {key: metrics.get(key) for key in ("miou", "per_class_iou")}
    names, ious = prepared.labels.names, reached["per_class_iou"] or ()
    return Result.model_validate(
        {
            **about,
            "dataset": prepared.name,
            "dataset_sha256": prepared.artifact.hash,
            "split": split,
            "images": len(prepared.splits.get(split, ())),
            "classes": list(names),
            "absent_classes": [name for name, iou in zip(names, ious, strict=False) if iou is None],
            "input_size": network.facts.get("input_size", ()),
            "quantization": {"quantization_aware": dict(aware)},
            "variants": {"torch": reached} if reached["miou"] is not None else {},
        }
    )


def render(result: Result, details: Details, *, in_bundle: bool = False) -> str:
    """The card.

    Args:
        result: measured, or from :func:`unmeasured`.
        in_bundle: the card is in a bundle, whose commands differ.
    """
    environment = Environment(  # noqa: S701 - Markdown, not HTML: `finalize` escapes it
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, finalize=_escaped
    )
    environment.filters["list"] = ", ".join
    template = environment.from_string(resources.files(__package__).joinpath("card.md.j2").read_text("utf-8"))
    return template.render(
        r=result,
        d=details,
        front=Raw(_front_matter(result)),
        sources=_table(SOURCES, result.licences),
        commercial=COMMERCIAL[result.commercial],
        device=wording.marked(
            result.device.get("name", "a device without a name"), result.device.get("instructions", "")
        ),
        classes=_table(CLASSES if result.int8.per_class_iou else CLASSES[:2], class_rows(result)),
        variants=_table(VARIANTS, list(result.variants.items())),
        budgets=_table(BUDGETS, [(each.budget, each.limit) for each in result.budgets]),
        limits=limits.sentences(result),
        notes=wording.notes(result),
        teacher_used=result.teacher.miou is not None and result.loss != "none" and not result.is_teacher,
        commands=Raw(_commands(result, details, in_bundle=in_bundle)),
        latency_scope=LATENCY_SCOPE,
        confidence=wording.confidence(result.drop.confidence),
        verdict=wording.verdict(result),
        numbers=lambda values: ", ".join(f"{value:g}" for value in values),
        known=lambda value: NOT_RECORDED if value is None else f"{value:,}",
        code=lambda text: Raw(f"`{text}`" if re.fullmatch(r"[\w.-]+", text) else plain(text or NOT_RECORDED)),
        fixed=fixed,
        factor=factor,
        interval=wording.interval,
        not_measured=NOT_MEASURED,
    )


def _escaped(value: Any) -> Any:
    return plain(value) if isinstance(value, str) and not isinstance(value, Raw) else value


def _table(columns: Sequence[Column[T]], rows: Sequence[T]) -> Raw:
    return Raw(markdown(columns, rows).rstrip("\n"))


def _front_matter(result: Result) -> str:
    """YAML between lines of ``---``; texts are JSON strings, which YAML reads, too."""
    measured = result.int8 if result.int8.miou is not None else result.reference
    variant = "INT8" if measured is result.int8 and measured.miou is not None else "float"
    lines: list[tuple[str, Any]] = [
        *_licence_keys(result.licences),
        ("commercial", result.commercial),
        ("pipeline_tag", "image-segmentation"),
        ("datasets", [result.dataset] if result.dataset else []),
        ("tags", ["semantic-segmentation", "onnx", "int8", *([result.loss] if result.loss else [])]),
        ("metrics", ["mean_iou"]),
    ]
    if measured.miou is not None:
        metric = {"type": "mean_iou", "name": f"mIoU in percent, {variant}", "value": measured.miou}
        dataset = {"type": result.dataset, "name": result.dataset, "split": result.split}
        task = {"type": "image-segmentation"}
        results = [{"task": task, "dataset": dataset, "metrics": [metric]}]
        lines.append(("model-index", [{"name": result.student, "results": results}]))
    return "".join(["---\n", *(f"{key}: {json.dumps(value)}\n" for key, value in lines), "---\n"])


def _licence_keys(sources: Sequence[Source]) -> list[tuple[str, Any]]:
    """``license`` as the hub knows it: an identifier, ``other`` with a name, or ``unknown`` if one is not stated."""
    names = list(dict.fromkeys(source.name for source in sources))
    if not all(names) or not names:
        return [("license", "unknown")]
    if len(names) == 1 and (known := licence.identifier(names[0])) in licence.COMMERCIAL:
        return [("license", known)]
    return [("license", "other"), ("license_name", ", ".join(names))]


def _commands(result: Result, details: Details, *, in_bundle: bool) -> str:
    """The lines of a code block of a shell."""
    name = shlex.quote(" ".join(result.student.split()))
    if in_bundle:
        return _aligned(
            ("sh run.sh", "builds and measures the engines here, writes results.json"),
            ("segpress infer engines drive.mp4", "where segpress is installed -> drive-overlay.mp4"),
        )
    folder = "OUT" if details.imported else "artifacts"
    where = f" --artifacts {folder}" if details.imported else ""
    engines = f"{folder}/engines/{name}"
    return _aligned(
        (f"segpress infer {engines} drive.mp4", "-> drive-overlay.mp4"),
        (f"python stages/infer.py {engines} drive.mp4", "the same where segpress is not installed"),
        (f"segpress bundle {name}{where} --out bundle.tar.gz", "for another device"),
        ("tar xzf bundle.tar.gz && sh bundle/run.sh", "there: builds and measures the engines"),
    )


def _aligned(*lines: tuple[str, str]) -> str:
    """Commands with a comment each, one below the other."""
    width = max(len(command) for command, _ in lines)
    return "".join(f"{command.ljust(width)}   # {comment}\n" for command, comment in lines)
