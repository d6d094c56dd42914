"""The section ``distill.unlabelled`` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.settings.param_types import FrameLabels, Positive, Section, Sources


class Unlabelled(Section):
    """Frames without labels that join every batch, see unlabelled.md."""

    #: folders, images, videos and patterns, such as drives/**/left/*.png; []: no frames
    sources: Sources = Field(default=[])
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5  # share of these frames in a batch
    every: Literal["auto"] | Positive = "auto"  # every N-th frame of a video; auto: one frame per second
    #: lowest correlation of grey 32x32 thumbnails at which a frame counts as a near-duplicate; null: keep all frames
    duplicates: Annotated[float, Field(ge=0.9, le=0.999)] | None = 0.995
    #: what they teach: the terms of the loss (soft), the teacher's confident predictions as labels (hard), or both
    labels: FrameLabels = "soft"
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.9  # probability from which a prediction is confident
    #: at least this share of the pixels predicted as a class is confident: uncertain classes get a lower threshold
    keep: Annotated[float, Field(ge=0, le=1)] = 0.5
    rounds: Positive = 1  # number of trainings; from the second on, the student of the one before labels the frames

    @field_validator("rounds")
    @classmethod
    def _labels_change(cls, rounds: int, others: ValidationInfo) -> int:
        if rounds > 1 and others.data.get("labels") == "soft":
            raise ValueError("with labels: soft every round is the same; use 1, or set labels to hard or both")
        return rounds
