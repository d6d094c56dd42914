"""What students see of their teacher: one network, or the mean of several networks and of several views of a crop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.models import SegNetwork, SegOutput
from pipeline.models.weights import network_artifact

log = logging.getLogger(__name__)


class Teachers(SegNetwork):
    """Several teachers, or one that looks at several views of a crop, as one network with the mean of their logits.

    A view is the crop at another size, mirrored or not. Its logits are mirrored back and resized to those of the first
    teacher on the crop itself (bilinear). The mean of logits is the geometric mean of the probabilities (Hinton et al.
    2015, arXiv 1503.02531, section 1, name both means); losses that read logits without a softmax over classes, such as
    ``cwd``, get logits of the usual scale. Embedding, encoder stages and auxiliary logits are those of the first
    teacher on the crop itself: features of several networks have no common channels. So are the declared facts.

    Args:
        members: teachers with the same classes, the first one first.
        scales: sizes of the views / size of the crop; 1.0 is among them.
        flip: whether every view is mirrored too.

    Shapes: x (N, 3, H, W), normalised with ``mean`` and ``std``, which are those of the first teacher; the others get x
    with their own normalisation. Logits (N, K, h, w) in float32.
    """

    def __init__(self, members: Sequence[SegNetwork], *, scales: Sequence[float] = (1.0,), flip: bool = False) -> None:
        super().__init__()
        assert 1.0 in scales, "params.yaml is checked"
        self.members = nn.ModuleList(members)
        self.scales, self.flip = tuple(scales), flip
        self._equal: set[float] = set()  # scales of views that have the size of the crop
        self.facts = members[0].facts
        self.mean, self.std = members[0].mean, members[0].std
        for index, member in enumerate(members):
            factor = torch.tensor(self.std) / torch.tensor(member.std)
            offset = (torch.tensor(self.mean) - torch.tensor(member.mean)) / torch.tensor(member.std)
            self.register_buffer(f"factor{index}", factor[:, None, None], persistent=False)  # (3, 1, 1)
            self.register_buffer(f"offset{index}", offset[:, None, None], persistent=False)

    @property
    def first(self) -> SegNetwork:
        """The first teacher; features and facts are its own."""
        first = self.members[0]
        assert isinstance(first, SegNetwork)
        return first

    @property
    def encoder(self) -> nn.Module | None:
        return self.first.encoder

    @property
    def auxiliary(self) -> nn.Module | None:
        return self.first.auxiliary

    def forward(self, x: Tensor) -> SegOutput:
        plain: SegOutput = self.first(x)
        size = plain.logits.shape[-2:]
        summed = plain.logits.float()
        for index, member in enumerate(self.members):
            normalised = x if index == 0 else x * self.get_buffer(f"factor{index}") + self.get_buffer(f"offset{index}")
            for scale in self.scales:
                scaled = _scaled(normalised, scale, divisor=self._divisor(member))
                if scale != 1.0 and scaled is normalised:
                    self._warn_of_equal_view(scale, member)
                for mirrored in (False, True) if self.flip else (False,):
                    if (index, scale, mirrored) == (0, 1.0, False):
                        continue  # the first teacher on the crop itself
                    logits = member(scaled.flip(-1) if mirrored else scaled).logits.float()
                    summed = summed + _resized(logits.flip(-1) if mirrored else logits, size)
        return SegOutput(logits=summed / passes(self), embedding=plain.embedding, stages=plain.stages, aux=plain.aux)

    def _warn_of_equal_view(self, scale: float, member: nn.Module) -> None:
        if scale not in self._equal:
            self._equal.add(scale)
            log.warning(
                "distill.teaching.scales: at %g a crop has the same size as at 1.0, because sides are rounded to "
                "multiples of %d: this view counts twice and costs time; choose a value further from 1.0",
                scale, self._divisor(member),
            )  # fmt: skip

    @staticmethod
    def _divisor(member: nn.Module) -> int:
        assert isinstance(member, SegNetwork)
        return member.facts.divisor


def passes(teacher: SegNetwork) -> int:
    """Forward passes of a teacher per crop: 1 for a single network."""
    if not isinstance(teacher, Teachers):
        return 1
    return len(teacher.members) * len(teacher.scales) * (2 if teacher.flip else 1)


def open_all(
    teacher: Path, *, labels: LabelSpec, scales: Sequence[float], flip: bool, others: Sequence[str]
) -> tuple[SegNetwork, dict[str, Artifact]]:
    """The teachers of a run as one network, and their artifacts as ``teacher``, ``teacher_2`` and so on.

    With one teacher and one view it is the network of the artifact itself.

    Args:
        teacher: network artifact of the first teacher.
        labels: of the data set.
        scales, flip: see :class:`Teachers`.
        others: network artifacts of further teachers; a relative path counts from the project's root.

    Raises:
        UserError: a folder is not a network artifact, or its classes are not those of the data set.
    """
    members, artifacts = [], {}
    for number, path in enumerate([teacher, *map(Path, others)], start=1):
        network, stored = network_artifact.load(path)
        if number > 1 and stored.labels.names != labels.names:
            raise UserError(
                f"distill.teaching.others: {path} has the classes {', '.join(stored.labels.names)}; the data set has "
                f"{', '.join(labels.names)}; all teachers need these classes in this order"
            )
        members.append(network)
        artifacts["teacher" if number == 1 else f"teacher_{number}"] = stored
    teachers = Teachers(members, scales=scales, flip=flip)
    count = passes(teachers)
    if count == 1:
        return members[0], artifacts
    pixels = sum(scale**2 for scale in scales) * count / len(scales)
    log.info("the teacher runs %d times per image, on %.1f times its pixels", count, pixels)
    return teachers, artifacts


def _scaled(x: Tensor, scale: float, *, divisor: int) -> Tensor:
    """Crops (N, 3, H, W) at another size, rounded to multiples of the divisor."""
    height, width = (max(divisor, round(side * scale / divisor) * divisor) for side in x.shape[-2:])
    if scale == 1.0 or (height, width) == tuple(x.shape[-2:]):
        return x
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False, antialias=scale < 1)


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
