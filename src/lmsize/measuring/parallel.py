"""Several processes: the group that torchrun made, DDP and FSDP2 around the model."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from lmsize.errors import InputError
from lmsize.step.precision import step_precision
from lmsize.workload.training import TrainSpec

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


def world_size() -> int:
    """How many processes torchrun started; 1 without it."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """The number of this process among them."""
    return _number("RANK", 0)


def local_rank() -> int:
    """The number of this process on its machine: its accelerator."""
    return _number("LOCAL_RANK", 0)


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, "").strip()
    return int(text) if text.isdecimal() else otherwise


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """The group of the processes that torchrun started; nothing for one.

    It is made once and stays for further cases, since ranks cannot meet again under the same
    address. After a failure it is not taken down in order: the other ranks may be waiting in it.
    """
    if world_size() == 1:
        yield
        return
    from torch import distributed

    if not distributed.is_initialized():
        distributed.init_process_group(BACKENDS[device])
        atexit.register(distributed.destroy_process_group)
    try:
        yield
    except BaseException:
        atexit.unregister(distributed.destroy_process_group)
        raise


def check_zero(spec: TrainSpec, *, n_processes: int) -> None:
    """Refuse the ZeRO stages that plain torch has no wrapper for.

    Raises:
        InputError: stage 1 or 2, or any over a single process.
    """
    if spec.zero not in (None, 0, 3):
        raise InputError("--zero", spec.zero, "0 (DDP) or 3 (FSDP2)", nearest=[0, 3])
    if spec.zero and n_processes == 1:
        raise InputError("--zero", spec.zero, "several processes (torchrun) to shard over")


def wrapped(model: Any, spec: TrainSpec, *, device: str) -> Any:
    """The model as the ranks share it: DDP at zero 0, FSDP2 at zero 3, itself for one rank."""
    if world_size() == 1:
        return model
    return _fsdp(model, spec, device=device) if spec.zero == 3 else _ddp(model, device=device)


def _ddp(model: Any, *, device: str) -> Any:
    from torch.nn.parallel import DistributedDataParallel

    where = [local_rank()] if device == "cuda" else None
    return DistributedDataParallel(model, device_ids=where)


def _fsdp(model: Any, spec: TrainSpec, *, device: str) -> Any:
    """Each layer a unit of its own, then what is left; gathers in the type of autocast."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    mesh = init_device_mesh(device, (world_size(),))
    cast = step_precision(spec.precision or "").autocast
    policy = MixedPrecisionPolicy(param_dtype=cast, reduce_dtype=cast)
    layers = set(base._no_split_modules or ())  # noqa: SLF001 -- the layers, as accelerate reads them
    for module in list(model.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    return fully_shard(model, mesh=mesh, mp_policy=policy)


def synchronised(model: Any) -> Callable[[bool], AbstractContextManager[Any]]:
    """What surrounds a micro-batch so that gradients are reduced on the last only."""

    def context(last: bool) -> AbstractContextManager[Any]:
        if hasattr(model, "set_requires_gradient_sync"):
            model.set_requires_gradient_sync(last)
        elif not last and hasattr(model, "no_sync"):
            quiet: AbstractContextManager[Any] = model.no_sync()
            return quiet
        return nullcontext()

    return context


def gathered(value: Any) -> list[Any]:
    """A value of every rank, by rank."""
    if world_size() == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values
