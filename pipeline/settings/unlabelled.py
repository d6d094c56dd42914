"""The section ``distill.unlabelled`` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings.param_types import Positive, Section, Sources


class Unlabelled(Section):
    """Frames without labels that join every batch, see unlabelled.md."""

    #: folders, images, videos and patterns, such as drives/**/left/*.png; []: no frames
    sources: Sources = Field(default=[])
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5  # share of the images of a batch
    every: Literal["auto"] | Positive = "auto"  # every N-th frame of a video; auto: one frame per second
    #: lowest correlation of grey 32x32 thumbnails at which a frame counts as a near-duplicate; null: keep all frames
    duplicates: Annotated[float, Field(ge=0.9, lt=1)] | None = 0.995
