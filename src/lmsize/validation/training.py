"""Rows of training measurements, each put as the call that a user would make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Any

from lmsize.api.serving import infer
from lmsize.api.training import train
from lmsize.catalogue import Accelerator, built_in
from lmsize.compute.work import FROZEN_BASE, FULL_TRAINING, Tokens, work
from lmsize.errors import InputError
from lmsize.estimate.answer import Estimate
from lmsize.estimate.ranges import ANY, spread_for
from lmsize.measurements.measured import (
    METRICS,
    MeasuredTime,
    measured_memory,
    measured_time,
)
from lmsize.measurements.settings import Question, question
from lmsize.measurements.unmodelled import UnmodelledError
from lmsize.model.spec import ModelSpec
from lmsize.validation.result import Answer

TODAY = date(2000, 1, 1)  # no price is asked for


@dataclass
class Asked:
    """Questions already answered: many rows ask the same and measure different things."""

    engine: str
    # With the model, which must live as long as its id stands for it.
    answers: dict[tuple[Any, ...], tuple[ModelSpec, Estimate]] = field(default_factory=dict)

    def estimate(self, asked: Question, **more: Any) -> Estimate:
        """The public API's answer to a row's question about training."""
        return self._answer(train, asked, {"calibration": False, **more})

    def serving(self, asked: Question, **more: Any) -> Estimate:
        """The public API's answer to a row's question about serving."""
        return self._answer(infer, asked, more)

    def _answer(
        self, call: Callable[..., Estimate], asked: Question, more: Mapping[str, Any]
    ) -> Estimate:
        options = {**asked.options, **more}
        name = known_accelerator(asked.accelerator)
        key = (call, id(asked.model), name, *sorted(options.items()))
        if key not in self.answers:
            found = call(
                asked.model, accelerator=name, engine=self.engine, search=False, today=TODAY,
                **options,
            )  # fmt: skip
            self.answers[key] = (asked.model, found)
        return self.answers[key][1]


@lru_cache(maxsize=4096)
def known_accelerator(name: str) -> str | None:
    """The name, if the catalogue knows it."""
    try:
        return built_in().accelerator(name)[0].name if name else None
    except InputError:
        return None


def training_answers(
    row: Mapping[str, str], kinds: tuple[str, ...], asked: Asked
) -> Iterator[Answer]:
    """The memory and the time that a row measured, beside the estimates.

    Raises:
        LmsizeError: the row cannot be modelled; the message says why.
    """
    posed = question(row)
    group = group_of(row, posed)
    found = False
    if "memory" in kinds:
        measured = measured_memory(row)
        if measured is not None:
            found = True
            stage = {"pipeline_stage": measured.stage} if measured.stage != "worst" else {}
            memory = asked.estimate(posed, **stage).memory
            predicted = getattr(memory, METRICS[measured.metric])
            device = memory.peak_device_bytes or 1
            low, high = _ends(asked.engine, posed, "memory", predicted) or (
                None if end is None else predicted * end / device
                for end in (memory.low_bytes, memory.high_bytes)
            )
            yield Answer(
                row["id"], "memory", measured.n_bytes, predicted, low, high,
                group=group | {"metric": measured.metric}, stated=posed.stated,
            )  # fmt: skip
    if "time" in kinds:
        estimate = asked.estimate(posed)
        step = _time(row, posed, estimate, asked.engine)
        if step is not None:
            found = True
            yield Answer(row["id"], "time", *step, group=group, stated=posed.stated)
    if not found:
        raise UnmodelledError("the row states no measured value")


def group_of(row: Mapping[str, str], posed: Question) -> dict[str, str]:
    """What a row's errors are grouped by."""
    return {
        "source": row.get("source_repo_or_url") or "(no source)",
        "framework": row.get("framework", ""),
        "model": row.get("model", ""),
        "accelerator": known_accelerator(posed.accelerator) or "",
        "stack": str(posed.options["stack"]),
        "method": str(posed.options["method"]),
        "quality": row.get("quality", ""),
        "split": row.get("split", ""),
    }


def _time(
    row: Mapping[str, str], posed: Question, estimate: Estimate, engine: str
) -> tuple[float, float, float | None, float | None] | None:
    """Measured and predicted seconds a step, and the ends of the range."""
    used = estimate.inputs
    n_accelerators = int(used["accelerators"])
    measured = measured_time(
        row, n_tokens=used["global_batch"] * used["seq_len"], n_accelerators=n_accelerators,
        n_micro=used["grad_accum"],
    )  # fmt: skip
    if measured is None:
        return None
    time = estimate.time
    if time.step_s is None:
        raise UnmodelledError("time: no known accelerator is stated")
    step = measured.step_s or _step_of_rate(measured, posed, estimate)
    wider = _ends(engine, posed, "time", time.step_s)
    return step, time.step_s, *(wider or (time.low_s, time.high_s))


def _ends(
    engine: str, posed: Question, quantity: str, predicted: float
) -> tuple[float, float] | None:
    """The wider range of a framework that is only near to the stack it was taken for."""
    if not any(a.code == "row-framework" for a in posed.stated):
        return None
    found = spread_for(engine, quantity, ANY, str(posed.options["method"]))
    return found.ends(predicted) if found else None


def _step_of_rate(measured: MeasuredTime, posed: Question, estimate: Estimate) -> float:
    """Seconds a step that a rate of FLOPs amounts to, by the row's own definition."""
    assert measured.flops_per_s is not None
    rate = measured.flops_per_s
    if measured.is_fraction:
        rate *= measured.peak_flops_per_s or _peak(estimate)
    flops = defined_flops(measured, posed, estimate)
    return flops / (rate * int(estimate.inputs["accelerators"]))


def defined_flops(measured: MeasuredTime, posed: Question, estimate: Estimate) -> float:
    """FLOPs of a step as the row's rate counts them."""
    compute, used = estimate.compute, estimate.inputs
    model = compute.model_flops_per_step or 0.0
    counted = (compute.hardware_flops_per_step or model) if measured.counts_recompute else model
    if not measured.counts_unmasked:
        return counted
    passes = FULL_TRAINING if used["method"] == "full" else FROZEN_BASE
    tokens = (used["global_batch"], used["seq_len"], used["seq_len"])
    masked, whole = (
        work("step", posed.model, Tokens(*tokens, masked_skipped=skipped), passes).value
        for skipped in (True, False)
    )
    return float(counted * whole / masked)


def _peak(estimate: Estimate) -> float:
    row: Accelerator = built_in().accelerator(str(estimate.accelerators.name))[0]
    precision = str(estimate.inputs["precision"]).removeprefix("amp-")
    peak = row.peak_flops_per_s(precision) or row.peak_flops_per_s("fp16")
    if peak is None:
        raise UnmodelledError(f"time: the peak of {row.name} is not known")
    return peak
