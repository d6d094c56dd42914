"""What changes the strength of a loss: crop, scale of the teacher's features, number of classes, batch, stride.

The strength of a term is the sum over all positions of the length of its gradient at the student's logits, embedding or
last stage. For a mean over pixels, such as cross-entropy, it does not depend on how many pixels there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import losses
from pipeline.models import SegOutput

K, C_S, C_T, SIDE = 5, 8, 16, 16


@dataclass(frozen=True)
class Scene:
    """Outputs of both networks for the same images, and the labels: blocks of classes, with noise on the features."""

    student: SegOutput
    teacher: SegOutput
    labels: Tensor
    classes: int = K
    stride: int = 8

    def map(self, function: Callable[[Tensor], Tensor]) -> Scene:
        return replace(self, student=self.student.map(function), teacher=self.teacher.map(function))


def scene() -> Scene:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    blocks = torch.stack([(torch.arange(16) + shift).remainder(K).view(4, 4) for shift in (0, 2)])
    small = blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)  # (2, 16, 16)
    hot = torch.nn.functional.one_hot(small, K).movedim(-1, 1).double()

    def output(channels: int, confidence: float) -> SegOutput:
        feature = (torch.einsum("nkhw,kc->nchw", hot, noise(K, channels)) + noise(2, channels, SIDE, SIDE) / 2).relu()
        return SegOutput(confidence * hot + noise(2, K, SIDE, SIDE), feature, stages=(feature,))

    labels = small.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return Scene(output(C_S, 2.0), output(C_T, 4.0), labels)


def larger_crop(base: Scene) -> Scene:
    """Twice as high and wide, with the same content four times."""
    return replace(base.map(lambda x: x.repeat(1, 1, 2, 2)), labels=base.labels.repeat(1, 2, 2))


def larger_features(base: Scene) -> Scene:
    """Embedding and stages of the teacher times ten."""
    teacher = base.teacher
    stages = tuple(10 * stage for stage in teacher.stages)
    return replace(base, teacher=replace(teacher, embedding=10 * teacher.embedding, stages=stages))


def more_classes(base: Scene) -> Scene:
    """Fifteen more, which no image has: both networks give them low logits."""
    generator = torch.Generator().manual_seed(1)

    def extended(output: SegOutput) -> SegOutput:
        absent = torch.randn(2, 15, SIDE, SIDE, generator=generator, dtype=torch.float64) - 8
        return replace(output, logits=torch.cat([output.logits, absent], dim=1))

    return replace(base, student=extended(base.student), teacher=extended(base.teacher), classes=K + 15)


def larger_batch(base: Scene) -> Scene:
    """The same images twice."""
    return replace(base.map(lambda x: x.repeat(2, 1, 1, 1)), labels=base.labels.repeat(2, 1, 1))


def finer_stride(base: Scene) -> Scene:
    """The same images at stride 4 instead of 8."""
    return replace(base.map(lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)), stride=4)


CHANGES: dict[str, Callable[[Scene], Scene]] = {
    "crop": larger_crop,
    "scale": larger_features,
    "classes": more_classes,
    "batch": larger_batch,
    "stride": finer_stride,
}


def strengths(name: str, options: dict[str, Any], case: Scene) -> dict[str, float]:
    """The strength of each term; memories are filled first, and statistics are those of the case."""
    torch.manual_seed(0)
    loss = losses.build(
        name, options, num_classes=case.classes, ignore_index=255, steps=10, seed=0,
        student_channels=C_S, teacher_channels=C_T, student_stage_channels=(C_S,), teacher_stage_channels=(C_T,),
        student_output_stride=case.stride,
    ).double()  # fmt: skip
    for _ in range(4):
        loss(case.student, case.teacher, case.labels)
    loss.eval()
    torch.manual_seed(1)
    student = case.student.map(lambda x: x.detach().clone().requires_grad_())
    student = replace(student, stages=tuple(student.stages))
    result = {}
    for term, value in loss(student, case.teacher, case.labels).items():
        inputs = [student.logits, student.embedding, *student.stages]
        gradients = torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)
        result[term] = sum(float(gradient.norm(dim=1).sum()) for gradient in gradients if gradient is not None)
    return result


OWN_SCALE = "published for the teacher's own scale; normalize: teacher takes it out"
MEAN_OF_CLASSES = "a mean over classes, as published: each of more classes counts less"
DRAWN = "the memory draws pixels, and fine strides draw as many as stride 8 has"
BORDERS = "3x3 convolutions see the borders, and a finer stride through fewer different pixels"
SAME = (0.98, 1.02)
RANDOM = (0.9, 1.1)
#: Of 3x3 convolutions on features with random gaps.
GENERATED = {
    "crop": (*RANDOM, BORDERS),
    "batch": (*RANDOM, "the gaps are drawn"),
    "stride": (*RANDOM, BORDERS),
}
PATCHES = {**GENERATED, "stride": (0.8, 1.1, "pooling and patches are in pixels, as published")}
#: Where the ratio of strengths, changed / not changed, is not 1: term -> change -> accepted range, reason.
EXCEPT: dict[str, dict[str, tuple[float, float, str]]] = {
    **dict.fromkeys(("cirkd_pixel", "cirkd_region"), dict.fromkeys(CHANGES, (*RANDOM, DRAWN))),
    **{term: {**GENERATED, "scale": (7, 13, OWN_SCALE)} for term in ("mgd", "af_dcd_reconstruction")},
    **dict.fromkeys(("mgd normalized", "af_dcd_reconstruction normalized"), GENERATED),
    "af_dcd_contrast": {**PATCHES, "scale": (1.0, 1.5, OWN_SCALE)},
    "af_dcd_contrast normalized": PATCHES,
    "idd_position": {"crop": (*RANDOM, BORDERS), "stride": (*RANDOM, BORDERS)},
    "cwd_feature": {"scale": (8, 15, OWN_SCALE)},
    "cwd_logit": {"classes": (0.35, 0.55, MEAN_OF_CLASSES)},
    "cwd_logit normalized": {"classes": (0.35, 0.55, MEAN_OF_CLASSES)},
    **{term: {"classes": (0.5, 0.8, MEAN_OF_CLASSES)} for term in ("dist_inter", "dist_intra")},
    "aicsd": {"classes": (0.5, 0.9, MEAN_OF_CLASSES)},
    "aicsd_kd": {"classes": (0.2, 0.3, MEAN_OF_CLASSES)},
    "skd": {"stride": (1.4, 2.1, "regions of 2 x 2 pixels, as published: they are smaller at a finer stride")},
}
#: Losses and options; the terms that a default leaves out are switched on.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("kd", {}),
    ("fitnet", {}),
    ("fitnet", {"normalize": "channels", "adapter": "norm"}),
    ("cirkd", {}),
    ("idd", {"position_weight": 1.0}),
    ("idd", {"normalize": "mean", "centers": "batch"}),
    ("i2ckd", {}),
    ("i2ckd", {"prototypes": "image", "mining": "hard"}),
    ("pfs", {}),
    ("pfs", {"metric": "l2", "normalizer": "pixels"}),
    ("cwd", {"feature_weight": 50.0}),
    ("cwd", {"feature_weight": 50.0, "normalize": "teacher"}),
    ("skd", {}),
    ("ifvd", {}),
    ("at", {}),
    ("dist", {}),
    ("aicsd", {"adaptive": False}),
    ("mgd", {}),
    ("mgd", {"normalize": "teacher"}),
    ("idd", {"normalize": "channels", "adapter": "norm"}),
    ("af_dcd", {}),
    ("af_dcd", {"normalize": "teacher"}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_ratio_is_1_or_there_is_a_reason(name: str, options: dict[str, Any]) -> None:
    base = strengths(name, options, scene())
    learning = [term for term, value in base.items() if value]
    assert learning
    for change, function in CHANGES.items():
        changed = strengths(name, options, function(scene()))
        for term in learning:
            key = term if options.get("normalize", "none") == "none" else f"{term} normalized"
            low, high, _ = EXCEPT.get(key, {}).get(change, (*SAME, ""))
            assert low <= changed[term] / base[term] <= high, (term, change, changed[term] / base[term])


def test_every_loss_is_in_the_table() -> None:
    assert {name for name, _ in CASES} == set(losses.available()) - {"none"}


if __name__ == "__main__":
    for name, options in CASES:
        base = strengths(name, options, scene())
        changed = {change: strengths(name, options, function(scene())) for change, function in CHANGES.items()}
        for term, value in base.items():
            if value:
                print(term, options, *(f"{change} {changed[change][term] / value:.4f}" for change in CHANGES))
