"""Every value that decides what a training run computes, as one object for the loop and for the checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from pipeline.errors import UserError
from pipeline.settings.param_types import Determinism, Optimizer, Precision, Schedule, ValidationPrecision
from pipeline.settings.training_params import Recipe


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The values of one training run. Each is part of the run's identity, so a run does not resume from a checkpoint
    with another value. Options that change no result (workers, folders, steps between two reads of the loss, seconds
    between two checkpoints) are not here.

    Attributes:
        input_size: (height, width) of the deployed network; validation runs at it.
        crop: (height, width) of training crops; None is ``input_size``.
        scale, colour_jitter: see :class:`pipeline.training.augment.Augmentation`.
        class_balance: exponent of the cross-entropy's class weights, see :func:`pipeline.training.data.class_weights`.
        batch_size: images per update, over all processes and accumulated parts.
        unlabelled_images: how many of them are frames without labels.
        accumulate: parts of a batch whose gradients are added before an update.
        steps: updates; the learning rate falls over them.
        seed: seed of the crops and of the random draws of every step.
        precision: fp32, fp16 or bf16 (autocast; weights stay fp32).
        lr_factors: of ``encoder``, ``head`` and ``loss``, see :func:`pipeline.training.optimization.parameter_groups`.
        momentum: of sgd.
        decay_norms: whether norm layers and biases decay too.
        clip_norm: highest norm of the gradient; None does not limit it.
        power: of the poly schedule.
        warmup: steps in which the learning rate rises.
        ema: decay of an average of the weights, which is validated and kept instead of them; None: no average.
        sync_batch_norm: batch-norm statistics over all processes (GPUs only).
        channels_last: memory format of images and weights; faster convolutions on GPUs.
        compile: torch.compile for the networks.
        determinism: strict, off or auto, see :func:`pipeline.training.seeding.choose_kernels`.
        validate_every: steps between two validations; None: no validations, and the last weights are kept.
        validation_precision: of these validations: fp32, or ``training`` for that of ``precision``.
        keep_start: whether the weights before the first step may be the best ones.
    """

    input_size: tuple[int, int]
    crop: tuple[int, int] | None
    scale: tuple[float, float]
    colour_jitter: float
    class_balance: float
    batch_size: int
    accumulate: int
    steps: int
    seed: int
    precision: Precision
    optimizer: Optimizer
    lr: float
    lr_factors: Mapping[str, float]
    momentum: float
    weight_decay: float
    decay_norms: bool
    clip_norm: float | None
    schedule: Schedule
    power: float
    warmup: int
    ema: float | None
    sync_batch_norm: bool
    channels_last: bool
    compile: bool
    validate_every: int | None
    determinism: Determinism = "auto"
    validation_precision: ValidationPrecision = "fp32"
    keep_start: bool = False
    unlabelled_images: int = 0

    @classmethod
    def of(
        cls, recipe: Recipe, *, images: int, input_size: tuple[int, int], seed: int, share: float = 0.0
    ) -> TrainingSettings:
        """The values of a recipe in params.yaml.

        Args:
            images: number of train images with labels, which converts epochs to steps.
            input_size: (height, width) of the deployed network.
            share: of the images of a batch that are frames without labels; 0: there are none.

        Raises:
            UserError: a batch of one image cannot have frames with and without labels.
        """
        names = {field.name for field in fields(cls)}
        values = recipe.model_dump(include=names - {"steps", "seed"})
        unlabelled = without_labels(recipe.batch_size, share=share) if share else 0
        steps = updates(recipe, images, unlabelled=unlabelled)
        return cls(**values, steps=steps, input_size=input_size, seed=seed, unlabelled_images=unlabelled)

    @property
    def crop_size(self) -> tuple[int, int]:
        """(height, width) of training crops."""
        return self.crop or self.input_size

    @property
    def validates_in_fp32(self) -> bool:
        """Whether the validations during training are in fp32."""
        return "fp32" in (self.precision, self.validation_precision)

    @property
    def forward_passes(self) -> int:
        """Forward passes of the whole run: updates times parts per update."""
        return self.steps * self.accumulate


def updates(recipe: Recipe, images: int, *, unlabelled: int = 0) -> int:
    """Steps of a recipe on a number of train images with labels; a part of an epoch's last batch counts as one.

    Args:
        unlabelled: how many images of a batch are frames without labels; an epoch does not count them.
    """
    if recipe.steps is not None:
        return recipe.steps
    assert recipe.epochs is not None
    return math.ceil(recipe.epochs * images / (recipe.batch_size - unlabelled))


def without_labels(batch_size: int, *, share: float) -> int:
    """How many images of a batch are frames without labels: the share, rounded; at least one has labels, one has none.

    Raises:
        UserError: the batch has one image.

    Example:
        >>> [without_labels(batch, share=0.3) for batch in (2, 4, 16)]
        [1, 1, 5]
    """
    if batch_size == 1:
        raise UserError(
            "batch_size: got 1; with frames without labels (distill.unlabelled) a batch has at least one image of each "
            "kind: raise it to 2 or more, or remove the sources of distill.unlabelled"
        )
    return min(max(round(share * batch_size), 1), batch_size - 1)
