"""What a task needs before its batches have frames without labels: their share, and the thresholds of their labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator

from pipeline.errors import UserError
from pipeline.losses._padding import inside
from pipeline.training import processes
from pipeline.training.data import Crops, lacks_labels
from pipeline.training.distillation import DistillationTask
from pipeline.training.settings import TrainingSettings

log = logging.getLogger(__name__)

#: Most frames that thresholds are computed from, each by one crop.
FRAMES = 64


def ready_for_unlabelled(
    task: DistillationTask, settings: TrainingSettings, *, crops: Crops, accelerator: Accelerator, names: Sequence[str]
) -> None:
    """Prepare a task for batches with frames without labels: their share, and the thresholds of their labels, if any.

    The thresholds follow from the probabilities on one crop of each of up to 64 random frames (:class:`PseudoLabels`).
    All processes get the same ones. A run that resumes takes those of its checkpoint.

    Args:
        task: on the device of the run.
        crops: with frames without labels.
        names: of the classes, for the log.

    Raises:
        UserError: a part of a batch has no labelled image for the losses, or padding has no id of its own.
    """
    if task.padding == task.ignore_index:
        raise UserError(
            "distill.unlabelled: with 255 classes no id is left for the padding of crops, so all pixels of frames "
            "without labels would be padding: raise distill.scale or lower distill.crop until no frame is smaller than "
            "its crop, or remove the sources"
        )
    parts = settings.accumulate * accelerator.num_processes
    task.unlabelled_share = settings.unlabelled_images / settings.batch_size
    if task.labels == "hard" and task.loss.uses_teacher:
        check_parts(settings.batch_size, parts=parts, unlabelled=settings.unlabelled_images)
    if task.pseudo is None:
        return
    assert crops.unlabelled is not None
    order = np.random.default_rng(settings.seed).permutation(len(crops.unlabelled))[:FRAMES]
    counts = task.pseudo.no_counts
    for index in order[accelerator.process_index :: accelerator.num_processes].tolist():
        image, target, *_ = crops[len(crops.split) + index, 0]
        image, target = image[None].to(counts.device), target[None].to(counts.device)
        with torch.no_grad(), accelerator.autocast():
            output = task.labelling(image, task.receive(target)[1])
        counts += task.pseudo.count(output.logits, inside(output, output.logits))
    task.pseudo.choose(processes.total(accelerator, counts))
    if accelerator.is_main_process:
        chosen = zip(names, task.pseudo.thresholds.tolist(), strict=True)
        log.info("thresholds of labels: %s", ", ".join(f"{name} {value:.2f}" for name, value in chosen))


def check_parts(batch_size: int, *, parts: int, unlabelled: int) -> None:
    """Refuse a division of a batch where some part has no image with labels.

    Raises:
        UserError: see above.
    """
    images = batch_size // parts
    for start in range(0, batch_size, images):
        if all(lacks_labels(at, batch=batch_size, unlabelled=unlabelled) for at in range(start, start + images)):
            raise UserError(
                f"distill.unlabelled.labels: got hard, with which the losses see only images with labels, but a part "
                f"of a batch has none ({batch_size} images in {parts} parts, {unlabelled} without labels): raise "
                "batch_size, lower accumulate, the number of processes or distill.unlabelled.share, or set labels: both"
            )
