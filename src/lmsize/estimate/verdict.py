"""One sentence that answers the question."""

from __future__ import annotations

from collections.abc import Sequence

from lmsize.estimate.answer import Estimate, Verdict
from lmsize.estimate.ranges import fit_probability
from lmsize.quantity import format_bytes, format_duration

METHOD = {"full": "Full training of", "lora": "LoRA on", "qlora": "QLoRA on"}


def training_verdict(estimate: Estimate, remedies: Sequence[str]) -> Verdict:
    """Whether a training run fits, and what would make it fit."""
    subject = f"{METHOD[str(estimate.inputs['method'])]} {estimate.inputs['model']}"
    return _verdict(estimate, subject, remedies)


def serving_verdict(estimate: Estimate, remedies: Sequence[str]) -> Verdict:
    """Whether serving fits, and what would make it fit."""
    return _verdict(estimate, f"Serving {estimate.inputs['model']}", remedies)


def _verdict(estimate: Estimate, subject: str, remedies: Sequence[str]) -> Verdict:
    memory, count = estimate.memory, estimate.accelerators.count or 1
    used = memory.peak_device_bytes or memory.peak_allocated_bytes
    if used is None:
        return Verdict(sentence=f"{subject}: no memory figure.")
    each = f"on each of {count} accelerators" if count > 1 else "on one accelerator"
    needs = f"{subject} needs {_sizes(estimate, used)} {each}"
    if memory.capacity_bytes is None:
        return Verdict(None, None, f"{needs}.{_when(estimate)}")
    fits = used <= memory.capacity_bytes
    probability = fit_probability(estimate, memory.capacity_bytes)
    odds = f" ({_percent(probability)} likely to fit)" if probability is not None else ""
    decimal = estimate.engine == "rules"
    room = f"{format_bytes(memory.capacity_bytes, decimal=decimal)} of {estimate.accelerators.name}"
    if fits:
        return Verdict(True, probability, f"{needs}: it fits the {room}{odds}.{_when(estimate)}")
    help_ = f" It would fit with {_either(remedies)}." if remedies else ""
    return Verdict(False, probability, f"{needs}: it does not fit the {room}{odds}.{help_}")


def _percent(probability: float) -> str:
    """A probability as people say one: never 0 % or 100 %."""
    return f"{min(max(probability, 0.01), 0.99):.0%}"


def _sizes(estimate: Estimate, used: int) -> str:
    """The peak, or both ends where a range was given; in GB where a rule of thumb made it."""
    memory, decimal = estimate.memory, estimate.engine == "rules"
    ends = [memory.low_bytes, memory.high_bytes] if decimal else [used]
    shown = dict.fromkeys(format_bytes(end, decimal=decimal) for end in ends if end is not None)
    return " to ".join(shown)


def _when(estimate: Estimate) -> str:
    time, cost = estimate.time, estimate.cost
    if time.total_s is None:
        return ""
    money = f" for {cost.usd:,.0f} USD" if cost.usd is not None else ""
    count = estimate.accelerators.needed_for_deadline
    late = f" The deadline takes {count:,} of them." if count is not None else ""
    return f" The run takes {format_duration(time.total_s)}{money}.{late}"


def _either(options: Sequence[str]) -> str:
    return options[0] if len(options) == 1 else f"{', '.join(options[:-1])} or {options[-1]}"
