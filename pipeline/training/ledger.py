"""Counting the bytes of a computation without its data: floats have shapes only, integers and masks are computed."""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

#: Seconds of CPU time that the thread of a trace may take: other work on the machine does not stop the trace.
LIMIT = 3.0
#: The part that counts what an allocator adds to storages.
PADDING = "allocator rounding"
#: Operators that cuBLAS computes.
PRODUCTS = {getattr(torch.ops.aten, name) for name in ("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_")}


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that operators allocate, by part, and keeps the counts at the peak.

    Operators on floats run without data; operators on integers and masks alone run with data.

    Args:
        padding: takes the bytes of a storage and returns the bytes that the allocator adds to them; None: it adds none.

    Attributes:
        live, peak: bytes by part, now and at the peak; ``PADDING`` is a part.
        products: parts in which matrices were multiplied.
    """

    def __init__(self, padding: Callable[[int], int] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)  # imports what torch's optimisers import too
        self._until = time.thread_time() + LIMIT
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.products: set[str] = set()
        self._padding = padding
        self._highest = 0
        self._owner: dict[int, tuple[str, int]] = {}  # storage -> part, bytes
        self._parts: list[str] = ["cross-entropy"]

    def enter(self, part: str) -> None:
        self._parts.append(part)

    def leave(self) -> None:
        self._parts.pop()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.enter(name)
        yield
        self.leave()

    def make(self, factory: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
        """A tensor of any dtype without data."""
        with self.fake:
            result = factory(*args, **options)
        self._count(result)
        return result

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if time.thread_time() > self._until:
            raise RuntimeError(f"tracing a step takes more than {LIMIT:.0f} s")
        if getattr(func, "overloadpacket", None) in PRODUCTS:
            self.products.add(self._parts[-1])
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        for tensor in tensors:  # tensors from before the trace count 0 bytes, and so do views of them
            self._count(tensor, size=0)
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            args, kwargs = _with_positions(func, args, kwargs)
            with self.fake:
                result = func(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
            if not tensors:  # a new tensor: floats lose their data
                result = tree_map_only(Tensor, self._empty, result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return result

    def _empty(self, tensor: Tensor) -> Tensor:
        return self.fake.from_tensor(tensor) if tensor.is_floating_point() else tensor

    def _count(self, tensor: Tensor, *, size: int | None = None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._owner:
            return
        part, size = self._parts[-1], storage.nbytes() if size is None else size
        self._owner[key] = (part, size)
        self._add(part, size)
        weakref.finalize(storage, self._free, key)
        total = sum(self.live.values())
        if total > self._highest:
            self._highest, self.peak = total, Counter(self.live)

    def _free(self, key: int) -> None:
        part, size = self._owner.pop(key)
        self._add(part, size, sign=-1)

    def _add(self, part: str, size: int, *, sign: int = 1) -> None:
        self.live[part] += sign * size
        if self._padding is not None:
            self.live[PADDING] += sign * self._padding(size)

    def rename(self, tensor: Tensor | None, part: str) -> None:
        """Count a tensor under another part from now on."""
        assert tensor is not None
        key = tensor.untyped_storage()._cdata
        if key in self._owner:
            before, size = self._owner[key]
            self._owner[key] = (part, size)
            self.live[before] -= size
            self.live[part] += size


def _with_positions(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Replace boolean masks that index by positions: their number is known, since masks have data."""
    if func not in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default):
        return args, kwargs
    indices: list[Tensor | None] = []
    for index in args[1]:
        if index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor):
            indices += index.nonzero(as_tuple=True)
        else:
            indices.append(index)
    return (args[0], indices, *args[2:]), kwargs
