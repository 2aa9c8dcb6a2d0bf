"""Several processes: the group that torchrun made, DDP and FSDP2 around the model."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lmsize.errors import InputError
from lmsize.step.sharding import SHARDS, sharded
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
    """Refuse the ZeRO stage that plain torch has no wrapper for.

    Raises:
        InputError: stage 1, or any over a single process.
    """
    if spec.zero == 1:
        raise InputError("--zero", spec.zero, "0 (DDP), or 2 and 3 (FSDP2)", nearest=[0, 2])
    if spec.zero and n_processes == 1:
        raise InputError("--zero", spec.zero, "several processes (torchrun) to shard over")


def wrapped(model: Any, spec: TrainSpec, *, device: str) -> Any:
    """The model as the ranks share it: DDP at zero 0, FSDP2 at 2 and 3, itself for one rank."""
    if world_size() == 1:
        return model
    return _fsdp(model, spec, device=device) if spec.zero else _ddp(model, device=device)


def _ddp(model: Any, *, device: str) -> Any:
    from torch.nn.parallel import DistributedDataParallel

    where = [local_rank()] if device == "cuda" else None
    return DistributedDataParallel(model, device_ids=where)


def _fsdp(model: Any, spec: TrainSpec, *, device: str) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device, (world_size(),), mesh_dim_names=(SHARDS,))
    return sharded(model, spec, mesh)


def gathered(value: Any) -> list[Any]:
    """A value of every rank, by rank."""
    if world_size() == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values
