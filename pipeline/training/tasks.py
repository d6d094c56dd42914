"""The task of learning from labels: a module that owns its network and returns ``{"loss": ..., "<term>": ...}``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models import SegNetwork, SegOutput

AUX_WEIGHT = 0.4  # of the auxiliary head's cross-entropy, as in the CIRKD code base


class SupervisedTask(nn.Module):
    """A network that learns from labels.

    Args:
        network: the network to train.
        ignore_index: target id that counts nowhere.
        class_weights: (K,) weights of the cross-entropy, or None.

    Shapes: x (N, 3, H, W), RGB as uint8 or normalised floats; target (N, H, W) train ids, uint8 or int64.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: SegNetwork, *, ignore_index: int, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.network = network
        self.ignore_index = ignore_index
        self.register_buffer("class_weights", class_weights, persistent=False)
        for name, values in (("mean", network.mean), ("std", network.std)):
            self.register_buffer(name, 255 * torch.tensor(values)[:, None, None], persistent=False)  # (3, 1, 1)

    def forward(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        x, target = self.receive(x, target)
        return self.total(self.supervised(self.network(x), target))

    def receive(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """A batch as the loader sends it, bytes, as the networks and losses take it: normalised floats, int64 ids."""
        if x.dtype == torch.uint8:
            x = x.float().sub_(self.mean).div_(self.std)
        return x, target.long()

    def supervised(self, output: SegOutput, target: Tensor) -> dict[str, Tensor]:
        terms = {"ce": self.cross_entropy(output.logits, target)}
        if output.aux is not None:
            terms["aux"] = AUX_WEIGHT * self.cross_entropy(output.aux, target)
        return terms

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean over labelled pixels at label size; a connected zero when there is none."""
        upsampled = F.interpolate(logits.float(), size=target.shape[-2:], mode="bilinear", align_corners=False)
        if not bool((target != self.ignore_index).any()):
            return upsampled.sum() * 0.0
        weights: Tensor | None = self.class_weights  # type: ignore[assignment]
        return F.cross_entropy(upsampled, target, weight=weights, ignore_index=self.ignore_index)

    @staticmethod
    def total(terms: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}
