"""The teacher's output on every whole frame, computed once before the training; each crop takes its part of it.

The teacher sees a frame without changed colours, at the size at which it covers ``input_size``, with all that surrounds
the crop. A crop's part is interpolated (bilinear), mirrored and enlarged as the crop is.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from pipeline import progress as bars
from pipeline.errors import UserError
from pipeline.frames import Array, resize_frame
from pipeline.training.costs import MIB
from pipeline.training.free_memory import free_memory

if TYPE_CHECKING:
    from pipeline.training.data import Crops
    from pipeline.training.distillation import DistillationTask

log = logging.getLogger(__name__)

#: The outputs may take this share of the free memory of this machine, divided by the processes of the training.
MEMORY_SHARE = 0.5


class FrameOutputs:
    """Outputs of a network for whole frames, in float16.

    All values are in one tensor, because a tensor takes an open file in each process that loads crops, unless that
    process is a fork.

    Args:
        sizes: (height, width) of each tensor of an output for a crop.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        self.sizes = sizes
        self._values = torch.empty(0, dtype=torch.float16)
        self._used = 0
        self._places: list[list[tuple[int, torch.Size]]] = []  # for each frame, where its tensors begin, and shapes

    def __len__(self) -> int:
        return len(self._places)

    @property
    def nbytes(self) -> int:
        return self._used * self._values.itemsize

    def reserve(self, numbers: int) -> None:
        """Make room for so many values in all."""
        self._values.resize_(max(numbers, self._used))

    def add(self, tensors: Sequence[Tensor]) -> None:
        """The output for the next frame.

        Args:
            tensors: (C, h, w) each. Values beyond the limits of float16 become these limits.
        """
        limit = torch.finfo(torch.float16).max
        needed = self._used + sum(tensor.numel() for tensor in tensors)
        if needed > len(self._values):
            self.reserve(needed + needed // 8)
        places = []
        for tensor in tensors:
            end = self._used + tensor.numel()
            self._values[self._used : end] = tensor.clamp(-limit, limit).flatten()
            places.append((self._used, tensor.shape))
            self._used = end
        self._places.append(places)

    def __deepcopy__(self, memo: dict[int, Any]) -> FrameOutputs:
        """The object itself, which nobody changes: it may take gigabytes."""
        return self

    def crop(self, index: int, to_frame: Tensor) -> tuple[Tensor, ...]:
        """The part of a frame's tensors that a crop shows, (C, h, w) in float16; around the frame its edge repeats.

        Args:
            to_frame: see :meth:`pipeline.training.augment.Window.to_frame`.
        """
        return tuple(
            _part(self._values[start : start + shape.numel()].view(shape), to_frame, size=size)
            for (start, shape), size in zip(self._places[index], self.sizes, strict=True)
        )


def frame_outputs(
    task: DistillationTask, crops: Crops, *, input_size: tuple[int, int], accelerator: Accelerator
) -> FrameOutputs | None:
    """The teacher's output on every frame that the task can use, or None, if it uses none or needs the teacher anyway.

    The task keeps it for later rounds, which have the same frames.

    Args:
        task: with ``cached``; its ``known`` says which tensors.
        crops: of the training, with all its frames.
        input_size: (height, width) that a frame covers.

    Raises:
        UserError: the outputs do not fit into memory.
    """
    say = log.info if accelerator.is_main_process else log.debug
    if not task.reads_cache:
        if task.cached and task.teacher_runs:
            unknown = ", ".join(sorted(set(task.loss.reads) - {"logits", "embedding"}))
            say("a loss reads the teacher's %s, which are not kept, so the teacher runs on every crop", unknown)
        return None
    if task.outputs is not None:
        return task.outputs
    started = time.perf_counter()
    black = torch.zeros(1, 3, *crops.augment.crop)
    outputs = FrameOutputs([(tensor.shape[2], tensor.shape[3]) for tensor in _seen(task, black, accelerator)])
    with bars.make(disable=not accelerator.is_main_process) as progress:
        bar = progress.add_task("the teacher's output on whole frames", total=len(crops))
        for index in range(len(crops)):
            frame = _as_tensor(crops.frame(index), input_size, divisor=task.teacher.facts.divisor)
            tensors = [tensor[0] for tensor in _seen(task, frame, accelerator)]
            if index == 0:
                numbers = len(crops) * sum(tensor.numel() for tensor in tensors)
                size = numbers * torch.float16.itemsize
                _require_memory(size, task.known, count=len(crops), processes=accelerator.num_processes)
                outputs.reserve(numbers)
            outputs.add(tensors)
            progress.advance(bar)
    task.outputs, task.cached_seconds = outputs, time.perf_counter() - started
    say(
        "the teacher's output (%s) on %d frames: %.0f MiB, %.0f s", " and ".join(task.known), len(outputs),
        outputs.nbytes / MIB, task.cached_seconds,
    )  # fmt: skip
    return outputs


def shapes(task: DistillationTask, crops: tuple[int, int, int], *, classes: int) -> list[tuple[int, ...]]:
    """Shapes of what crops (N, H, W) get instead of a teacher that runs, from declared facts; empty: the teacher runs.

    Args:
        classes: channels of the logits.
    """
    if not task.reads_cache:
        return []
    facts, (images, height, width) = task.teacher.facts, crops
    channels = {"logits": classes, "embedding": facts.channels}
    return [(images, channels[x], height // facts.output_stride, width // facts.output_stride) for x in task.known]


@torch.no_grad()
def _seen(task: DistillationTask, frames: Tensor, accelerator: Accelerator) -> list[Tensor]:
    """The tensors of the teacher's output that the task uses, for frames (N, 3, H, W)."""
    frames = frames.to(accelerator.device)
    with accelerator.autocast():
        # forward: never compiled, which takes longer than to see each frame once, and frames may have many shapes
        output = task.teacher.to(accelerator.device).forward(task.normalise_for_teacher(frames, None))
    return [getattr(output, name).float() for name in task.known]


def _as_tensor(frame: Array, input_size: tuple[int, int], *, divisor: int) -> Tensor:
    """A frame (H, W, 3) BGR as (1, 3, h, w) RGB that covers ``input_size``; h and w are multiples of the divisor."""
    height, width = frame.shape[:2]
    fit = max(input_size[0] / height, input_size[1] / width)
    size = tuple(max(divisor, round(side * fit / divisor) * divisor) for side in (height, width))
    return torch.from_numpy(resize_frame(frame, size)[..., ::-1].copy()).permute(2, 0, 1)[None]


def _part(whole: Tensor, to_frame: Tensor, *, size: tuple[int, int]) -> Tensor:
    """What a crop shows of a tensor (C, h, w). Only the pixels around the crop are converted to float32."""
    (slope_x, _, offset_x), (_, slope_y, offset_y) = to_frame.tolist()
    whole, slope_y, offset_y = _narrowed(whole, slope_y, offset_y, dim=1)
    whole, slope_x, offset_x = _narrowed(whole, slope_x, offset_x, dim=2)
    part_of = torch.tensor([[[slope_x, 0.0, offset_x], [0.0, slope_y, offset_y]]])
    grid = F.affine_grid(part_of, [1, 1, *size], align_corners=False)
    return F.grid_sample(whole[None].float(), grid, padding_mode="border", align_corners=False)[0].half()


def _narrowed(x: Tensor, slope: float, offset: float, *, dim: int) -> tuple[Tensor, float, float]:
    """The pixels of one dimension that a crop reads, and the map of :meth:`Window.to_frame` from the crop to them."""
    count = x.shape[dim]
    low, high = (((offset + side * abs(slope) + 1) * count - 1) / 2 for side in (-1, 1))  # in pixels
    start, last = (min(max(at, 0), count - 1) for at in (math.floor(low), math.ceil(high)))
    kept = last - start + 1
    return x.narrow(dim, start, kept), slope * count / kept, (offset * count + count - 2 * start) / kept - 1


def _require_memory(needed: int, known: Sequence[str], *, count: int, processes: int) -> None:
    free = free_memory(torch.device("cpu"))
    if free is not None and needed > MEMORY_SHARE * free / processes:
        way = "free memory, start fewer processes or give fewer frames"
        if "embedding" in known:
            way = "choose losses that read logits only (kd, dist, cwd, aicsd)"
        raise UserError(
            f"distill.teaching.cached: the teacher's output on {count} frames takes {needed / MIB:.1f} MiB, half of "
            f"the free memory per process is {MEMORY_SHARE * free / processes / MIB:.1f}; {way}, or set cached: false"
        )
