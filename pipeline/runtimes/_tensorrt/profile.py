"""Batch sizes: an optimisation profile for a graph with an open batch; other open dimensions are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.errors import UserError

#: The size of an open dimension in TensorRT.
OPEN = -1


def checked(batch: Sequence[int] | None, *, where: str) -> tuple[int, int, int] | None:
    """The option ``batch``: null, or [min, opt, max] with 1 <= min <= opt <= max. Raises UserError."""
    if batch is None:
        return None
    sizes = tuple(batch)
    if len(sizes) != 3 or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise UserError(f"{where}.batch: got {list(sizes)}; it must be [min, opt, max] with 1 <= min <= opt <= max")
    return sizes


def shapes(network: Any, batch: tuple[int, int, int] | None, *, where: str) -> dict[str, list[list[int]]]:
    """Smallest, most frequent and largest shape of every input whose batch is open; none for a graph of fixed sizes.

    Args:
        network: the parsed network; the batch is dimension 0 of its inputs.
        batch: checked [min, opt, max], or None.
        where: the section of params.yaml, for messages.

    Raises:
        UserError: another dimension than the batch is open, the batch is open and no ``batch`` is given, or ``batch``
            has other sizes than a graph of one batch size.
    """
    profiles: dict[str, list[list[int]]] = {}
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for tensor in inputs:
        shape = list(tensor.shape)
        for place, size in enumerate(shape):
            if place > 0 and size == OPEN:
                raise UserError(
                    f"input '{tensor.name}' {shape}: dimension {place} is open; only dimension 0, the batch, may be: "
                    "export it with fixed sizes"
                )
        if not shape or shape[0] != OPEN:
            continue
        if batch is None:
            raise UserError(f"input '{tensor.name}' {shape}: its batch is open; set {where}.batch to [min, opt, max]")
        profiles[tensor.name] = [[size, *shape[1:]] for size in batch]
    if batch is not None and not profiles:
        fixed = [list(tensor.shape) for tensor in inputs]
        if any(list(batch) != [shape[0]] * 3 for shape in fixed if shape):
            raise UserError(
                f"{where}.batch: got {list(batch)}, but the graph has fixed sizes: "
                f"{', '.join(f'{tensor.name} {shape}' for tensor, shape in zip(inputs, fixed, strict=True))}; "
                "set it to null, or export the graph with an open batch"
            )
    return profiles


def add(builder: Any, config: Any, profiles: dict[str, list[list[int]]]) -> dict[str, Any]:
    """Set a profile of the shapes from :func:`shapes`, if there are any; returns facts for meta.json."""
    if not profiles:
        return {}
    profile = builder.create_optimization_profile()
    for name, sizes in profiles.items():
        profile.set_shape(name, *sizes)
    config.add_optimization_profile(profile)
    return {"profile": {name: dict(zip(("min", "opt", "max"), sizes, strict=True)) for name, sizes in profiles.items()}}
