"""``--engine trace``: the memory of the real step on fake tensors, the rest from the formulas."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsize.assumption import Assumption
from lmsize.catalogue import Accelerator, Catalogue
from lmsize.errors import InputError, nearest_names
from lmsize.estimate.answer import Estimate, Limits, Memory, Parameters
from lmsize.estimate.overheads import driver_bytes
from lmsize.estimate.question import TrainingQuestion
from lmsize.estimate.training import components, training_estimate, training_memory
from lmsize.estimate.verdict import training_verdict
from lmsize.formula import given
from lmsize.planner.training import limits, min_to_fit, remedies
from lmsize.workload.parse import flag, positive, text, word
from lmsize.workload.training import check_choice

if TYPE_CHECKING:
    from lmsize.tracing.engine import StepOptions, Traced
    from lmsize.tracing.running import Device
    from lmsize.tracing.storages import Log

DEVICES = ("cuda", "cpu")
# Assumptions of the analytic engine about memory, which a trace does not make.
OF_ANALYTIC_MEMORY = (
    "activations", "kbit-preparation", "experts-quantised", "reserved-typical", "context-typical",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TraceSpec:
    """What is asked of a trace besides the training question.

    Attributes:
        trace_device: what the tensors pretend to lie on; ``cpu`` is there to be checked against
            real steps.
        timeline: a file to draw memory along the step to (.html, .png, .svg).
        snapshot: a file for PyTorch's memory viewer.
        keep_outputs: the outputs live until the backward is done.
        reentrant: the older kind of checkpointing.
    """

    trace_device: str = "cuda"
    timeline: str | None = None
    snapshot: str | None = None
    optimizer_impl: str | None = None
    clip_grad_norm: float | None = None
    keep_outputs: bool = False
    reentrant: bool = False

    def as_dict(self) -> dict[str, Any]:
        """By name, as the report's inputs have them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


_PARSERS: dict[str, Callable[[Any, str], Any]] = {
    "trace_device": word, "timeline": text, "snapshot": text, "optimizer_impl": word,
    "clip_grad_norm": positive(least=1e-12), "keep_outputs": flag, "reentrant": flag,
}  # fmt: skip


def trace_spec(options: dict[str, Any]) -> TraceSpec:
    """Take the options of a trace out of all that were given.

    Raises:
        InputError: a value that makes no sense.
    """
    given = {name: options.pop(name, None) for name in _PARSERS}
    values = {
        name: _PARSERS[name](value, f"--{name.replace('_', '-')}")
        for name, value in given.items() if value is not None
    }  # fmt: skip
    spec = TraceSpec(**values)
    check_choice("--trace-device", spec.trace_device, DEVICES)
    if spec.timeline is not None and Path(spec.timeline).suffix.lower() not in (".html", ".png", ".svg"):  # fmt: skip
        raise InputError("--timeline", spec.timeline, "a file that ends in .html, .png or .svg")
    return spec


def refuse_without_trace(spec: TraceSpec, engine: str) -> None:
    """Options of the trace mean nothing to another engine.

    Raises:
        InputError: one was given.
    """
    usual = TraceSpec()
    for name, value in spec.as_dict().items():
        if value != getattr(usual, name):
            raise InputError(
                f"--{name.replace('_', '-')}", value, f"no value with --engine {engine}"
            )


def refuse_of_catalogue(spec: TraceSpec, others: Mapping[str, Any]) -> None:
    """What a user's own step decides by itself is no option of its trace.

    Raises:
        InputError: such an option, or one that does not exist.
    """
    if others:
        name = next(iter(others))
        near = nearest_names(name, ("trace_device", "timeline", "snapshot"))
        raise InputError("option", name, "trace_device, timeline or snapshot", nearest=near)
    for name in ("optimizer_impl", "clip_grad_norm", "keep_outputs", "reentrant"):
        value = getattr(spec, name)
        if value not in (None, False):
            raise InputError(f"--{name.replace('_', '-')}", value, "no value: the factory says how")


