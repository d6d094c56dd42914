"""Rounds of training in which the student of one round labels frames without labels for the next one."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.models import SegNetwork
from pipeline.training.distillation import DistillationTask
from pipeline.training.run import Trained


def learn(
    train: Callable[..., Trained],
    task: DistillationTask,
    *,
    rounds: int,
    inputs: Mapping[str, Any],
    title: str,
    curves: Path,
    checkpoints: Path,
) -> list[Trained]:
    """Train a task, in each round from the same start; at the end its network holds the best weights of the last round.

    In the first round the teacher labels the frames without labels. In every later round, the best weights on val of
    the round before label them. Every round starts from the same first weights: the weights of the round before have
    learned the labels that are replaced now, and the learning rate begins at its highest value again. Noisy Student
    (Xie et al. 2020, arXiv 1911.04252) and ST++ (Yang et al. 2022, arXiv 2106.05095) also train each student from the
    start. The terms of the loss use the teacher in every round.

    An interrupted round resumes. Checkpoints of finished rounds stay until ``Trained.finish``, so that an interruption
    does not repeat them.

    Args:
        train: :func:`pipeline.training.run.train` with all but the arguments that are given here.
        task: trained in place.
        rounds: trainings, 1 or more.
        inputs: hashes and options of the run's inputs.
        title: of the student.
        curves, checkpoints: folders of the run; those of rounds before the last one are in their folders ``round1``...

    Returns:
        the result of every round.
    """
    start = copy.deepcopy(task.state_dict()) if rounds > 1 else {}
    finished = []
    labeller: dict[str, Any] = {}
    for number in range(1, rounds + 1):
        if number > 1:
            task.label_with(task.network)
            labeller = {"labeller": digest(task.network)}
            task.load_state_dict(start)
        part = "" if number == rounds else f"round{number}"
        finished.append(
            train(
                task,
                inputs={**inputs, "round": number, **labeller},
                title=f"{title}, round {number}" if rounds > 1 else title,
                curves=curves / part,
                checkpoints=checkpoints / part,
            )
        )
    return finished


def digest(network: SegNetwork) -> str:
    """sha256 of a network's weights."""
    sha = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
