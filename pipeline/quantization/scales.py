"""Symmetric INT8 scales: from the largest magnitude to a scale that the file can hold, and weights rounded with it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

INT8_MAX = 127
#: A channel counts if its largest weight is at least this share of the layer's largest weight. The activations of a
#: weaker channel use few levels anyway, because they have one scale per tensor.
COUNTS = 1 / 16
#: Weights below this are unused: weight decay shrank them to almost zero.
UNUSED = 1e-15
#: Largest ratio of a scale to its exact value: two, which costs one bit of eight.
RAISED = 2.0

ScaleType = type[np.float16] | type[np.float32]


def channel_peaks(weight: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    """Largest magnitude of each channel of an axis."""
    others = tuple(index for index in range(weight.ndim) if index != axis)
    return np.asarray(np.abs(weight).max(axis=others))


def amax_of(limits: tuple[float, float]) -> npt.NDArray[np.float32]:
    """The larger magnitude of a range."""
    return np.array(max(abs(value) for value in limits), np.float32)


def holds(amax: npt.NDArray[np.float32], scale_type: ScaleType) -> bool:
    """Whether normal numbers of a type can represent the scales that map ``amax`` to 127. Weak channels do not count.

    Example:
        >>> holds(np.float32([1, 1e-3]), np.float16), holds(np.float32([0.01, 1e-3]), np.float16)
        (True, False)
    """
    limits = np.finfo(scale_type)
    scales = amax[(amax > UNUSED) & (amax >= COUNTS * amax.max(initial=0.0))] / INT8_MAX
    return bool((scales * RAISED >= float(limits.tiny)).all() and (scales <= float(limits.max)).all())


def scale_of(amax: npt.NDArray[np.float32], scale_type: ScaleType) -> npt.NDArray[np.float32]:
    """Scales that map ``amax`` to 127, rounded to normal numbers of ``scale_type``, and never zero.

    The scales are rounded before weights are quantised, since a later change would stretch the weights. Where
    ``scale_type`` cannot represent them they are float32, and so is the layer, see ``tensorrt.with_pairs``.
    """
    limits = np.finfo(scale_type if holds(amax, scale_type) else np.float32)
    wanted = np.where(amax > 0, amax, 1e-8) / INT8_MAX
    scales = np.clip(wanted, float(limits.tiny), float(limits.max))
    return np.asarray(scales.astype(limits.dtype), np.float32)


def quantize_per_channel(
    weight: npt.NDArray[np.float32], axis: int, *, scale_type: ScaleType = np.float32
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric int8 values and one scale per channel of ``axis``, see :func:`scale_of`.

    Example:
        >>> values, scales = quantize_per_channel(np.array([[1.0, -2.0], [0.0, 0.5]], np.float32), 0)
        >>> values.tolist()
        [[64, -127], [0, 127]]
    """
    scales = scale_of(channel_peaks(weight, axis), scale_type)
    shape = [1] * weight.ndim
    shape[axis] = -1
    values = np.clip(np.rint(weight / scales.reshape(shape)), -INT8_MAX, INT8_MAX).astype(np.int8)
    return values, scales