def traced_training(
    question: TrainingQuestion, config: Mapping[str, Any], asked: TraceSpec, *, search: bool = True
) -> Estimate:
    """The estimate with the memory of a trace.

    Raises:
        LmsizeError: the step cannot be traced; says why and what else to do.
    """
    from lmsize.step.extras import require
    from lmsize.step.model import refuse_unknown_settings

    require("torch", "transformers", why="--engine trace", extra="trace")
    refuse_unknown_settings(question.spec)
    _refuse_sharding(question)
    from lmsize.tracing.engine import traced_step

    device, stated = traced_device(question.accelerator, asked)
    if question.setup.batch.n_micro > 2:
        text = "micro-batches from the third on do as the second, which is the last that was traced"
        stated = (*stated, Assumption("trace-micro-batches", text))
    row = question.setup.optimizer

    def run(question: TrainingQuestion) -> Traced:
        return traced_step(
            config, question.spec, device, _options(asked), dp=question.setup.layout.dp,
            implementation=row.default_implementation if device.type == "cuda" else None, tell=tell,
        )  # fmt: skip

    try:
        found = run(question)
    except InputError as error:
        usual = any(one.code == "default-attention" for one in question.assumptions)
        if error.what != "--attention" or not usual:
            raise
        question = question.varied(attention="eager")
        text = "eager attention: the class of transformers has no other"
        stated = (*stated, Assumption("trace-eager-only", text))
        found = run(question)
    estimate = _with_memory(training_estimate(question), question, found, device, asked)
    estimate = replace(estimate, assumptions=(*estimate.assumptions, *stated))
    write_files(found.log, question.model.name, question.accelerator, asked)
    return _answered(estimate, question, search=search)


def tell(what: str) -> None:
    """Progress, on stderr."""
    print(f"trace: {what}", file=sys.stderr)


def _refuse_sharding(question: TrainingQuestion) -> None:
    layout = question.setup.layout
    if layout.zero and layout.dp > 1:
        expected = "0: the trace runs one rank of plain data parallelism; --engine analytic shards"
        raise InputError("--zero", layout.zero, expected)


def traced_device(
    accelerator: Accelerator | None, asked: TraceSpec
) -> tuple[Device, tuple[Assumption, ...]]:
    """What the tensors lie on, and what that takes for granted."""
    from lmsize.tracing.gpus import DEFAULT, capability
    from lmsize.tracing.running import Device

    known = capability(accelerator)
    stated: list[Assumption] = []
    if asked.trace_device == "cuda" and known is None:
        text = f"attention kernels as on a GPU of compute capability {DEFAULT[0]}.{DEFAULT[1]}"
        stated.append(Assumption("trace-capability", text))
    if asked.optimizer_impl is None:
        text = "the optimizer is run as torch itself would on this device (foreach on CUDA)"
        stated.append(Assumption("trace-optimizer-impl", text))
    text = (
        "second of two steps of the real model on fake tensors; kernels' own scratch, the context, "
        "libraries' workspaces and communication buffers are not seen"
    )
    stated.append(Assumption("trace-step", text))
    return Device(asked.trace_device, known or DEFAULT), tuple(stated)


def _options(asked: TraceSpec) -> StepOptions:
    from lmsize.tracing.engine import StepOptions

    return StepOptions(
        asked.optimizer_impl, asked.clip_grad_norm, asked.keep_outputs, asked.reentrant
    )


def _with_memory(
    analytic: Estimate, question: TrainingQuestion, found: Traced, device: Device, asked: TraceSpec
) -> Estimate:
    from lmsize.tracing.terms import SOURCE

    memory, stated = traced_memory(
        found.log, device, question.catalogue, question.accelerator,
        extra=_buckets(found, question), factor=question.corrections.memory_factor,
    )  # fmt: skip
    if found.n_units:
        text = f"layers are traced a few times and repeated, event by event, to {found.n_units}"
        stated = (*stated, Assumption("trace-replicated", text))
    executed = _flops(found.log, question)
    counts = replace(
        analytic.parameters, total=found.n_params, trainable=found.n_trainable
    )  # fmt: skip
    kept = tuple(one for one in analytic.assumptions if not one.code.startswith(OF_ANALYTIC_MEMORY))
    return replace(
        analytic, engine="trace",
        inputs=analytic.inputs | {"engine": "trace"} | asked.as_dict(),
        parameters=_counted(counts, analytic.parameters, question), memory=memory,
        compute=replace(
            analytic.compute, hardware_flops_per_step=executed,
            trees=(*analytic.compute.trees[:1], given("hardware FLOPs", executed, "FLOP", source=SOURCE)),
        ),
        assumptions=(*kept, *stated),
    )  # fmt: skip


def _counted(counts: Parameters, analytic: Parameters, question: TrainingQuestion) -> Parameters:
    """With adapters, the total is the base's: what the module holds includes them, or few bits."""
    return counts if question.spec.method == "full" else replace(counts, total=analytic.total)


def _buckets(found: Traced, question: TrainingQuestion) -> dict[str, int]:
    """DDP, by closed form: gradients once more, in the buckets that are reduced."""
    if not question.setup.has_buckets:
        return {}
    gradients = {
        id(e.storage): e.storage.n_bytes
        for e in found.log.entries if e.storage.category == "gradients" and e.phase[0] == "2"
    }  # fmt: skip
    return {"gradient_buckets": sum(gradients.values())}


