"""Af-DCD: masked generation, and a contrast between groups of channels inside small patches."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from pipeline.errors import UserError
from pipeline.losses._adapters import Adapter
from pipeline.losses._base import DistillationLoss
from pipeline.losses._masked import MaskedGeneration, squared_error
from pipeline.losses._padding import filled, inside, mean, whole
from pipeline.losses._standard import Standard
from pipeline.losses._weights import Weight
from pipeline.models import SegOutput

#: Positions of the last stage for which the weights are published: crops of 512 x 1024 at stride 8.
PUBLISHED_POSITIONS = 64 * 128


class DenseContrast(DistillationLoss):
    """Feature reconstruction, and InfoNCE over the channel groups and positions of a patch.

    The student's features generate the teacher's as in :mod:`pipeline.losses.mgd`; the first term is
    ``8192 / (N * h * w) * ||G - F_T||^2``. For the second term both maps are max-pooled and cut into patches, and the
    channels into M groups: with patches of 4 x 4 and M = 16, a patch has 256 vectors of C_T / 16 channels. A student's
    vector at (position, group) must be nearest to the teacher's at the same place (``similarity = -||a - b||_1 /
    temperature``) among the teacher's vectors of all *other* groups in that patch; those of its own group at other
    positions are left out. The sum of the cross-entropies is divided by the h*w of the pooled map and by N (Fan et al.
    2023, NeurIPS, official code). Published with pixel-wise KD: ``loss: [kd, af_dcd]``.

    Differences from the official code, which fails when the numbers of channels agree and when the patch does not
    divide the pooled map: there is then no adapter, and the map is cropped. The official first term is the sum over the
    positions, which is the same for its crops of Cityscapes (512 x 1024 at stride 8) and grows with h * w. The adapter
    has no bias; the deeper projector of some scripts and the clipping of the adapter's gradient at norm 15 are left
    out.

    Args:
        student_channels, teacher_channels, student_stage_channels, teacher_stage_channels: offered by the run.
        feature: the last encoder ``stage`` (official code) or the ``embedding``.
        pool: max-pooling before the patches; 4 in the official code, 1 (none) there for CamVid.
        groups: M; 16 in the official code. It must divide C_T.
        patch: height and width of a patch after pooling; 4 in the official code.
        mask_ratio: probability that a position is set to 0 before generation; 0.75 in the official code.
        temperature: of the contrast; 0.07 in the official code.
        reconstruction_weight: factor of the first term; 2e-6 in the official script for Cityscapes (up to 8e-6
            elsewhere).
        contrast_weight: factor of the second; 0.005 in the same script (up to 0.04 elsewhere).
        normalize: of the teacher's feature: ``none`` takes it as it is, as the published weights need; ``teacher``
            divides it by its deviation over all training steps so far; ``channels`` standardises each channel.
        adapter: before the 1x1 convolution: ``plain``, nothing, or ``norm``, batch norm without scale and offset, so
            that the scale of the student's feature does not matter (ours).

    Shapes: features (N, C_S, h, w) and (N, C_T, h', w'); returns ``{"af_dcd_reconstruction": scalar,
    "af_dcd_contrast": scalar}``.

    Raises:
        UserError: ``groups`` does not divide the channels; in ``forward``, the pooled map is smaller than a patch.

    Example:
        >>> x = torch.randn(2, 32, 16, 16)
        >>> out = SegOutput(logits=x, embedding=x, stages=(x,))
        >>> channels = {"student_channels": 32, "teacher_channels": 32}
        >>> stages = {"student_stage_channels": (32,), "teacher_stage_channels": (32,)}
        >>> sorted(DenseContrast(**channels, **stages)(out, out, torch.zeros(2, 32, 32)))
        ['af_dcd_contrast', 'af_dcd_reconstruction']
    """

    def __init__(
        self,
        *,
        student_channels: int,
        teacher_channels: int,
        student_stage_channels: tuple[int, ...],
        teacher_stage_channels: tuple[int, ...],
        feature: Literal["stage", "embedding"] = "stage",
        pool: Annotated[int, Ge(1)] = 4,
        groups: Annotated[int, Ge(2)] = 16,
        patch: Annotated[int, Ge(1)] = 4,
        mask_ratio: Annotated[float, Ge(0), Lt(1)] = 0.75,
        temperature: Annotated[float, Gt(0)] = 0.07,
        reconstruction_weight: Weight = 2e-6,
        contrast_weight: Weight = 0.005,
        normalize: Standard = "none",
        adapter: Adapter = "plain",
    ) -> None:
        super().__init__()
        if feature == "stage":
            student_channels, teacher_channels = student_stage_channels[-1], teacher_stage_channels[-1]
        self.feature = feature
        self.reads = ("stages",) if feature == "stage" else ("embedding",)
        self.pool = pool
        self.groups = groups
        self.patch = patch
        self.temperature = temperature
        self.reconstruction_weight = reconstruction_weight
        self.contrast_weight = contrast_weight
        if teacher_channels % groups:
            raise UserError(f"losses.af_dcd.groups: got {groups}; allowed: divisors of the {teacher_channels} channels")
        channels = student_channels, teacher_channels
        self.generation = MaskedGeneration(*channels, mask_ratio=mask_ratio, normalize=normalize, adapter=adapter)

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        ours, theirs = self._features(student), self._features(teacher)
        valid = inside(student, ours)
        generated, original = self.generation(filled(ours, valid), theirs, inside(teacher, theirs))
        reconstruction = squared_error(generated, original, positions=PUBLISHED_POSITIONS, valid=valid)
        return {
            "af_dcd_reconstruction": self.reconstruction_weight * reconstruction,
            "af_dcd_contrast": self.contrast_weight
            * self._contrast(
                self._patches(generated),
                self._patches(original),
                whole(valid, self.pool * self.patch, ceil_mode=False),
            ),
        }

    def _features(self, output: SegOutput) -> Tensor:
        return output.stages[-1] if self.feature == "stage" else output.embedding

    def _patches(self, features: Tensor) -> Tensor:
        """(N, C, h, w) to (patches, positions * groups, C / groups); the group runs fastest."""
        height, width = features.shape[-2:]
        rows, columns = (size // self.pool // self.patch for size in (height, width))
        if not rows or not columns:
            raise UserError(
                f"losses.af_dcd.pool: got {self.pool}; after it, a feature map of {height} x {width} is smaller than a "
                f"patch of {self.patch}; use a smaller pool or patch, or larger crops"
            )
        pooled = F.max_pool2d(features, self.pool)[..., : rows * self.patch, : columns * self.patch]
        parts = pooled.reshape(len(features), self.groups, -1, rows, self.patch, columns, self.patch)
        return parts.permute(0, 3, 5, 4, 6, 1, 2).reshape(-1, self.patch**2 * self.groups, parts.shape[2])

    def _contrast(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        """Cross-entropy of a vector's own place among the others: sum over groups, mean over positions.

        Args:
            valid: (N, rows, columns) bool, patches that take part; None: all.
        """
        distances = torch.cdist(student, teacher, p=1.0)
        group = torch.arange(student.shape[1], device=student.device) % self.groups
        own = torch.eye(len(group), dtype=torch.bool, device=student.device)
        left_out = (group[:, None] == group) & ~own
        logits = (distances / -self.temperature).masked_fill(left_out, -torch.inf)
        log_p = logits.diagonal(dim1=1, dim2=2) - logits.logsumexp(dim=2)  # (patches, positions * groups)
        if valid is None:
            return -log_p.mean() * self.groups
        return -mean(log_p.mean(dim=1).reshape(valid.shape), valid) * self.groups
