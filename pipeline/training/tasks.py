"""The task of learning from labels: a module that owns its network and returns ``{"loss": ..., "<term>": ...}``.

``loss`` is the sum of the terms. A name with a slash (``weight/kd``) is a value for the curves, not a term.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models import SegNetwork, SegOutput

AUX_WEIGHT = 0.4  # of the auxiliary head's cross-entropy, as in the CIRKD code base


class Normaliser(nn.Module):
    """Frames as one network reads them: RGB normalised with its own mean and deviation.

    Shapes: frames (N, 3, H, W), RGB in 0..255, of any dtype; valid (N, H, W) bool or None. Returns (N, 3, H, W) floats;
    padding, where valid is False, has the value 0, which is the network's mean colour.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: SegNetwork) -> None:
        super().__init__()
        for name, values in (("mean", network.mean), ("std", network.std)):
            self.register_buffer(name, 255 * torch.tensor(values)[:, None, None], persistent=False)  # (3, 1, 1)

    def forward(self, frames: Tensor, valid: Tensor | None) -> Tensor:
        x = frames.to(self.mean.dtype, copy=True).sub_(self.mean).div_(self.std)
        return x if valid is None else x.masked_fill_(~valid[:, None], 0.0)


class SupervisedTask(nn.Module):
    """A network that learns from labels.

    Args:
        network: the network to train.
        ignore_index: target id of pixels that do not count.

    Attributes:
        class_weights: (K,) weights of the cross-entropy, or None; a run sets them, see ``training.run.train``.
        padding: target id of pixels outside the frame, which take part in no term, or None: there are none. A run sets
            it, too. Pixels of the frame without a label have ``ignore_index``: no cross-entropy, but terms of
            distillation.

    Shapes: x (N, 3, H, W), RGB in 0..255, not normalised; target (N, H, W) ids, uint8 or int64. A frame without labels
    is one whose pixels all have ``ignore_index``.
    """

    class_weights: Tensor | None

    def __init__(self, network: SegNetwork, *, ignore_index: int) -> None:
        super().__init__()
        self.network = network
        self.normalise = Normaliser(network)
        self.ignore_index = ignore_index
        self.padding: int | None = None
        self.register_buffer("class_weights", None, persistent=False)

    def forward(self, x: Tensor, target: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Terms of the loss and their sum.

        Args:
            weight: divisor of the cross-entropy; None: the :meth:`weight` of this target. Parts of a batch
                (processes, accumulation) get the mean of all parts' weights: then the mean of their losses is the loss
                of the whole batch, also when some parts have more labelled pixels than others.
        """
        target, valid = self.receive(target)
        return self.total(self.supervised(self.predict(x, valid), target, weight))

    def receive(self, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """Targets for the losses from the ids of the loader: int64, with the ignored id at padding. And which pixels
        are no padding, (N, H, W) bool; None: all.
        """
        if self.padding is None:
            return target.long(), None
        valid = target != self.padding
        return target.long().masked_fill(~valid, self.ignore_index), valid

    def predict(self, x: Tensor, valid: Tensor | None) -> SegOutput:
        """The network's output for frames in 0..255; it carries ``valid``."""
        output: SegOutput = self.network(self.normalise(x, valid))
        return replace(output, valid=valid)

    def weight(self, target: Tensor) -> Tensor:
        """Sum over labelled pixels of their class weights (1 each without class weights), a float64 scalar."""
        labelled = target != self.ignore_index
        if self.padding is not None:
            labelled &= target != self.padding
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

    def begin(self, step: int, *, steps: int) -> None:
        """Called before each update, with its 1-based number and the number of all updates."""

    def finish(self) -> None:
        """After all parts of a batch; all processes call it."""

    def check(self) -> None:
        """When the host has waited for the device: warn of what went wrong there. The first process calls it."""

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
