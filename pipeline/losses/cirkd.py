"""Cross-image relational knowledge distillation (CIRKD)."""

from __future__ import annotations

import logging
from functools import cache
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from pipeline.losses._base import DistillationLoss
from pipeline.losses._classes import class_masks, class_means, resize_labels
from pipeline.losses._numerics import unit
from pipeline.losses._padding import filled, inside, whole
from pipeline.losses._queues import ClassQueues, random_members
from pipeline.losses._similarity import LEAST_TEMPERATURE, reference_kl, relation_kl
from pipeline.losses._stride import PUBLISHED, pooled, pooling, published_pixels
from pipeline.losses._weights import Weight
from pipeline.models import SegOutput

log = logging.getLogger(__name__)

SEEDS_APART = 1_000_003  # steps between the draws of two seeds: more than most runs have


class CIRKD(DistillationLoss):
    r"""The student relates pixels as the teacher does: to pixels of its batch and to a memory of the whole data set.

    Three terms on embeddings, each the KL divergence of the student's softmax of cosines / ``temperature`` from the
    teacher's (Yang et al., CVPR 2022, arXiv 2204.06986; formulas and weights from the official code, commit 2d8ad0f):

    - ``cirkd_batch``: mini-batch pixel-to-pixel. Every pixel of image i against the pixels of image j, for all ordered
      pairs (i, j) of a group, i = j included; mean over pixels and pairs. No projection: the numbers of channels may
      differ.
    - ``cirkd_pixel``: memory pixel-to-pixel. Every labelled pixel against teacher pixels of all classes from the queue,
      in the teacher's space; a projection head (1x1 conv, batch norm, ReLU, 1x1 conv) brings the student's pixels
      there.
    - ``cirkd_region``: the same against mean vectors of whole class regions of earlier images.

    Published total: these and pixel-wise KD of weight 1, ``loss: [kd, cirkd]``; memory weights 0.01 on VOC.

    Intended differences from the official code:

    - Queues are ring buffers; the official code overwrites newer vectors when a queue wraps.
    - Queues start empty and only filled slots are sampled; the official code starts with random vectors.
    - A pixel is stored under its own class; the official code stores the first pixels of the image, of any class
      (``official_enqueue: true`` does the same).
    - A batch without labelled pixels gives a connected zero; the official code gives NaN.
    - The group is an option; in the official code it is the batch of one GPU (2 in its runs).
    - Embeddings with a stride below 8 give as many pixels as at stride 8, by default: the mini-batch term pools, the
      memory terms draw pixels. The published networks have stride 8.
    - One process needs no process group.
    - Padding takes no part; the projection's batch norm counts it as zeros.

    As in the official code, anchors are the pixels of one process's batch and the memory is that of all processes;
    buffers need not be broadcast.

    Args:
        num_classes, ignore_index, student_channels, teacher_channels, student_output_stride: offered by the run.
        seed: of the run, offered by it; which slots of the memory a step draws depends on it.
        batch_weight: of the mini-batch term (alpha); 1 in the official code.
        pixel_weight, region_weight: of the memory terms (beta, gamma); 0.1 in the official code. 0 leaves one out.
        temperature: tau of every softmax; 0.1. The official code has a second temperature for the memory terms, 1 by
            default, which is always 1 here.
        relation_group: images related to each other in the mini-batch term; 2 per GPU in the official runs. A part of a
            batch with fewer images is one group, with a warning.
        pool: average pooling before the mini-batch term, as kernel and stride; 1 is none. Null: max(1, 8 // stride) of
            the student's embedding, which is 2 for stride 4; the official code takes 2 for SegFormer, too.
        mask_ignored: leave unlabelled pixels out of the mini-batch term; the official code keeps them.
        pixel_queue, region_queue: slots per class; 20000 and 2000.
        pixels_per_class: pixels stored per class of an image; 16.
        pixel_samples, region_samples: references drawn per step, over all classes; 4096 and 1024 (// K + 1 per class).
        max_anchors: highest number of labelled pixels of a batch that are compared with the memory; of more, random
            ones are drawn. Null: all at stride 8 and above, as in the official code; below, as many as the batch has
            pixels at stride 8. To take all at any stride, set a number that no batch reaches.
        official_enqueue: store the first pixels of an image under each of its classes, as the official code does.

    Shapes: embeddings (N, C_S, h, w) and (N, C_T, h, w), target (N, H, W). Values are computed in blocks
    (:mod:`pipeline.losses._similarity`), so memory grows with N*h*w, not with its square.

    Example:
        >>> loss = CIRKD(num_classes=2, ignore_index=255, student_channels=3, teacher_channels=4)
        >>> s = SegOutput(logits=torch.randn(2, 2, 4, 4), embedding=torch.randn(2, 3, 4, 4))
        >>> t = SegOutput(logits=torch.randn(2, 2, 4, 4), embedding=torch.randn(2, 4, 4, 4))
        >>> sorted(loss(s, t, torch.zeros(2, 8, 8, dtype=torch.int64)))
        ['cirkd_batch', 'cirkd_pixel', 'cirkd_region']
    """

    reads = ("embedding",)
    uses_labels = True
    updates: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int,
        student_channels: int,
        teacher_channels: int,
        student_output_stride: int = PUBLISHED,
        seed: int = 0,
        batch_weight: Weight = 1.0,
        pixel_weight: Weight = 0.1,
        region_weight: Weight = 0.1,
        temperature: Annotated[float, Ge(LEAST_TEMPERATURE)] = 0.1,
        relation_group: Annotated[int, Ge(1)] = 2,
        pool: Annotated[int, Ge(1)] | None = None,
        mask_ignored: bool = False,
        pixel_queue: Annotated[int, Ge(1)] = 20000,
        region_queue: Annotated[int, Ge(1)] = 2000,
        pixels_per_class: Annotated[int, Ge(1)] = 16,
        pixel_samples: Annotated[int, Ge(1)] = 4096,
        region_samples: Annotated[int, Ge(1)] = 1024,
        max_anchors: Annotated[int, Ge(1)] | None = None,
        official_enqueue: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.batch_weight = batch_weight
        self.pixel_weight = pixel_weight
        self.region_weight = region_weight
        self.temperature = temperature
        self.relation_group = relation_group
        self.stride = student_output_stride
        self.seed = seed
        self.pool = pooling(student_output_stride, pool, loss="cirkd")
        self.mask_ignored = mask_ignored
        self.pixels_per_class = pixels_per_class
        self.pixel_samples = pixel_samples
        self.region_samples = region_samples
        self.max_anchors = max_anchors
        self.official_enqueue = official_enqueue
        if pixel_weight or region_weight:
            self.projection = nn.Sequential(
                nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False),
                nn.BatchNorm2d(teacher_channels),
                nn.ReLU(inplace=True),
                nn.Conv2d(teacher_channels, teacher_channels, kernel_size=1, bias=False),
            )
            self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        if pixel_weight:
            self.pixels = ClassQueues(num_classes=num_classes, length=pixel_queue, channels=teacher_channels)
        if region_weight:
            self.regions = ClassQueues(num_classes=num_classes, length=region_queue, channels=teacher_channels)

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        terms = {}
        if self.batch_weight:
            terms["cirkd_batch"] = self.batch_weight * self.batch_term(student, teacher, target)
        if self.pixel_weight or self.region_weight:
            valid = inside(student, student.embedding)
            labels = resize_labels(target, student.embedding.shape[-2:])
            labels = labels if valid is None else labels.masked_fill(~valid, self.ignore_index)
            terms.update(self.memory_terms(filled(student.embedding, valid), teacher.embedding, labels))
        return terms

    def batch_term(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> Tensor:
        if len(target) < self.relation_group:
            warn_of_small_group(self.relation_group, images=len(target))
        pixels_s, pixels_t = (pooled(x.embedding, self.pool) for x in (student, teacher))
        valid = whole(inside(student, student.embedding), self.pool, ceil_mode=True)
        if self.mask_ignored:
            labelled = resize_labels(target, pixels_s.shape[-2:]) != self.ignore_index
            valid = labelled if valid is None else valid & labelled
        return relation_kl(
            unit(pixels_s).flatten(2),
            unit(pixels_t).flatten(2),
            temperature=self.temperature,
            group=self.relation_group,
            valid=None if valid is None else valid.flatten(1),
        )

    def memory_terms(self, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        teacher = unit(teacher)
        if self.training:
            self.remember(teacher, labels)
        projected = unit(self.projection(student))
        anchors = self.anchors(labels)
        rows_s, rows_t = (x.flatten(2).transpose(1, 2).flatten(0, 1)[anchors] for x in (projected, teacher))
        # The same slots in every process, and again when a run resumes: the draw depends on seed and step alone.
        # torch's generator takes the lowest 32 bits of its seed.
        generator = torch.Generator().manual_seed((self.seed * SEEDS_APART + int(self.updates)) % 2**32)
        terms = {}

        def divergence(queues: ClassQueues, samples: int) -> Tensor:
            references = queues.sample(samples // self.num_classes + 1, generator).to(rows_s.dtype)
            # The zero keeps the projection in the graph where no pixel is labelled.
            return reference_kl(rows_s, rows_t, references, temperature=self.temperature) + 0.0 * projected.sum()

        if self.pixel_weight:
            terms["cirkd_pixel"] = self.pixel_weight * divergence(self.pixels, self.pixel_samples)
        if self.region_weight:
            terms["cirkd_region"] = self.region_weight * divergence(self.regions, self.region_samples)
        return terms

    def anchors(self, labels: Tensor) -> Tensor:
        """Indices of the labelled pixels of labels (N, h, w); of random ones, where there are more than the limit."""
        labelled = (labels.flatten() != self.ignore_index).nonzero()[:, 0]
        limit = self.max_anchors or published_pixels(labels.numel(), stride=self.stride)
        if len(labelled) <= limit:
            return labelled
        return labelled[torch.randperm(len(labelled), device=labelled.device)[:limit]]

    @torch.no_grad()
    def remember(self, teacher: Tensor, labels: Tensor) -> None:
        """Store pixels and class regions of the teacher's unit embedding (N, C_T, h, w) under labels (N, h, w)."""
        self.updates += 1
        if self.region_weight:
            masks = class_masks(labels, teacher, num_classes=self.num_classes, ignore_index=self.ignore_index)
            means, counts = class_means(teacher, masks)
            present = (counts > 0).nonzero(as_tuple=True)
            self.regions.append(unit(means, dim=-1)[present], present[1])
        if self.pixel_weight:
            flat = labels.flatten(1).where(labels.flatten(1) != self.ignore_index, self.num_classes)
            chosen = random_members(flat, each=self.pixels_per_class, num_classes=self.num_classes)
            classes = flat.flatten()[chosen]
            if self.official_enqueue:
                chosen = first_pixels(chosen, classes, flat)
            rows = teacher.flatten(2).transpose(1, 2).flatten(0, 1)
            self.pixels.append(rows[chosen], classes)


@cache
def warn_of_small_group(group: int, *, images: int) -> None:
    """Once per process: every step has the same number of images."""
    log.warning(
        "losses.cirkd.relation_group: got %d, but a part of a batch has %d image%s, and no more are related to each "
        "other; raise batch_size, lower accumulate or the number of processes, or set relation_group: %d",
        group, images, "" if images == 1 else "s", images,
    )  # fmt: skip


def first_pixels(chosen: Tensor, classes: Tensor, flat: Tensor) -> Tensor:
    """The pixels that the official code stores instead of the chosen ones.

    It permutes ``range(count of the class)`` and uses that as positions in the image, so that a class of n pixels is
    represented by random ones of the image's first n pixels, of any class.

    Args:
        chosen: (n,) indices into flat.flatten(), ordered by image, then class, as :func:`random_members` gives them.
        classes: (n,) their classes.
        flat: (N, A) class ids.
    """
    pixels = flat.shape[1]
    image = chosen // pixels
    members = flat[image] == classes[:, None]  # (n, A)
    rank = (members.cumsum(dim=1) - 1).gather(1, (chosen % pixels)[:, None])[:, 0]
    return image * pixels + rank
