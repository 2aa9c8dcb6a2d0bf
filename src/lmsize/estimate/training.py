"""The analytic engine's answer to a training question."""

from __future__ import annotations

from typing import Any

from lmsize.assumption import Assumption, Caution
from lmsize.catalogue.typical import COARSE_EXPERT_WIDTH
from lmsize.compute.step import StepWork, step_work
from lmsize.estimate.answer import Accelerators, Compute, Estimate, Memory, Parameters, Time
from lmsize.estimate.overheads import Holdings, device_bytes
from lmsize.estimate.question import TrainingQuestion
from lmsize.estimate.running import Rate, Schedule, bill, deadline_count, peak_rate, step_time
from lmsize.formula import Term
from lmsize.memory.stage_moments import stage_moments
from lmsize.memory.step_segments import has_flat_steps
from lmsize.memory.training import PASSES, passing_of, peak_of, segments_of
from lmsize.model.count import n_params, n_params_active, n_params_trainable
from lmsize.model.parts import Experts
from lmsize.model.spec import ModelSpec
from lmsize.workload.training import n_steps


def training_estimate(question: TrainingQuestion) -> Estimate:
    """Memory, FLOPs, time, number and cost of a training run; limits and verdict are left to a
    planner.
    """
    spec, setup = question.spec, question.setup
    counts = _parameters(question)
    memory, mem_stated = training_memory(question)
    done = step_work(
        question.model, n_sequences=setup.batch.sequences, seq_len=setup.batch.seq_len,
        recompute=setup.recompute, attention=setup.attention, adapters=setup.adapters,
    )  # fmt: skip
    rate, rate_stated = _rate(question, counts)
    steps = n_steps(spec, setup.batch)
    time = step_time(
        rate, model_flops=done.model.value, hardware_flops=done.hardware.value,
        n_accelerators=setup.layout.n_accelerators, n_tokens=setup.batch.tokens, n_steps=steps,
        schedule=_schedule(question),
    )  # fmt: skip
    group = setup.layout.tp * setup.layout.pp * setup.layout.cp
    count = setup.layout.n_accelerators
    needed, time, stated = deadline_count(
        time, deadline_s=spec.deadline, n_accelerators=count, group=group
    )
    cost, cost_stated, cautions = bill(
        time.accelerator_hours, question.accelerator, question.catalogue, today=question.today
    )
    return Estimate(
        engine="analytic", task="train", inputs=question.inputs(), parameters=counts, memory=memory,
        compute=_compute(done, setup.batch.tokens), time=time,
        accelerators=Accelerators(
            question.accelerator.name if question.accelerator else None, count, None, needed
        ),
        cost=cost,
        assumptions=(
            *question.assumptions, *mem_stated, *rate_stated, *_launch_bound(time), *stated,
            *cost_stated,
        ),
        warnings=(*question.cautions, *_cautions(question), *cautions),
    )  # fmt: skip


def training_memory(question: TrainingQuestion) -> tuple[Memory, tuple[Assumption, ...]]:
    """The memory part alone: what searches call."""
    setup = question.setup
    found = stage_moments(setup)
    peak, segments, varied = peak_of(found), segments_of(setup, found), passing_of(setup, found)
    beside = segments.child(PASSES) if segments else None
    own = round(segments.value - beside.value) if segments and beside else 0
    fullest = varied[0] if varied else beside
    passes = round(fullest.value) if fullest else 0
    held = Holdings(
        round(peak.value), passes, own, setup.layout.n_groups, setup.layout.n_neighbours,
        is_expandable=setup.stack.expandable_segments,
        varied=None if varied is None else round(varied[1]),
    )  # fmt: skip
    memory, stated = filled_memory(
        peak, question, factor=question.corrections.memory_factor, held=held
    )
    if own and passes + own > held.allocated:
        stated = (*stated, _kept(own, in_streams=not has_flat_steps(setup)))
    return memory, stated


def _kept(own: int, *, in_streams: bool) -> Assumption:
    text = f"the allocator keeps {own / 2**30:.1f} GiB of segments for"
    if in_streams:
        return Assumption("stream-segments", f"{text} the streams that gather and reduce")
    return Assumption("step-segments", f"{text} the step's flat copies of gradients")


