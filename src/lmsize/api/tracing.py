"""``--engine trace``: the memory of the real step on fake tensors, the rest from the formulas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lmsize.api.few_bits import of_bitsandbytes
from lmsize.api.trace_memory import tell, traced_memory, write_files
from lmsize.api.trace_options import TraceSpec
from lmsize.assumption import Assumption
from lmsize.catalogue import Accelerator
from lmsize.errors import InputError
from lmsize.estimate.answer import Estimate, Limits, Parameters
from lmsize.estimate.question import TrainingQuestion
from lmsize.estimate.training import training_estimate, training_memory
from lmsize.estimate.verdict import training_verdict
from lmsize.formula import given
from lmsize.planner.training import limits, min_to_fit, remedies

if TYPE_CHECKING:
    from lmsize.tracing.engine import StepOptions, Traced
    from lmsize.tracing.running import Device
    from lmsize.tracing.storages import Layer

# Assumptions of the analytic engine about memory, which a trace does not make.
OF_ANALYTIC_MEMORY = (
    "activations", "kbit-preparation", "experts-quantised", "linears-left", "paged-states", "reserved-typical",
    "context-typical", "communicators", "zero3-gather", "stream-segments", "step-segments", "reserved-varied",
    "ddp-buckets",
)  # fmt: skip


def traced_training(
    question: TrainingQuestion, config: Mapping[str, Any], asked: TraceSpec, *, search: bool = True
) -> Estimate:
    """The estimate with the memory of a trace.

    Raises:
        LmsizeError: the step cannot be traced; says why and what else to do.
    """
    _refuse_untraceable(question)
    from lmsize.tracing.engine import n_micro_traced, traced_step

    device, stated = traced_device(question.accelerator, asked)
    stated = (*stated, _of_sequences(asked))
    n_micro = question.setup.batch.n_micro
    n_run = n_micro_traced(n_micro, question.setup.layout)
    if n_micro > n_run:
        text = f"of {n_micro} micro-batches {n_run} are run; those left out do as the second"
        stated = (*stated, Assumption("trace-micro-batches", text))
    row = question.setup.optimizer

    def run(question: TrainingQuestion) -> Traced:
        return traced_step(
            config, question.spec, device, _options(asked), layout=question.setup.layout,
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
    theirs = of_bitsandbytes(question, found.log, device.type)
    estimate = replace(estimate, assumptions=(*estimate.assumptions, *stated, *theirs))
    write_files(found.log, question.model.name, question.accelerator, asked)
    return _answered(estimate, question, search=search)


def _refuse_untraceable(question: TrainingQuestion) -> None:
    """Refuse what is not installed, or what the step that is traced does not have."""
    from lmsize.step.extras import require
    from lmsize.step.model import refuse_unknown_settings
    from lmsize.step.optimizer import refuse_missing
    from lmsize.tracing.room import refuse_without_room

    needed = () if question.spec.method == "full" else ("peft",)
    require("torch", "transformers", *needed, why="--engine trace", extra="trace")
    refuse_without_room()
    refuse_unknown_settings(question.spec, parallel=("tp",))
    refuse_missing(question.spec.optimizer or "")
    _refuse_sharding(question)


def _refuse_sharding(question: TrainingQuestion) -> None:
    layout = question.setup.layout
    if layout.tp > 1 and question.spec.method == "qlora":
        expected = (
            "1 with --method qlora: transformers spreads weights of few bits as a checkpoint is loaded, "
            "and none is loaded here. --engine analytic answers, or --method lora"
        )
        raise InputError("--tp", layout.tp, expected)
    if layout.zero == 1 and layout.dp > 1:
        expected = "0, or 2 and 3, which are FSDP2: torch has no stage 1; --engine analytic has"
        raise InputError("--zero", layout.zero, expected, nearest=[0, 2])


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
    text = "second of two steps of the real model on fake tensors; "
    if asked.trace_device == "cuda":
        text += (
            "kernels' own scratch and libraries' workspaces are not seen; a context and NCCL's buffers "
            "are added to the driver's figure alone"
        )
    else:
        text += "what this CPU's kernels take while they run is asked of them, but for the largest"
    stated.append(Assumption("trace-step", text))
    return Device(asked.trace_device, known or DEFAULT), tuple(stated)


def _of_sequences(asked: TraceSpec) -> Assumption:
    """How a micro-batch holds its sequences."""
    text = {
        "full": "every sequence is as long as --seq-len: nothing is padded or packed (--sequences)",
        "padded": "shorter sequences are padded to --seq-len, and a mask is given (--sequences)",
        "packed": "a micro-batch's sequences lie in one row, told apart by positions (--sequences)",
    }[asked.sequences]
    return Assumption("trace-sequences", text)


def _options(asked: TraceSpec) -> StepOptions:
    from lmsize.tracing.engine import StepOptions

    return StepOptions(
        asked.optimizer_impl, asked.clip_grad_norm, asked.keep_outputs, asked.reentrant,
        asked.sequences,
    )  # fmt: skip


def _with_memory(
    analytic: Estimate, question: TrainingQuestion, found: Traced, device: Device, asked: TraceSpec
) -> Estimate:
    from lmsize.tracing.terms import SOURCE

    memory, stated = traced_memory(
        found.log, device, question.catalogue, question.accelerator,
        layout=question.setup.layout, extra=_buckets(found, question), factor=question.corrections.memory_factor,
    )  # fmt: skip
    if found.n_units:
        text = f"layers are traced a few times and repeated, event by event, to {found.n_units}"
        stated = (*stated, Assumption("trace-replicated", text))
    stated = (*stated, *_of_ranks(question))
    executed, moved = (
        _executed(sums, question) for sums in (found.log.n_flops, found.log.n_moved)
    )  # fmt: skip
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
            trees=(
                *analytic.compute.trees[:1], given("hardware FLOPs", executed, "FLOP", source=SOURCE),
                given("bytes moved", moved, "bytes", source=SOURCE),
            ),
        ),
        assumptions=(*kept, *stated),
    )  # fmt: skip


def _of_ranks(question: TrainingQuestion) -> tuple[Assumption, ...]:
    """Which rank was traced, and what of the others was added."""
    layout = question.setup.layout
    kinds = [f"FSDP2 over {layout.dp}"] if layout.zero > 1 and layout.dp > 1 else []
    kinds += [f"tensor parallelism over {layout.tp}"] if layout.tp > 1 else []
    text = f"the first of {layout.n_accelerators} ranks is traced: {' and '.join(kinds)}"
    stated = (Assumption("trace-one-rank", text),) if kinds else ()
    n_micro = question.setup.batch.n_micro
    if n_micro > 1 and layout.zero > 1 and layout.dp > 1:
        text = f"gradients stay whole until the last of {n_micro} micro-batches, which reduces them"
        stated = (*stated, Assumption("trace-reduced-last", text))
    if question.setup.has_buckets:
        text = f"the gradients' buckets of DDP over {layout.dp} are added to one rank's trace"
        stated = (*stated, Assumption("trace-ddp", text))
    return stated


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


def _executed(sums: Mapping[tuple[str, Layer | None], float], question: TrainingQuestion) -> float:
    """What all ranks do in a step, micro-batches that were not run included."""
    from lmsize.tracing.engine import n_micro_traced

    n_micro = question.setup.batch.n_micro
    repeated = n_micro / n_micro_traced(n_micro, question.setup.layout)
    steady = {key: n for key, n in sums.items() if key[0].startswith("2.")}
    inside = sum(n for (at, _), n in steady.items() if at.endswith(("forward", "backward")))
    return (
        inside * repeated + sum(steady.values()) - inside
    ) * question.setup.layout.n_accelerators


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
