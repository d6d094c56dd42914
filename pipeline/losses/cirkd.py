"""Cross-image relational knowledge distillation (CIRKD)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.losses._base import DistillationLoss
from pipeline.losses._classes import class_masks, class_means, resize_labels
from pipeline.losses._numerics import unit
from pipeline.losses._options import at_least, positive
from pipeline.losses._queues import ClassQueues, random_members
from pipeline.losses._similarity import reference_kl, relation_kl
from pipeline.models import SegOutput


class CIRKD(DistillationLoss):
    r"""The student relates pixels as the teacher does: to pixels of its batch and to a memory of the whole data set.

    Three terms on embeddings, each the KL divergence of the student's softmax of cosines / ``temperature`` from the
    teacher's (Yang et al., CVPR 2022, arXiv 2204.06986; formulas and weights from the official code, commit 2d8ad0f):

    - ``cirkd_batch``: mini-batch pixel-to-pixel. Every pixel of image i against the pixels of image j, for all ordered
      pairs (i, j) of a group, i = j included; mean over pixels and pairs. No projection: widths may differ.
    - ``cirkd_pixel``: memory pixel-to-pixel. Every labelled pixel against teacher pixels of all classes from the queue,
      in the teacher's space; the student gets there by a projection head (1x1 conv, batch norm, ReLU, 1x1 conv).
    - ``cirkd_region``: the same against mean vectors of whole class regions of earlier images.

    Published total: these and pixel-wise KD of weight 1, ``loss: [kd, cirkd]``; memory weights 0.01 on VOC.

    Differences from the official code, all on purpose: queues are ring buffers, where it overwrites newer entries when
    one wraps; they start empty and only filled slots are sampled, where it starts with random vectors; pixels in the
    queue are of the class that they are filed under, where it takes the first pixels of the image whatever they show
    (``official_enqueue=True`` does as it does); a batch without labelled pixels gives a connected zero, where it gives
    NaN; the group is an option, where it is the batch of one GPU (2 in its runs); one process needs no process group.
    As there, anchors are the pixels of one process's batch and the memory is that of all processes; buffers need not
    be broadcast.

    Args:
        num_classes, ignore_index, student_channels, teacher_channels: offered by the run.
        batch_weight: of the mini-batch term (alpha); 1 in the official code.
        pixel_weight, region_weight: of the memory terms (beta, gamma); 0.1 in the official code. 0 leaves one out.
        temperature: tau of every softmax; 0.1.
        memory_temperature: second temperature of the memory terms, with its factor squared; 1.
        relation_group: images related to each other in the mini-batch term; 2 per GPU in the official runs.
        pool: average pooling before the mini-batch term, as kernel and stride; 1 is none, 2 for SegFormer officially.
        mask_ignored: leave unlabelled pixels out of the mini-batch term; the official code keeps them.
        pixel_queue, region_queue: slots of a class; 20000 and 2000.
        pixels_per_class: pixels enqueued for each class of an image; 16.
        pixel_samples, region_samples: references drawn per step, over all classes; 4096 and 1024 (// K + 1 a class).
        max_anchors: pixels of a batch that meet the memory; null takes all, as officially.
        official_enqueue: file the first pixels of an image under each of its classes, as the official code does.

    Shapes: embeddings (N, C_S, h, w) and (N, C_T, h, w), target (N, H, W). Values are computed in blocks
    (:mod:`pipeline.losses._similarity`), so memory grows with N*h*w, not with its square.

    Example:
        >>> loss = CIRKD(num_classes=2, ignore_index=255, student_channels=3, teacher_channels=4)
        >>> s = SegOutput(logits=torch.randn(2, 2, 4, 4), embedding=torch.randn(2, 3, 4, 4))
        >>> t = SegOutput(logits=torch.randn(2, 2, 4, 4), embedding=torch.randn(2, 4, 4, 4))
        >>> sorted(loss(s, t, torch.zeros(2, 8, 8, dtype=torch.int64)))
        ['cirkd_batch', 'cirkd_pixel', 'cirkd_region']
    """

    updates: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int,
        student_channels: int,
        teacher_channels: int,
        batch_weight: float = 1.0,
        pixel_weight: float = 0.1,
        region_weight: float = 0.1,
        temperature: float = 0.1,
        memory_temperature: float = 1.0,
        relation_group: int = 2,
        pool: int = 1,
        mask_ignored: bool = False,
        pixel_queue: int = 20000,
        region_queue: int = 2000,
        pixels_per_class: int = 16,
        pixel_samples: int = 4096,
        region_samples: int = 1024,
        max_anchors: int | None = None,
        official_enqueue: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.batch_weight = batch_weight
        self.pixel_weight = pixel_weight
        self.region_weight = region_weight
        self.temperature = positive("cirkd.temperature", temperature)
        self.memory_temperature = positive("cirkd.memory_temperature", memory_temperature)
        self.relation_group = at_least("cirkd.relation_group", relation_group, 1)
        self.pool = at_least("cirkd.pool", pool, 1)
        self.mask_ignored = mask_ignored
        self.pixels_per_class = at_least("cirkd.pixels_per_class", pixels_per_class, 1)
        self.pixel_samples = at_least("cirkd.pixel_samples", pixel_samples, 1)
        self.region_samples = at_least("cirkd.region_samples", region_samples, 1)
        self.max_anchors = None if max_anchors is None else at_least("cirkd.max_anchors", max_anchors, 1)
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
            length = at_least("cirkd.pixel_queue", pixel_queue, 1)
            self.pixels = ClassQueues(num_classes=num_classes, length=length, channels=teacher_channels)
        if region_weight:
            length = at_least("cirkd.region_queue", region_queue, 1)
            self.regions = ClassQueues(num_classes=num_classes, length=length, channels=teacher_channels)

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        terms = {}
        if self.batch_weight:
            terms["cirkd_batch"] = self.batch_weight * self.batch_term(student.embedding, teacher.embedding, target)
        if self.pixel_weight or self.region_weight:
            terms.update(self.memory_terms(student.embedding, teacher.embedding, target))
        return terms

    def batch_term(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        if self.pool > 1:
            student, teacher = (F.avg_pool2d(x, self.pool, ceil_mode=True) for x in (student, teacher))
        valid = None
        if self.mask_ignored:
            valid = resize_labels(target, student.shape[-2:]).flatten(1) != self.ignore_index
        return relation_kl(
            unit(student).flatten(2),
            unit(teacher).flatten(2),
            temperature=self.temperature,
            group=self.relation_group,
            valid=valid,
        )

    def memory_terms(self, student: Tensor, teacher: Tensor, target: Tensor) -> dict[str, Tensor]:
        labels = resize_labels(target, student.shape[-2:])
        teacher = unit(teacher)
        if self.training:
            self.remember(teacher, labels)
        projected = unit(self.projection(student))
        anchors = self.anchors(labels)
        rows_s, rows_t = (x.flatten(2).transpose(1, 2).flatten(0, 1)[anchors] for x in (projected, teacher))
        # The same slots in every process, and again after a restart: the draw depends on the step alone.
        generator = torch.Generator().manual_seed(int(self.updates))
        terms = {}

        def meet(queues: ClassQueues, samples: int) -> Tensor:
            references = queues.sample(samples // self.num_classes + 1, generator).to(rows_s.dtype)
            temperature = self.temperature * self.memory_temperature
            divergence = reference_kl(rows_s, rows_t, references, temperature=temperature)
            # The zero keeps the projection in the graph where no pixel is labelled.
            return self.memory_temperature**2 * divergence + 0.0 * projected.sum()

        if self.pixel_weight:
            terms["cirkd_pixel"] = self.pixel_weight * meet(self.pixels, self.pixel_samples)
        if self.region_weight:
            terms["cirkd_region"] = self.region_weight * meet(self.regions, self.region_samples)
        return terms

    def anchors(self, labels: Tensor) -> Tensor:
        """Indices of the labelled pixels of the batch, or of a random part of them."""
        found = (labels.flatten() != self.ignore_index).nonzero()[:, 0]
        if self.max_anchors is None or len(found) <= self.max_anchors:
            return found
        return found[torch.randperm(len(found), device=found.device)[: self.max_anchors]]

    @torch.no_grad()
    def remember(self, teacher: Tensor, labels: Tensor) -> None:
        """File pixels and class regions of the teacher's unit embedding (N, C_T, h, w) under labels (N, h, w)."""
        self.updates += 1
        if self.region_weight:
            masks = class_masks(labels, teacher, num_classes=self.num_classes, ignore_index=self.ignore_index)
            means, counts = class_means(teacher, masks)
            present = counts > 0
            self.regions.append(unit(means, dim=-1)[present], present.nonzero()[:, 1])
        if self.pixel_weight:
            flat = labels.flatten(1).where(labels.flatten(1) != self.ignore_index, self.num_classes)
            chosen = random_members(flat, each=self.pixels_per_class, num_classes=self.num_classes)
            classes = flat.flatten()[chosen]
            if self.official_enqueue:
                chosen = first_pixels(chosen, classes, flat)
            rows = teacher.flatten(2).transpose(1, 2).flatten(0, 1)
            self.pixels.append(rows[chosen], classes)


def first_pixels(chosen: Tensor, classes: Tensor, flat: Tensor) -> Tensor:
    """What the official code takes instead of the chosen pixels.

    It permutes ``range(count of the class)`` and uses that as positions in the image, so that a class of n pixels is
    represented by random ones of the image's first n, whatever they show.

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
