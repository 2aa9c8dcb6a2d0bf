"""What a kernel of the CPU takes while it runs, asked of the kernel itself.

A fake tensor knows what an operation gives, not what its kernel asks the allocator for until it
returns: copies in another type, a buffer for each thread, what oneDNN reorders. That depends on the
processor and on the number of threads, so no formula has it. Each kernel is run once for every kind of
arguments it is called with, on zeros, while torch's profiler writes down what the allocator is asked for;
but for the largest, of which only copies in another type are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import _disable_current_modes

from lmsize.tracing.flops import flops_of
from lmsize.tracing.kernels import PROMOTING, promoted_copies
from lmsize.tracing.work import ON_LISTS

aten = torch.ops.aten
MOST_BYTES = 2**26  # of the operands of a kernel that is run
MOST_FLOPS = 5e9  # of such a kernel: a tenth of a second or so
# Of one that goes number by number, and takes no more than numbers beside and copies in another type.
MOST_BYTES_BY_NUMBER = 2**22
_BY_NUMBER = {
    aten.clone, aten._to_copy, aten.copy_, aten.zeros, aten.zeros_like, aten.new_zeros, aten.ones_like,
    aten.fill_, aten.zero_, aten.empty_like, aten._unsafe_view, aten.cat, aten.bernoulli_,
}  # fmt: skip
# The sizes of their parts are numbers that they are called with.
BY_VALUE = {aten._grouped_mm.default}
_NEVER = (
    torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output, torch.Tag.inplace_view,
)  # fmt: skip
Known = Callable[[Any], tuple[Any, ...] | None]
_Key = tuple[Any, ...]


class Request(NamedTuple):
    """Bytes asked of the allocator, or given back where negative; for a result or to work in."""

    n_bytes: int
    is_result: bool


_asked: dict[_Key, tuple[Request, ...]] = {}


def requests(func: Any, args: Any, kwargs: Any, out: Any, known: Known) -> tuple[Request, ...]:
    """What the kernel asks the CPU's allocator for, in order; empty where nothing is to be known.

    Args:
        known: the numbers that a fake tensor stands for; None where they are not known.
    """
    if func.namespace != "aten" or func.is_view or any(tag in func.tags for tag in _NEVER):
        return ()
    if func.overloadpacket.__name__.startswith(ON_LISTS):
        return ()
    tensors = _Tensors(known if func in BY_VALUE else None)
    wanted = tensors.described((args, kwargs))
    if not tensors.are_plain and func not in PREPARED:
        return ()
    by_number = torch.Tag.pointwise in func.tags or func.overloadpacket in _BY_NUMBER
    most_bytes = MOST_BYTES_BY_NUMBER if by_number else MOST_BYTES
    if tensors.n_bytes > most_bytes or flops_of(func, args, kwargs, out) > MOST_FLOPS:
        return _copies(func, args)
    key = (func, wanted, torch.get_num_threads(), torch.is_grad_enabled())
    if key not in _asked:
        _asked[key] = _of_a_run(func, wanted)
    return _asked[key]


def paired(asked: list[int], there: list[int]) -> list[int | None]:
    """Which result each request is for, by its size; None where it is for none that is seen.

    Where a fake kernel knows a size wrongly (a recurrent layer's workspace), as many are left of either: in order.

    Args:
        asked: bytes of the requests for results.
        there: bytes that the fake results say they have.
    """
    left = list(range(len(there)))
    found: list[int | None] = []
    for n_bytes in asked:
        at = next((at for at in left if there[at] == n_bytes), None)
        if at is not None:
            left.remove(at)
        found.append(at)
    if found.count(None) == len(left):
        rest = iter(left)
        found = [next(rest) if at is None else at for at in found]
    return found


def _copies(func: Any, args: Any) -> tuple[Request, ...]:
    """Operands in a common type, of a kernel that is too large to be run."""
    if func not in PROMOTING:
        return ()
    sizes = [tensor.numel() * dtype.itemsize for tensor, dtype in promoted_copies(func, args)]
    taken = [Request(n, is_result=False) for n in sizes]
    return (*taken, *(Request(-n, is_result=False) for n in sizes))


def _of_a_run(func: Any, wanted: Any) -> tuple[Request, ...]:
    """The requests of one run of the kernel; none where zeros are not what it works with."""
    try:
        with _quietly():
            made: dict[int, Any] = {}
            args, kwargs = _real(wanted, made)
            args = PREPARED.get(func, _as_they_are)(args)
            with _reported() as sizes:
                held = func(*args, **kwargs)
            del held
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
        return ()
    return tuple(_told(sizes))


def _as_they_are(args: Any) -> Any:
    return args


def _with_workspace(args: Any) -> Any:
    """Arguments of a recurrent layer's backward, with what its forward leaves for it in the last."""
    weights, (state, cell, *_), settings = args[:5], args[5:7], args[13:22]
    reverse, mode, size, n_layers, biases, train, both, sizes, batch_first = settings
    with torch.enable_grad():  # else it leaves nothing
        *_, workspace = aten.mkldnn_rnn_layer(
            *weights, state, cell, reverse, sizes, mode, size, n_layers, biases, both, batch_first,
            train,
        )  # fmt: skip
    return (*args[:-1], workspace)


# Kernels that read in an opaque tensor what another has written.
PREPARED: dict[Any, Callable[[Any], Any]] = {
    aten.mkldnn_rnn_layer_backward.default: _with_workspace
}


@contextmanager
def _quietly() -> Iterator[None]:
    """Nothing of it is seen by modes, autograd or the generator of random numbers."""
    state = torch.random.default_generator.get_state
    with _disable_current_modes(), torch._C._DisableAutocast():
        before = state()
        try:
            yield
        finally:
            torch.random.default_generator.set_state(before)


@contextmanager
def _reported() -> Iterator[list[int]]:
    """The bytes that the allocator gives and takes back (negative) while it lasts, in order."""
    profiler = torch._C._profiler
    config = torch.autograd.ProfilerConfig(
        torch.autograd.ProfilerState.CPU, False, True, False, False, False,
        profiler._ExperimentalConfig(),
    )  # fmt: skip
    sizes: list[int] = []
    torch.autograd._enable_profiler_legacy(config)
    try:
        yield sizes
    finally:
        for thread in torch.autograd._disable_profiler_legacy():
            sizes += (e.cpu_memory_usage() for e in thread if e.kind() == "memory_alloc")


def _told(sizes: list[int]) -> Iterator[Request]:
    """The requests; what is not given back is a result's."""
    open_at: dict[int, list[int]] = {}
    for at, size in enumerate(sizes):
        if size > 0:
            open_at.setdefault(size, []).append(at)
        elif open_at.get(-size):
            open_at[-size].pop()
    results = {at for places in open_at.values() for at in places}
    for at, size in enumerate(sizes):
        if size:
            yield Request(size, is_result=at in results)


class _Tensor(NamedTuple):
    """A tensor's place in an operation: `number` is its own, however often it is named there."""

    number: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: Any
    numbers: tuple[Any, ...] | None


class _Tensors:
    """Arguments with a description in place of every tensor.

    Attributes:
        n_bytes: of all that were described.
        are_plain: none of them is sparse, or holds nothing.
    """

    def __init__(self, known: Known | None) -> None:
        self.n_bytes, self.are_plain = 0, True
        self._known = known
        self._numbers: dict[int, int] = {}

    def described(self, value: Any) -> Any:
        """The same, which can be compared."""
        if isinstance(value, torch.Tensor):
            if value.layout != torch.strided:
                self.are_plain = False
                return None
            self.are_plain &= value.numel() > 0
            self.n_bytes += _extent(value.shape, value.stride()) * value.element_size()
            number = self._numbers.setdefault(id(value), len(self._numbers))
            return _Tensor(
                number, tuple(value.shape), value.stride(), value.dtype, self._values(value)
            )
        if isinstance(value, list | tuple):
            return (type(value), *map(self.described, value))
        if isinstance(value, dict):
            return (dict, *((name, self.described(one)) for name, one in value.items()))
        return type(value), value  # True is not 1

    def _values(self, tensor: Any) -> tuple[Any, ...] | None:
        if self._known is None or tensor.dtype.is_floating_point:
            return None
        return self._known(tensor)


def _extent(shape: Any, stride: Any) -> int:
    """Numbers that a tensor spans."""
    if 0 in shape:
        return 0
    return int(1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)))


def _real(wanted: Any, made: dict[int, Any]) -> Any:
    """Arguments as they were described, zeros in tensors whose numbers are not known."""
    if isinstance(wanted, _Tensor):
        if wanted.number not in made:
            made[wanted.number] = _filled(wanted)
        return made[wanted.number]
    kind, *values = wanted
    if kind is dict:
        return {name: _real(one, made) for name, one in values}
    if issubclass(kind, list | tuple):
        return (list if kind is not tuple else tuple)(_real(one, made) for one in values)
    return values[0]


def _filled(wanted: _Tensor) -> Any:
    n = _extent(wanted.shape, wanted.stride)
    if wanted.numbers is not None:
        return torch.tensor(wanted.numbers, dtype=wanted.dtype).reshape(wanted.shape)
    return torch.zeros(n, dtype=wanted.dtype).as_strided(wanted.shape, wanted.stride)
