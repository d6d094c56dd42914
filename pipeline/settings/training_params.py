"""Sections of params.yaml that describe networks and how they are trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from pipeline.settings.param_types import (
    STRICT,
    Determinism,
    Folders,
    Optimizer,
    Options,
    OrFalse,
    Positive,
    Precision,
    Range,
    Scales,
    Schedule,
    Section,
    Seed,
    Share,
    Size,
    StoreMode,
    ValidationPrecision,
)
from pipeline.settings.unlabelled import Unlabelled


class Model(BaseModel):
    """A network: plugin name, and the options of that plugin beside it."""

    model_config = {**STRICT, "extra": "allow"}
    name: str  # a file of pipeline/models

    @property
    def options(self) -> Options:
        return dict(self.model_extra or {})


class LearningRateFactors(Section):
    """Learning rate of a part / ``lr``; 0 freezes the part."""

    encoder: Share  # the encoder of the network
    head: Share  # the rest of the network
    loss: Share  # the adapters of the losses


class Recipe(Section):
    """A training run."""

    steps: Positive | None  # updates; null if epochs is set
    epochs: Annotated[float, Field(gt=0)] | None  # passes over the train split; null if steps is set
    batch_size: Positive  # images per update, over all processes and accumulated parts
    accumulate: Positive = 1  # parts of a batch that go through the network one after another, to save memory
    optimizer: Optimizer  # algorithm of the updates
    lr: Annotated[float, Field(gt=0)]  # highest learning rate
    lr_factors: LearningRateFactors
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # momentum of sgd
    weight_decay: Share  # weight decay of the optimizer
    decay_norms: bool = True  # weight decay also for norm layers and biases
    clip_norm: Annotated[float, Field(gt=0)] | None = None  # highest norm of the gradient; null: no limit
    schedule: Schedule = "poly"  # learning rate after the warm-up
    power: Share  # exponent of the poly schedule
    warmup: Annotated[int, Field(ge=0)]  # steps of linear warm-up
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of an average of the weights, which is then kept
    validate_every: Positive  # steps between two validations on val
    precision: Precision  # fp16 and bf16: autocast
    #: precision of the validations during training; training: that of the option precision
    validation_precision: ValidationPrecision = "fp32"
    sync_batch_norm: bool = False  # batch-norm statistics over all processes, on GPUs
    channels_last: bool = False  # faster convolutions on GPUs
    compile: bool = False  # torch.compile
    #: strict: kernels with the same bits in every run; off: the fastest kernels; auto: strict on a CPU, off on a GPU
    determinism: Determinism = "auto"
    log_every: Positive | None = None  # steps between two reads of the loss from the device; null: 1, on a GPU 20
    workers: Annotated[int, Field(ge=0)]  # loader processes per training process; 0: the training process loads
    #: decoded: frames are decoded once, into a file that is mapped into memory; auto: the same, if there is room
    store: StoreMode = "auto"
    scale: Range  # lowest and highest random scale, relative to input_size
    crop: Size | None = None  # size of training crops; null: input_size
    colour_jitter: Annotated[float, Field(ge=0, le=1)] = 0.5  # probability of changed colours
    class_balance: Share = 0.0  # weight of a class in the cross-entropy ~ share of its pixels ** -class_balance

    @field_validator("epochs")
    @classmethod
    def _one_length(cls, epochs: float | None, others: ValidationInfo) -> float | None:
        if "steps" in others.data and (others.data["steps"] is None) == (epochs is None):
            raise ValueError("the length of training is either steps or epochs, and the other is null")
        return epochs


class Teaching(Section):
    """What students see of the teacher: means over views of a crop and over several teachers."""

    flip: bool  # the mean of its logits on a crop and on the mirrored crop
    scales: Scales  # the mean of its logits on a crop at these sizes, relative to the crop; 1.0 is one of them
    others: Folders  # network artifacts of more teachers: logits are means, features are those of the first
    cached: bool = False  # the output on whole frames is computed once; crops take their part of it


class Stage0(Section):
    """Updates before the task, in which the student's encoder learns features."""

    steps: Annotated[int, Field(ge=0)] = 0  # updates; 0: there is no stage 0
    #: network with initial weights whose encoder stages are learned, see model; null: the first teacher
    model: Model | None = None


class Distill(Recipe):
    """The training run of every student."""

    seed: Seed | None = None  # null: the seed of the run; another value repeats the students under the same teacher
    stage0: Stage0 = Stage0()
    teaching: Teaching = Teaching(flip=False, scales=[1.0], others=[])
    unlabelled: Unlabelled = Unlabelled()  # frames without labels


class Teacher(Section):
    """The network that students learn from."""

    model: Model  # the network, see model
    train: Annotated[Recipe | Literal[False], OrFalse()]  # false: the network is only evaluated


class QuantizationAware(Section):
    """Fine-tuning of students with ``qat: true``; other values are those of ``distill``."""

    target: Literal["cpu", "tensorrt"]  # INT8 file whose rounding is simulated
    steps: Positive  # updates
    lr: Annotated[float, Field(gt=0)]  # highest learning rate
    warmup: Annotated[int, Field(ge=0)]  # steps of linear warm-up
    validate_every: Positive  # steps between two validations on val
