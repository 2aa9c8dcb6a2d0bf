"""A config and a question -> the log of its training step, whatever the depth of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lmsize.layout.degrees import Layout
from lmsize.step.model import built_model
from lmsize.step.optimizer import CLASSES
from lmsize.step.sharding import sharded
from lmsize.step.training import step_of
from lmsize.tracing.factory import UserStep, refuse_with_arguments
from lmsize.tracing.faults import TraceError, explained
from lmsize.tracing.pretence import weights_left_blank
from lmsize.tracing.ranks import mesh_of_ranks
from lmsize.tracing.replication import (
    N_CHECK,
    N_UNITS,
    NotAlikeError,
    growth_by_depth,
    replicated,
)
from lmsize.tracing.running import Device, logged, on_fake_tensors
from lmsize.tracing.stacks import Stack, shortened, stacks
from lmsize.tracing.storages import Log
from lmsize.tracing.values import Noting
from lmsize.workload.training import TrainSpec

ONE = Layout()
# Two short models take as long as nine units: a stack must be deeper for that to pay.
LEAST_UNITS = N_UNITS + N_CHECK + 1
LEAST_SHARDED = 2  # the ZeRO stage from which FSDP2 stands for it


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How the step is run, beyond the training question.

    Attributes:
        optimizer_impl: foreach, fused or loop; None for what torch chooses on the device.
        keep_outputs: the outputs (logits) live until the backward is done.
        reentrant: the older kind of checkpointing.
        sequences: full, padded or packed (:func:`lmsize.step.batch.batch`).
    """

    optimizer_impl: str | None = None
    clip_grad_norm: float | None = None
    keep_outputs: bool = False
    reentrant: bool = False
    sequences: str = "full"


@dataclass(frozen=True, slots=True)
class Traced:
    """A step's log, and what was seen on the way.

    Attributes:
        n_params: unique parameters; `n_trainable` of them are trained.
        n_units: of the deepest stack that was replicated; 0 if all was traced.
        why_whole: why nothing was replicated though the model is deep; empty otherwise.
    """

    log: Log
    n_params: int
    n_trainable: int
    n_units: int = 0
    why_whole: str = ""


def traced_step(
    config: Mapping[str, Any], spec: TrainSpec, device: Device, options: StepOptions,
    *, layout: Layout = ONE, implementation: str | None = None, tell: Callable[[str], None] = lambda _: None,
    replicate: bool = True,
) -> Traced:  # fmt: skip
    """Trace two steps of the model that a config describes.

    Args:
        spec: with its defaults filled in.
        layout: ranks, of which the first is traced; at zero 2 and 3 they share the weights, at 0
            each is as it is alone.
        implementation: of the optimizer, where the options do not say.
        tell: is told what is being done.
        replicate: trace a few of the like layers and repeat them; False traces all.

    Raises:
        LmsizeError: the step cannot be traced; says why and what else to do.
    """
    asked = options.optimizer_impl or _implementation(spec, implementation)
    n_shards = layout.dp if layout.zero >= LEAST_SHARDED else 1

    with (
        explained(str(config.get("model_type", "model"))), on_fake_tensors(device),
        mesh_of_ranks(device.type, n_shards=n_shards, tp=layout.tp) as mesh,
    ):  # fmt: skip

        def build() -> Any:
            with weights_left_blank():
                return built_model(
                    config, spec, device=device.type, reentrant=options.reentrant, mesh=mesh
                )

        def run(model: Any) -> Log:
            wrapped = sharded(model, spec, mesh)
            with Noting():  # masks and positions are read
                step = step_of(
                    wrapped, config, spec, device=device.type, dp=layout.dp,
                    optimizer_implementation=asked, clip_grad_norm=options.clip_grad_norm,
                    keep_outputs=options.keep_outputs, sequences=options.sequences,
                )  # fmt: skip
            n_micro = n_micro_traced(len(step.micro_batches), layout)
            return logged(step, device, n_micro=n_micro)

        tell("building the model")
        model = build()
        counts = _counts(model)
        deep = list(stacks(model, n_at_least=LEAST_UNITS)) if replicate else []
        try:
            if deep:
                tell(f"tracing {N_UNITS} and {N_CHECK} of {max(s.n_units for s in deep)} layers")
                log = _replicated(model, deep, run, None if mesh is None else build)
                return Traced(log, *counts, max(s.n_units for s in deep))
            tell("tracing two steps")
            return Traced(run(model), *counts)
        except NotAlikeError as error:
            tell("the layers are not alike: tracing all of them")
            return Traced(run(build()), *counts, 0, str(error))


def n_micro_traced(n_micro: int, layout: Layout) -> int:
    """Micro-batches that are run of a step's: all between the first and the last do as the second.

    The last is like the second itself, unless it alone reduces gradients (FSDP2).
    """
    return min(n_micro, 3 if layout.zero >= LEAST_SHARDED and layout.dp > 1 else 2)


def traced_factory(factory: Callable[[], Any], name: str, device: Device) -> Traced:
    """Trace two steps of a user's own module, whole.

    Raises:
        LmsizeError: the factory or its step cannot be traced; says why and what else to do.
    """
    import torch

    refuse_with_arguments(factory, name)
    with on_fake_tensors(device):
        with explained(f"{name}, when it is called"), torch.device(device.type), Noting():
            made = factory()
        step = UserStep(made, foreach=device.type == "cuda")
        counts = _counts(step.model)
        with explained(name), torch.device(device.type):
            log = logged(step, device)
    if not any(entry.phase.startswith("2.") for entry in log.entries):
        raise TraceError(f"{name}: its step asks for no memory, so there is nothing to tell")
    return Traced(log, *counts)


def _replicated(
    model: Any, deep: list[Stack], run: Callable[[Any], Log], build: Callable[[], Any] | None
) -> Log:
    """The log of the deep model from two short ones.

    Args:
        build: makes the model anew for the second, where the first cannot be cut once it has run.
    """
    for stack in deep:
        shortened(model, stack, n_units=N_UNITS)
    short = [replace(stack, n_units=N_UNITS) for stack in deep]
    log = run(model)
    if build is not None:
        model = build()
    for stack in short if build is None else deep:
        shortened(model, stack, n_units=N_CHECK)
    growth = growth_by_depth(log, run(model), short)
    for stack, whole in zip(short, deep, strict=True):
        log = replicated(log, stack, n_units=whole.n_units, growth=growth)
    return log


def _implementation(spec: TrainSpec, usual: str | None) -> str | None:
    """What torch would choose on the device; fake parameters lead its own choice astray."""
    from lmsize.catalogue import built_in

    row = built_in().optimizer(spec.optimizer or "").name
    cls = CLASSES.get(row)
    if cls is None or cls[0] != "torch.optim" or cls[2].get("fused") or row in _LOOPS:
        return None
    return usual


_LOOPS = ("adafactor-torch", "muon")  # these classes loop unless told otherwise, or always


def _counts(model: Any) -> tuple[int, int]:
    params = list(model.parameters())
    return sum(p.numel() for p in params), sum(p.numel() for p in params if p.requires_grad)
