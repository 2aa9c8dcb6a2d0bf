"""One rank of many, without the others: a group whose collectives do nothing, on a device that is not there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from lmsize.numbers import ceil_div
from lmsize.step.sharding import SHARDS, TENSORS

_CHUNKS = "torch.distributed.fsdp._fully_shard._fsdp_param._chunk_with_empty"


@contextmanager
def mesh_of_ranks(device_type: str, *, n_shards: int, tp: int) -> Iterator[Any]:
    """The mesh of a layout, as its first rank sees it; None where no rank shares anything.

    Collectives of the group are those of torch's tests: they return at once, whatever the number of
    ranks, so a trace for thousands costs what one for two does.
    """
    sizes = {SHARDS: n_shards, TENSORS: tp}
    sizes = {name: n for name, n in sizes.items() if n > 1}
    if not sizes:
        yield None
        return
    from torch import distributed
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=n_shards * tp)
    try:
        # A mesh reads the numbers of its ranks, so they are real, though all else is fake.
        with (
            _really(DeviceMesh, "__init__"), _really(DeviceMesh, "_concatenate"),
            mock.patch(_CHUNKS, _of_first_rank), warnings.catch_warnings(),
        ):  # fmt: skip
            # The loss is a view; nobody writes over it.
            warnings.filterwarnings("ignore", "FSDP2-wrapped module")
            yield _real(init_device_mesh)(
                device_type, tuple(sizes.values()), mesh_dim_names=tuple(sizes)
            )
    finally:
        distributed.destroy_process_group()


def _of_first_rank(tensor: Any, num_chunks: int, dim: int) -> list[Any]:
    """A tensor's parts, of which the first rank looks at its own only; torch makes all of them."""
    own = tensor.narrow(dim, 0, ceil_div(tensor.size(dim), num_chunks))
    return [own] * num_chunks


def _really(owner: Any, name: str) -> Any:
    """While it lasts, a function of a class runs on real tensors."""
    plain = vars(owner)[name]
    if isinstance(plain, staticmethod):
        return mock.patch.object(owner, name, staticmethod(_real(plain.__func__)))
    return mock.patch.object(owner, name, _real(plain))


def _real(function: Callable[..., Any]) -> Callable[..., Any]:
    def on_real_tensors(*args: Any, **kwargs: Any) -> Any:
        from torch._subclasses.fake_tensor import unset_fake_temporarily

        with unset_fake_temporarily():
            return function(*args, **kwargs)

    return on_real_tensors


class FakeStream:
    """A stream of the device: nothing runs on it, but what is made while it is current is its own.

    Attributes:
        number: 0 is the default stream.
    """

    current: FakeStream

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        FakeStream.count = self.number = FakeStream.count + 1

    count = -1

    def record_event(self, event: Any = None) -> Any:
        return event or FakeEvent()

    def wait_event(self, _event: Any) -> None:
        """Nothing is under way."""

    wait_stream = wait_event

    def synchronize(self) -> None:
        """Nothing is under way."""


class FakeEvent:
    """An event of the device, long past."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def record(self, _stream: Any = None) -> FakeEvent:
        return self

    def wait(self, _stream: Any = None) -> None:
        """It has happened."""

    synchronize = wait

    def query(self) -> bool:
        return True


@contextmanager
def streams_pretended() -> Iterator[None]:
    """Streams and events of a CUDA that is not there."""
    FakeStream.count = -1
    FakeStream.current = default = FakeStream()

    @contextmanager
    def stream(one: Any) -> Iterator[None]:
        before, FakeStream.current = FakeStream.current, one or FakeStream.current
        try:
            yield
        finally:
            FakeStream.current = before

    answers: dict[str, Any] = {
        "Stream": FakeStream, "Event": FakeEvent, "stream": stream,
        "current_stream": lambda _device=None: FakeStream.current,
        "default_stream": lambda _device=None: default,
    }  # fmt: skip
    with mock.patch.multiple(torch.cuda, **answers):
        yield


def current_stream() -> int:
    """The number of the stream that is current; 0 where none is pretended."""
    current = getattr(FakeStream, "current", None)
    return current.number if current is not None else 0
