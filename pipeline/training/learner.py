"""One update of a task's weights, and all the state that updates change."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline.models import SegNetwork
from pipeline.training.averaging import Average
from pipeline.training.guards import Watch
from pipeline.training.optimization import (
    fill_momentum,
    learning_rate_factor,
    make_optimizer,
    parameter_groups,
    restore_optimizer,
    set_learning_rate,
)
from pipeline.training.processes import average_buffers, ready_for_several, total
from pipeline.training.readings import Reading, Readings
from pipeline.training.seeding import seed_step
from pipeline.training.settings import TrainingSettings
from pipeline.training.tasks import SupervisedTask


class Learner:
    """A task with its optimiser, on the devices of a run.

    Args:
        task: trained in place.
        settings: of the run.
        images: images per process and part of a batch.

    Raises:
        UserError: batch norm cannot work with these parts of a batch, or nothing is left to train.
    """

    def __init__(
        self, task: SupervisedTask, settings: TrainingSettings, *, accelerator: Accelerator, images: int
    ) -> None:
        self.task, self.settings, self.accelerator = task, settings, accelerator
        self._rate = partial(
            learning_rate_factor,
            schedule=settings.schedule, steps=settings.steps, warmup=settings.warmup, power=settings.power,
        )  # fmt: skip
        self.memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        ready_for_several(
            task, processes=accelerator.num_processes, images=images, sync_batch_norm=settings.sync_batch_norm
        )
        for network in task.networks():
            network.to(memory_format=self.memory_format)
        groups = parameter_groups(
            task, lr=settings.lr, lr_factors=settings.lr_factors, weight_decay=settings.weight_decay,
            decay_norms=settings.decay_norms,
        )  # fmt: skip
        self._trained = [parameter for group in groups for parameter in group["params"]]
        self.optimizer = make_optimizer(groups, name=settings.optimizer, momentum=settings.momentum)
        with warnings.catch_warnings():  # torch renamed an option; accelerate still uses the old name
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            self._model, self._stepper = accelerator.prepare(task, self.optimizer)
        fill_momentum(self.optimizer)
        self._average = None if settings.ema is None else Average(task.network, decay=settings.ema)
        self._watch = Watch()
        self._readings = Readings(self._watch, accelerator=accelerator)
        if settings.compile:
            for network in task.networks():
                network.compile()

    @property
    def network(self) -> SegNetwork:
        """The network that is validated and kept: the task's, or the average of its weights."""
        return self.task.network if self._average is None else self._average.module

    def update(self, parts: Sequence[Sequence[Tensor]], *, step: int, names: Sequence[str]) -> None:
        """One update, which leaves its loss on the device for :meth:`read`: on CUDA the host does not wait for it.

        Args:
            parts: (images (n, 3, H, W), targets (n, H, W), indices (n,)) of this process, whose gradients are
                accumulated; further tensors as :class:`pipeline.training.data.Crops` has them.
            step: 1-based.
            names: names of the samples in ``parts``, for messages.
        """
        self._model.train()
        seed_step(self.settings.seed, step=step, process=self.accelerator.process_index)
        set_learning_rate(self.optimizer, self._rate(step - 1))
        moved = [
            (
                part[0].to(self.accelerator.device, non_blocking=True, memory_format=self.memory_format),
                part[1].to(self.accelerator.device, non_blocking=True),
            )
            for part in parts
        ]
        further = [self._further(part[3:]) for part in parts]
        weight = self._weight(moved)
        self.task.begin(step, steps=self.settings.steps)
        means: dict[str, Tensor] = {}
        for number, (images, target) in enumerate(moved, start=1):
            with nullcontext() if number == len(moved) else self.accelerator.no_sync(self._model):
                with self.accelerator.autocast():
                    terms = self._model(images, target, weight, **further[number - 1])
                self.accelerator.backward(terms["loss"] / len(moved))
            for name, value in terms.items():
                means[name] = means.get(name, 0.0) + value.detach().float() / len(moved)
        self.task.finish()
        gradient = self._clipped()
        self._stepper.step()
        self._stepper.zero_grad(set_to_none=True)
        average_buffers(self.accelerator, self.task.network)
        if self._average is not None:
            self._average.update_parameters(self.task.network)
        self._readings.add(step, samples=names, terms=means, gradient=gradient)

    def _further(self, tensors: Sequence[Tensor]) -> dict[str, Any]:
        """Arguments of the task: which images are frames without labels (on the host), and the teacher's output."""
        flags = [tuple(tensor.tolist()) for tensor in tensors if tensor.dtype == torch.bool]
        outputs = [
            tensor.to(self.accelerator.device, non_blocking=True) for tensor in tensors if tensor.dtype != torch.bool
        ]
        return {**({"unlabelled": flags[0]} if flags else {}), **({"outputs": outputs} if outputs else {})}

    def read(self) -> list[Reading]:
        """What the updates since the last call reported, in order; waits for the device. All processes must call it.

        Raises:
            UserError: loss or gradient of one of them is not finite, or its loss explodes.
        """
        readings = self._readings.read()
        if self.accelerator.is_main_process:
            self.task.check()
        return readings

    def _clipped(self) -> Tensor:
        """Limit the norm of the gradient if the run does, and return the norm that it had."""
        if self.settings.clip_norm is not None:
            norm: Tensor = self.accelerator.clip_grad_norm_(self._trained, self.settings.clip_norm)
            return norm
        self.accelerator.unscale_gradients()
        return torch.nn.utils.get_total_norm([p.grad for p in self._trained if p.grad is not None])

    def _weight(self, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
        """Mean of the task's weight over all parts of a batch in all processes; None when there is one part."""
        count = len(parts) * self.accelerator.num_processes
        if count == 1:
            return None
        weights = torch.stack([self.task.weight(target) for _, target in parts])
        mean: Tensor = total(self.accelerator, weights.sum()) / count
        return mean

    def state(self) -> dict[str, Any]:
        """Tensors and plain values that :meth:`restore` takes; call :meth:`read` before."""
        assert not len(self._readings), "steps that were not checked"
        scaler = self.accelerator.scaler
        return {
            "task": self.task.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "watch": self._watch.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resume from a state that :meth:`state` returned in a run with the same settings."""
        self.task.load_state_dict(state["task"])
        restore_optimizer(self.optimizer, state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self._watch.restore(state["watch"])
