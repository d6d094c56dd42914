"""What quantisation does to the labels: a candidate graph and the float graph on the same labelled train frames."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.evaluation.confusion import ConfusionMatrix
from pipeline.evaluation.matching import require_same_classes
from pipeline.frames import Array, resize_label_map
from pipeline.labels import LabelSpec
from pipeline.prepared import Prepared
from pipeline.quantization.calibration import THREADS, FrameSource
from pipeline.quantization.calibration_frames import Frames, choose, class_shares


@dataclass(frozen=True)
class Outcome:
    """Of one candidate, in percent or points.

    Attributes:
        disagreement: share of pixels whose label is not that of the float graph.
        miou_drop: mIoU of the float graph minus that of the candidate.
        class_drop: the most that one class lost in IoU, and which.
        worst_class: its name.
    """

    disagreement: float
    miou_drop: float
    class_drop: float
    worst_class: str


class Trial:
    """Runs candidates against the float graph.

    Args:
        float_graph: file of the deploy graph in float32.
        frames: (H, W, 3) BGR uint8 of its input size; not those of calibration.
        targets: (H', W') train ids of each.
    """

    exact = False  # whether candidates run in exact arithmetic

    def __init__(self, float_graph: Path, frames: FrameSource, targets: Sequence[Array], labels: LabelSpec) -> None:
        self.frames = [frames[index] for index in range(len(frames))]
        self.targets = list(targets)
        self.labels = labels
        self.reference = self._maps(onnx.load(float_graph))
        self.reference_iou = self._iou(self.reference)

    @classmethod
    def on_train(cls, prepared: Prepared, source: Artifact, *, used: Collection[str], count: int, seed: int) -> Trial:
        """On labelled train frames that calibration did not see, every class among them as far as there are frames.

        Args:
            source: ONNX artifact; its fp32.onnx is the float graph.
            used: names of the frames that calibrated.
            count, seed: how many are drawn, and from which chance.

        Raises:
            UserError: calibration took all frames, or the data set has other classes than the network.
        """
        require_same_classes(prepared, source)
        split = prepared.split("train")
        left = [index for index, name in enumerate(split.names) if name not in set(used)]
        if not left:
            raise UserError(
                f"calibrate.images: all {len(split)} train frames calibrate, none is left for quantize.trial_images; "
                "take fewer, or set quantize.trial_images: 0"
            )
        shares = class_shares(split, prepared.labels)[left]
        chosen = [left[index] for index in choose(shares, count=count, seed=seed)]
        size: tuple[int, int] = tuple(source.meta["input_size"])
        targets = [split.label(index) for index in chosen]
        return cls(source.file("fp32.onnx"), Frames(split, chosen, size), targets, prepared.labels)

    def exactly(self) -> Trial:
        """The same trial without this machine's INT8 kernels, for a file that other kernels will run."""
        other = copy.copy(self)
        other.exact = True
        return other

    def exact_agreement(self, candidate: onnx.ModelProto) -> float:
        """Percent of the pixels whose label is the same with this machine's INT8 kernels and in exact arithmetic."""
        pairs = zip(self._maps(candidate), self.exactly()._maps(candidate), strict=True)
        return round(100 * float(np.mean([(fused == exact).mean() for fused, exact in pairs])), 4)

    def run(self, candidate: onnx.ModelProto) -> Outcome:
        maps = self._maps(candidate)
        different = sum(int((a != b).sum()) for a, b in zip(maps, self.reference, strict=True))
        lost = self.reference_iou - self._iou(maps)  # NaN: no target holds the class
        worst = int(np.nanargmax(lost))
        return Outcome(
            disagreement=round(100 * different / sum(a.size for a in maps), 4),
            miou_drop=round(float(np.nanmean(lost)), 4),
            class_drop=round(float(lost[worst]), 4),
            worst_class=self.labels.names[worst],
        )

    def _maps(self, model: onnx.ModelProto) -> list[Array]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.log_severity_level = 3
        if self.exact:  # Q/DQ pairs round, and what lies between them is computed in float
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return [session.run(None, {name: frame[np.newaxis]})[0][0] for frame in self.frames]

    def _iou(self, maps: Sequence[Array]) -> npt.NDArray[np.float64]:
        """IoU of each class in percent."""
        matrix = ConfusionMatrix(num_classes=self.labels.num_classes, ignore_index=self.labels.ignore_index)
        for found, target in zip(maps, self.targets, strict=True):
            matrix.add(target, resize_label_map(found, (target.shape[0], target.shape[1])))
        return 100 * matrix.iou()