def filled_memory(
    peak: Term, question: Any, *, factor: float = 1.0, held: Holdings | None = None
) -> tuple[Memory, tuple[Assumption, ...]]:
    """A peak with what the allocator and the driver add to it, times a measured `factor`.

    Args:
        held: what else the process has there; nothing if None.
    """
    moment = peak.winner
    allocated = round(peak.value)
    reserved, device, stated = device_bytes(
        held or Holdings(allocated), question.accelerator, question.catalogue
    )
    return Memory(
        peak_allocated_bytes=allocated,
        peak_reserved_bytes=round(reserved * factor),
        peak_device_bytes=round(device * factor),
        capacity_bytes=question.accelerator.capacity_bytes if question.accelerator else None,
        moment=moment.label,
        components=components(moment, allocated),
        tree=peak,
    ), stated


def components(moment: Term, allocated: int) -> dict[str, int | None]:
    """The parts of a moment in whole bytes that sum to the peak."""
    parts: dict[str, int | None] = {}
    for child in moment.children:
        parts[child.label] = int(child.value) + (parts.get(child.label) or 0)
    # Parts of a byte are lost above; the largest part, which has most of them, takes them back.
    if parts:
        largest = max(parts, key=lambda name: parts[name] or 0)
        parts[largest] = (parts[largest] or 0) + allocated - sum(v or 0 for v in parts.values())
    return parts


def _parameters(question: TrainingQuestion) -> Parameters:
    model, adapters = question.model, question.setup.adapters
    base = n_params(model)
    trainable = n_params_trainable(adapters or model)
    return Parameters(base, trainable, n_params_active(model))


def _compute(done: StepWork, n_tokens: int) -> Compute:
    return Compute(
        done.model.value,
        done.hardware.value,
        done.model.value / n_tokens,
        (done.model, done.hardware),
    )


def _schedule(question: TrainingQuestion) -> Schedule | None:
    """How the step runs; None where the user states the utilisation of the whole."""
    if question.spec.mfu is not None:
        return None
    setup = question.setup
    n_layers = sum(
        run.n_layers
        for tower, run in question.model.runs()
        if run.block.role == "layer" and tower.stream != "idle"
    )
    return Schedule(
        n_layers=n_layers, n_stages=setup.layout.pp, n_micro=setup.batch.n_micro,
        n_virtual=question.spec.vp, n_passes=4 if setup.recompute == "full" else 3,
        host_layer_s=question.catalogue.overhead("host_layer").typical
        * question.corrections.time_factor,
    )  # fmt: skip


def _launch_bound(time: Time) -> tuple[Assumption, ...]:
    """Said where launches, not arithmetic, decide a step."""
    step = next(iter(time.trees), None)
    if step is None or not step.children or step.winner.label != "launches":
        return ()
    host = step.winner.inputs["host_layer_s"]
    text = f"launching the kernels takes longer than running them: {host * 1e3:.1f} ms a layer and pass"
    return (Assumption("launch-bound", text),)


def _rate(
    question: TrainingQuestion, counts: Parameters
) -> tuple[Rate | None, tuple[Assumption, ...]]:
    if question.accelerator is None:
        return None, ()
    peak, stated = peak_rate(question.accelerator, question.setup.recipe.compute)
    if peak is None:
        return None, stated
    if question.spec.mfu is not None:
        return Rate(peak, question.spec.mfu), stated
    row, looser = question.catalogue.typical_mfu(
        question.accelerator, counts.active_per_token or 1, question.spec.method,
        question.setup.recipe.compute, is_moe=has_narrow_experts(question.model),
    )  # fmt: skip
    text = (
        f"MFU {row.median:.2f} while at work, the median of {row.n_rows} published runs on {row.family} at this size "
        f"(80 % of them between {row.p10:.2f} and {row.p90:.2f}; {row.source})"
    )
    return Rate(peak, row.median / question.corrections.time_factor), (
        *stated,
        Assumption("mfu-typical", text),
        *looser,
    )


def has_narrow_experts(model: ModelSpec) -> bool:
    """Whether it has routed experts too narrow for a dense model's utilisation."""
    widths = [
        n_in for _, run in model.runs() for part in run.block.parts if isinstance(part, Experts)
        for _, n_in, _ in part.matrices[-1:]
    ]  # fmt: skip
    return bool(widths) and min(widths) < COARSE_EXPERT_WIDTH


def _cautions(question: TrainingQuestion) -> tuple[Caution, ...]:
    row, compute = question.accelerator, question.setup.recipe.compute
    if row is not None and row.peak_flops_per_s(compute) is None and compute in ("bf16", "fp8"):
        text = f"{row.name} has no {compute} units: it runs emulated or not at all"
        return (Caution("unsupported-precision", text),)
    return ()
