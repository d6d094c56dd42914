"""Nested state, such as an optimiser's, as named tensors for safetensors and a skeleton for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

#: Keys of the three forms that JSON has no notation for.
TENSOR, PAIRS, TUPLE = "$tensor", "$pairs", "$tuple"


def split(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Take the tensors out of nested mappings, lists and tuples of plain values.

    Returns:
        a value for ``json.dumps`` with the position of each tensor, and the tensors by name, on the CPU, contiguous, no
        two in the same memory.

    Example:
        >>> import torch
        >>> skeleton, tensors = split({"state": {0: torch.ones(2)}, "betas": (0.9, 0.99)})
        >>> skeleton["betas"], list(tensors)
        ({'$tuple': [0.9, 0.99]}, ['state.0'])
        >>> join(skeleton, tensors)
        {'state': {0: tensor([1., 1.])}, 'betas': (0.9, 0.99)}
    """
    tensors: dict[str, Tensor] = {}
    memory: set[int] = set()

    def take(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            plain = value.detach().cpu().contiguous()
            if plain.untyped_storage().data_ptr() in memory or plain.untyped_storage().nbytes() != plain.nbytes:
                plain = plain.clone()
            memory.add(plain.untyped_storage().data_ptr())
            tensors[name] = plain
            return {TENSOR: name}
        if isinstance(value, Mapping):
            if all(isinstance(key, str) for key in value):
                return {key: take(child, f"{name}.{key}".lstrip(".")) for key, child in value.items()}
            return {PAIRS: [[key, take(child, f"{name}.{key}".lstrip("."))] for key, child in value.items()]}
        if isinstance(value, list | tuple):
            children = [take(child, f"{name}.{index}".lstrip(".")) for index, child in enumerate(value)]
            return {TUPLE: children} if isinstance(value, tuple) else children
        assert value is None or isinstance(value, bool | int | float | str), f"{name}: {type(value)} cannot be kept"
        return value

    return take(tree, ""), tensors


def join(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that :func:`split` separated. Raises KeyError for a missing tensor."""
    if isinstance(skeleton, list):
        return [join(child, tensors) for child in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if TENSOR in skeleton:
        return tensors[skeleton[TENSOR]]
    if PAIRS in skeleton:
        return {key: join(child, tensors) for key, child in skeleton[PAIRS]}
    if TUPLE in skeleton:
        return tuple(join(child, tensors) for child in skeleton[TUPLE])
    return {key: join(child, tensors) for key, child in skeleton.items()}
