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
        ignore_index: target id of pixels that do not count.

    Attributes:
        class_weights: (K,) weights of the cross-entropy, or None; a run sets them, see ``training.run.train``.

    Shapes: x (N, 3, H, W), RGB as uint8 or normalised floats; target (N, H, W) train ids, uint8 or int64.
    """

    class_weights: Tensor | None
    mean: Tensor
    std: Tensor

    def __init__(self, network: SegNetwork, *, ignore_index: int) -> None:
        super().__init__()
        self.network = network
        self.ignore_index = ignore_index
        self.register_buffer("class_weights", None, persistent=False)
        for name, values in (("mean", network.mean), ("std", network.std)):
            self.register_buffer(name, 255 * torch.tensor(values)[:, None, None], persistent=False)  # (3, 1, 1)

    def forward(self, x: Tensor, target: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Terms of the loss and their sum.

        Args:
            weight: divisor of the cross-entropy; None: the :meth:`weight` of this target. Parts of a batch
                (processes, accumulation) get the mean of all parts' weights: then the mean of their losses is the loss
                of the whole batch, also when some parts have more labelled pixels than others.
        """
        x, target = self.receive(x, target)
        return self.total(self.supervised(self.network(x), target, weight))

    def receive(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Convert a batch of the loader (uint8) to normalised floats and int64 ids, for the networks and losses."""
        if x.dtype == torch.uint8:
            x = x.float().sub_(self.mean).div_(self.std)
        return x, target.long()

    def weight(self, target: Tensor) -> Tensor:
        """Sum over labelled pixels of their class weights (1 each without class weights), a float64 scalar."""
        labelled = target != self.ignore_index
        if self.class_weights is None:
            return labelled.sum().double()
        weights = self.class_weights.double()
        if target.device.type == "cpu":
            return weights[target[labelled].long()].sum()
        return sum_of_weights(weights, target, labelled)

    def supervised(self, output: SegOutput, target: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        weight = self.weight(target) if weight is None else weight
        terms = {"ce": self.cross_entropy(output.logits, target, weight)}
        if output.aux is not None:
            terms["aux"] = AUX_WEIGHT * self.cross_entropy(output.aux, target, weight)
        return terms

    def cross_entropy(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Sum over labelled pixels at label size, divided by ``weight``; a zero with gradients without labelled pixels.

        Shapes: logits (N, K, h, w), target (N, H, W).
        """
        upsampled = F.interpolate(logits.float(), size=target.shape[-2:], mode="bilinear", align_corners=False)
        summed = F.cross_entropy(
            upsampled, target, weight=self.class_weights, ignore_index=self.ignore_index, reduction="sum"
        )
        return summed / weight.clamp(min=torch.finfo(torch.float32).tiny).to(summed.dtype)

    def networks(self) -> list[SegNetwork]:
        """All networks that run forward."""
        return [self.network]

    @staticmethod
    def total(terms: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def sum_of_weights(weights: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
    """Sum of the weights (K,) of labelled pixels. To choose these by a mask, the host would wait for their number.

    Shapes: target (N, H, W) ids, labelled (N, H, W) bool.
    """
    ids = target.long().masked_fill(~labelled, 0)
    return weights[ids].masked_fill(~labelled, 0.0).sum()
