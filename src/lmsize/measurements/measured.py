"""What a row measured, in bytes or seconds, and by which definition."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lmsize.measurements.cells import count, number
from lmsize.measurements.unmodelled import UnmodelledError
from lmsize.measurements.words import read

GIB = 2**30
# The field of an estimate's memory that a metric is compared with.
METRICS = {"allocated": "peak_allocated_bytes", "reserved": "peak_reserved_bytes",
           "driver": "peak_device_bytes"}  # fmt: skip
LAST_RANK = re.compile(r"\blast\b[^.;]{0,24}\b(rank|stage)", re.IGNORECASE)
# A time "per micro-batch" or "per micro-iteration" is a part of the optimizer step.
MICRO_STEP = re.compile(r"\bper[ -]micro[ -]?(batch|iteration|step)", re.IGNORECASE)
PEAK = re.compile(r"(?:/|of|vs)\s*(\d{2,4}(?:\.\d+)?)\s*(?:$|t(?:era)?flop|\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class MeasuredMemory:
    """A peak of memory.

    Attributes:
        n_bytes: on one accelerator.
        metric: ``allocated``, ``reserved`` or ``driver``.
        stage: of a pipeline: ``worst``, ``first`` or ``last``.
        is_vague: the metric is not stated, and was taken for the driver's.
    """

    n_bytes: float
    metric: str
    stage: str = "worst"
    is_vague: bool = False


@dataclass(frozen=True, slots=True)
class MeasuredTime:
    """A step's time, or a rate that one follows from.

    Attributes:
        step_s: where the source gives it, or tokens and a rate that give it.
        flops_per_s: of one accelerator, by the definition that follows; a fraction of
            `peak_flops_per_s` if `is_fraction`.
        counts_recompute: hardware FLOPs rather than the model's.
        counts_unmasked: attention whole, not as a causal mask leaves it.
    """

    step_s: float | None = None
    flops_per_s: float | None = None
    is_fraction: bool = False
    peak_flops_per_s: float | None = None
    counts_recompute: bool = False
    counts_unmasked: bool = True


def measured_memory(row: Mapping[str, str]) -> MeasuredMemory | None:
    """The peak that a row states; None if it states none.

    Raises:
        UnmodelledError: the figure is a formula's, or no positive number.
    """
    if not row.get("measured_peak_gib", ""):
        return None
    gib = number(row, "measured_peak_gib")
    if not gib:
        raise UnmodelledError(f"measured_peak_gib {row['measured_peak_gib']!r} is no size")
    said = row.get("metric_definition", "")
    metric = read("metric", said).meaning
    if metric == "formula":
        raise UnmodelledError("the figure is a formula's, not a measurement")
    n_over = count(row, "n_gpus") or 1
    if read("scope", said).meaning == "total":
        gib /= n_over
    stage = "last" if LAST_RANK.search(said) else "worst"
    return MeasuredMemory(gib * GIB, metric or "driver", stage, is_vague=metric is None)


def measured_time(
    row: Mapping[str, str], *, n_tokens: int, n_accelerators: int, n_micro: int
) -> MeasuredTime | None:
    """The time that a row states; None if it states none.

    Args:
        n_tokens: that one step of the question sees, over all ranks.
        n_accelerators: of the question; `n_micro` its micro-batches a step.
    """
    step = number(row, "measured_step_time_s")
    if step:
        each = MICRO_STEP.search(f"{row.get('mfu_definition', '')} {row.get('notes', '')}")
        return MeasuredTime(step_s=step * n_micro if each else step)
    rate = number(row, "measured_tokens_per_s_per_gpu")
    if rate:
        return MeasuredTime(step_s=n_tokens / (rate * n_accelerators))
    said = row.get("mfu_definition", "")
    hardware = read("flops", said).meaning == "hardware"
    unmasked = read("causal", said).meaning != "halved"
    tflops = number(row, "measured_tflops_per_gpu")
    if tflops:
        return MeasuredTime(
            flops_per_s=tflops * 1e12, counts_recompute=hardware, counts_unmasked=unmasked
        )
    for column, executed in (("measured_mfu", hardware), ("measured_hfu", True)):
        share = number(row, column)
        if share:
            return MeasuredTime(
                flops_per_s=share / 100 if share > 1.5 else share, is_fraction=True,
                peak_flops_per_s=_peak(said), counts_recompute=executed, counts_unmasked=unmasked,
            )  # fmt: skip
    return None


def _peak(said: str) -> float | None:
    """The peak that a definition divides by ("/ 312"), in FLOP/s."""
    found = PEAK.search(said)
    return float(found[1]) * 1e12 if found else None
