"""How quantisation changes the labels: a candidate graph and the float graph on the same labelled train frames."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.evaluation import drops
from pipeline.evaluation.confusion import ConfusionMatrix
from pipeline.evaluation.drops import Drops, FrameCounts
from pipeline.evaluation.matching import require_same_classes
from pipeline.frames import Array, resize_label_map
from pipeline.labels import LabelSpec
from pipeline.prepared import Prepared
from pipeline.quantization.calibration import THREADS, FrameSource
from pipeline.quantization.calibration_frames import Frames, choose, class_shares


@dataclass(frozen=True)
class Outcome:
    """The result of one candidate.

    Attributes:
        disagreement: percent of the pixels whose label differs from that of the float graph.
        drops: points of mIoU, and of each class's IoU, that the candidate loses against the float graph.
    """

    disagreement: float
    drops: Drops

    def facts(self) -> dict[str, Any]:
        """For meta.json: the loss of mIoU, and the loss of the class that loses most."""
        worst, drop = self.drops.worst
        losses = {"miou_drop": self.drops.miou.got, "class_drop": drop.got, "worst_class": worst}
        return {"disagreement": self.disagreement, **losses}


class Trial:
    """Runs candidates against the float graph.

    Args:
        float_graph: file of the deploy graph in float32.
        frames: (H, W, 3) BGR uint8 of its input size; not the calibration frames.
        targets: (H', W') train ids of each frame.
        confidence: of the losses' intervals, 0..1; None: no intervals.

    Raises:
        UserError: the targets label no class.
    """

    exact = False  # whether candidates run in exact arithmetic

    def __init__(
        self,
        float_graph: Path,
        frames: FrameSource,
        targets: Sequence[Array],
        labels: LabelSpec,
        *,
        confidence: float | None = None,
    ) -> None:
        self.frames = [frames[index] for index in range(len(frames))]
        self.targets = list(targets)
        self.labels = labels
        self.reference = self._maps(onnx.load(float_graph))
        self.confidence = confidence
        self.reference_counts = self._counts(self.reference)
        if not self.reference_counts.labelled.any():
            raise UserError(
                f"quantize.trial_images: no pixel of the {len(self.targets)} train frames is labelled with "
                f"{', '.join(labels.names)}; correct the labels, or set quantize.trial_images: 0"
            )

    @classmethod
    def on_train(
        cls,
        prepared: Prepared,
        source: Artifact,
        *,
        used: Collection[str],
        count: int,
        seed: int,
        confidence: float | None = None,
    ) -> Trial:
        """A trial on labelled train frames that calibration did not use; the frames show every class if possible.

        Args:
            source: ONNX artifact; its fp32.onnx is the float graph.
            used: names of the calibration frames.
            count, seed: number of frames to draw, and the seed of the draw.
            confidence: see :class:`Trial`.

        Raises:
            UserError: calibration used all frames, or the data set has other classes than the network.
        """
        require_same_classes(prepared, source)
        split = prepared.split("train")
        unused = [index for index, name in enumerate(split.names) if name not in set(used)]
        if not unused:
            raise UserError(
                f"calibrate.images: calibration uses all {len(split)} train frames, none is left for "
                "quantize.trial_images; set calibrate.images lower, or quantize.trial_images: 0"
            )
        shares = class_shares(split, prepared.labels)[unused]
        chosen = [unused[index] for index in choose(shares, count=count, seed=seed)]
        size: tuple[int, int] = tuple(source.meta["input_size"])
        targets = [split.label(index) for index in chosen]
        frames = Frames(split, chosen, size)
        return cls(source.file("fp32.onnx"), frames, targets, prepared.labels, confidence=confidence)

    def exactly(self) -> Trial:
        """The same trial in exact arithmetic, without this machine's INT8 kernels: for files that a GPU will run."""
        other = copy.copy(self)
        other.exact = True
        return other

    def exact_agreement(self, candidate: onnx.ModelProto) -> float:
        """Percent of the pixels whose labels are equal with this machine's INT8 kernels and in exact arithmetic."""
        pairs = zip(self._maps(candidate), self.exactly()._maps(candidate), strict=True)
        return round(100 * float(np.mean([(kernels == exact).mean() for kernels, exact in pairs])), 4)

    def run(self, candidate: onnx.ModelProto) -> Outcome:
        """Compare a candidate's label maps with those of the float graph, and both with the targets."""
        maps = self._maps(candidate)
        different = sum(int((a != b).sum()) for a, b in zip(maps, self.reference, strict=True))
        losses = drops.measure(
            self.reference_counts, self._counts(maps), names=self.labels.names, confidence=self.confidence
        )
        return Outcome(disagreement=round(100 * different / sum(a.size for a in maps), 4), drops=losses)

    def _maps(self, model: onnx.ModelProto) -> list[Array]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.log_severity_level = 3
        if self.exact:  # Q/DQ pairs round, and the nodes between them compute in float
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return [session.run(None, {name: frame[np.newaxis]})[0][0] for frame in self.frames]

    def _counts(self, maps: Sequence[Array]) -> FrameCounts:
        matrix = ConfusionMatrix(num_classes=self.labels.num_classes, ignore_index=self.labels.ignore_index)
        return FrameCounts.of(
            matrix.add(target, resize_label_map(label_map, (target.shape[0], target.shape[1])))
            for label_map, target in zip(maps, self.targets, strict=True)
        )