def traced_memory(
    log: Log,
    device: Device,
    catalogue: Catalogue,
    accelerator: Accelerator | None,
    *,
    extra: dict[str, int] | None = None,
    factor: float = 1.0,
) -> tuple[Memory, tuple[Assumption, ...]]:
    """Peak, components and tree of a log; what the allocator reserves and the driver holds."""
    from lmsize.tracing.allocator import simulated
    from lmsize.tracing.peaks import as_requested, in_blocks, peaks
    from lmsize.tracing.terms import moments

    size = in_blocks if device.type == "cuda" else as_requested
    steady = [peak for peak in peaks(log.entries, size) if peak.phase.startswith("2.")]
    extra = extra or {}
    tree = moments(steady, size, extra=extra)
    allocated = int(tree.value)
    reserved = on_device = None
    stated: tuple[Assumption, ...] = ()
    if device.type == "cuda":
        vendor = accelerator.vendor if accelerator else "NVIDIA"
        context = catalogue.overhead("context", vendor)
        reserved = simulated(log.events()).peak_reserved_bytes + sum(extra.values())
        on_device = round(
            driver_bytes(reserved_bytes=reserved, context_bytes=context.typical) * factor
        )
        held = (
            f"the driver holds {context.typical / 2**20:.0f} MiB besides "
            f"({context.low / 2**20:.0f} to {context.high / 2**20:.0f} seen: {context.source})"
        )
        stated = (
            Assumption("reserved-simulated", "reserved by a simulation of the caching allocator"),
            Assumption("context-typical", held),
        )
    if log.spread_evenly:
        text = "shapes depend on the routing: tokens are spread evenly over the experts"
        stated = (*stated, Assumption("trace-spread-evenly", text))
    capacity = accelerator.capacity_bytes if accelerator else None
    winner = tree.winner
    return Memory(
        peak_allocated_bytes=allocated, peak_reserved_bytes=reserved, peak_device_bytes=on_device,
        capacity_bytes=capacity, moment=winner.label, components=components(winner, allocated),
        tree=tree,
    ), stated  # fmt: skip


def _flops(log: Log, question: TrainingQuestion) -> float:
    """Executed by all ranks in a step, micro-batches that were not run included."""
    from lmsize.tracing.engine import MOST_MICRO_BATCHES

    batch = question.setup.batch
    repeated = batch.n_micro / min(batch.n_micro, MOST_MICRO_BATCHES)
    steady = {key: n for key, n in log.n_flops.items() if key[0].startswith("2.")}
    inside = sum(n for (at, _), n in steady.items() if at.endswith(("forward", "backward")))
    return (inside * repeated + sum(steady.values()) - inside) * question.setup.layout.dp


def write_files(log: Log, label: str, accelerator: Accelerator | None, asked: TraceSpec) -> None:
    """The timeline and the snapshot, where they were asked for."""
    if asked.timeline is None and asked.snapshot is None:
        return
    from lmsize.tracing.allocator import simulated

    events = list(log.events())
    capacity = accelerator.capacity_bytes if accelerator else None
    if asked.timeline is not None:
        from lmsize.tracing.timeline import write_timeline

        write_timeline(
            Path(asked.timeline), events, label=label, reserved=simulated(events),
            capacity_bytes=capacity,
        )  # fmt: skip
        tell(f"{asked.timeline} written")
    if asked.snapshot is not None:
        from lmsize.tracing.snapshot import write_snapshot

        write_snapshot(Path(asked.snapshot), events)
        tell(f"{asked.snapshot} written (for https://docs.pytorch.org/memory_viz)")


def _answered(estimate: Estimate, question: TrainingQuestion, *, search: bool) -> Estimate:
    """Limits and remedies by the analytic engine, scaled to meet the trace."""
    used = estimate.memory.peak_device_bytes or estimate.memory.peak_allocated_bytes or 0
    base = training_memory(question)[0].peak_device_bytes
    if not search or not base or question.accelerator is None:
        return replace(estimate, limits=Limits(), verdict=training_verdict(estimate, []))
    scale = used / base

    def peak(varied: TrainingQuestion) -> int:
        return round((training_memory(varied)[0].peak_device_bytes or 0) * scale)

    enough = min_to_fit(question, peak)
    text = f"limits and min_to_fit by the analytic engine, whose peak is scaled by {scale:.3f}"
    found = replace(
        estimate, limits=limits(question, peak),
        accelerators=replace(
            estimate.accelerators, min_to_fit=enough.n_accelerators if enough else None
        ),
        assumptions=(*estimate.assumptions, Assumption("trace-scaled-limits", text)),
    )  # fmt: skip
    capacity = estimate.memory.capacity_bytes or 0
    help_ = list(remedies(question, peak, enough=enough)) if used > capacity else []
    return replace(found, verdict=training_verdict(found, help_))
