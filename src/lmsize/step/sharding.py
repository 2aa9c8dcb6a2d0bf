"""The model spread over ranks: tensor parallelism by transformers' own plan, FSDP2 by torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lmsize.errors import InputError
from lmsize.step.precision import step_precision
from lmsize.workload.training import TrainSpec

SHARDS, TENSORS = "fsdp", "tp"  # names of a mesh's dimensions


def spread(base: Any, mesh: Any) -> None:
    """Spread a model over the ranks of a mesh's dimension ``tp``, if it has one, by the plan of its class.

    As ``from_pretrained`` with a DistributedConfig does, so before adapters are made: peft reads off
    the model how it was spread, and spreads them alike.

    Raises:
        InputError: a class that has no plan for it.
    """
    if TENSORS not in _dimensions(mesh):
        return
    from transformers.distributed import DistributedConfig

    _tensor_parallel(base, mesh[TENSORS])
    base._device_mesh = mesh  # noqa: SLF001 -- what from_pretrained leaves for others to read
    base.config.distributed_config = DistributedConfig(tp_size=mesh[TENSORS].size())


def sharded(model: Any, spec: TrainSpec, mesh: Any) -> Any:
    """The model as FSDP2 shards it over a mesh's dimension ``fsdp``; itself where there is none.

    Args:
        mesh: a DeviceMesh with a dimension ``fsdp``, ``tp`` or both; None for a rank alone.
    """
    return _fully_sharded(model, spec, mesh[SHARDS]) if SHARDS in _dimensions(mesh) else model


def _dimensions(mesh: Any) -> tuple[str, ...]:
    names: tuple[str, ...] = mesh.mesh_dim_names if mesh is not None else ()
    return names


def _tensor_parallel(base: Any, mesh: Any) -> None:
    plan = dict(getattr(base, "tp_plan", None) or {})
    if not plan or not hasattr(base, "_expand_parallel_plan"):
        expected = f"1: {type(base).__name__} of this transformers has no plan for more"
        raise InputError("--tp", mesh.size(), expected)
    from transformers.distributed.tensor_parallel import apply_tensor_parallelism

    expanded = base._expand_parallel_plan(plan)  # noqa: SLF001  # as from_pretrained does
    # A weight that is tied goes by its first name alone; the other use gets what became of it.
    names = {name for name, _ in (*base.named_modules(), *base.named_parameters())}
    apply_tensor_parallelism(base, mesh, {k: how for k, how in expanded.items() if k in names})
    if len(names & expanded.keys()) < len(expanded):
        base.tie_weights()


def _fully_sharded(model: Any, spec: TrainSpec, mesh: Any) -> Any:
    """Each layer a unit of its own, then what is left; gathers in the type of autocast.

    At zero 2 weights stay gathered from the forward to the end of the backward.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    cast = step_precision(spec.precision or "").autocast
    options = {
        "mesh": mesh, "mp_policy": MixedPrecisionPolicy(param_dtype=cast, reduce_dtype=cast),
        "reshard_after_forward": spec.zero == 3,
    }  # fmt: skip
    layers = set(base._no_split_modules or ())  # noqa: SLF001 -- the layers, as accelerate reads them
    for module in list(model.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, **options)
    return fully_shard(model, **options)


def reduced_last(model: Any) -> Callable[[bool], AbstractContextManager[Any]]:
    """What surrounds a micro-batch, told whether it is the last, so that gradients are reduced there only.

    So do accelerate (``Accelerator.no_sync``, which for FSDP2 calls ``set_requires_gradient_sync``) and
    the Trainer of transformers, unless ``sync_each_batch`` is set: until then FSDP2 holds gradients whole.
    """

    def context(last: bool) -> AbstractContextManager[Any]:
        if hasattr(model, "set_requires_gradient_sync"):
            model.set_requires_gradient_sync(last)
        elif not last and hasattr(model, "no_sync"):
            quiet: AbstractContextManager[Any] = model.no_sync()
            return quiet
        return nullcontext()

    return context
