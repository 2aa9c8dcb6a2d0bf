"""The model spread over ranks: tensor parallelism by transformers' own plan, FSDP2 by torch."""

from __future__ import annotations

from typing import Any

from lmsize.errors import InputError
from lmsize.step.precision import step_precision
from lmsize.workload.training import TrainSpec

SHARDS, TENSORS = "fsdp", "tp"  # names of a mesh's dimensions


def sharded(model: Any, spec: TrainSpec, mesh: Any) -> Any:
    """The model as one rank of a mesh has it.

    Args:
        mesh: a DeviceMesh with a dimension ``fsdp``, ``tp`` or both; None for a rank alone.

    Raises:
        InputError: tensor parallelism for a class that has no plan for it.
    """
    names = mesh.mesh_dim_names if mesh is not None else ()
    if TENSORS in names:
        _tensor_parallel(model, mesh[TENSORS])
    return _fully_sharded(model, spec, mesh[SHARDS]) if SHARDS in names else model


def _tensor_parallel(model: Any, mesh: Any) -> None:
    """As ``from_pretrained`` with a DistributedConfig spreads a model, by the plan of its class."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    plan = dict(getattr(base, "tp_plan", None) or {})
    if not plan or not hasattr(base, "_expand_parallel_plan"):
        expected = f"1: {type(base).__name__} of this transformers has no plan for more"
        raise InputError("--tp", mesh.size(), expected)
    from transformers.distributed.tensor_parallel import apply_tensor_parallelism

    spread = base._expand_parallel_plan(plan)  # noqa: SLF001  # as from_pretrained does
    # A weight that is tied goes by its first name alone; the other use gets what became of it.
    names = {name for name, _ in (*base.named_modules(), *base.named_parameters())}
    apply_tensor_parallelism(base, mesh, {k: how for k, how in spread.items() if k in names})
    if len(names & spread.keys()) < len(spread):
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
