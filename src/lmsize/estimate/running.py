"""Time and money of a run, once the FLOPs of a step are known: the same for every engine."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import date

from lmsize.assumption import Assumption, Caution
from lmsize.catalogue import Accelerator, Catalogue, Price
from lmsize.estimate.answer import Cost, Time
from lmsize.estimate.bill import accelerator_h, co2e_kg, cost_usd, energy_kwh
from lmsize.formula import Term, maximum
from lmsize.timing.durations import (
    accelerators_for_deadline,
    launched_s,
    mfu_frac,
    run_s,
    utilised_s,
    worked_s,
)

PRICE_STALE_DAYS = 90
# Which rate serves a type that an accelerator has no units for.
FALLBACK = {"fp8": "bf16", "bf16": "fp16", "fp16": "fp32", "tf32": "fp32"}


@dataclass(frozen=True, slots=True)
class Rate:
    """The speed that FLOPs are turned into time with.

    Attributes:
        peak_flops_per_s: dense, of one accelerator.
        mfu_frac: the share of it that the model's FLOPs reach.
    """

    peak_flops_per_s: float
    mfu_frac: float


def peak_rate(
    accelerator: Accelerator, compute: str
) -> tuple[float | None, tuple[Assumption, ...]]:
    """The dense peak for a compute type, or that of the type which stands in for it."""
    kind = compute
    while accelerator.peak_flops_per_s(kind) is None and kind in FALLBACK:
        kind = FALLBACK[kind]
    peak = accelerator.peak_flops_per_s(kind)
    if peak is None or kind == compute:
        return peak, ()
    text = f"{accelerator.name} has no {compute} rate: its {kind} peak is used"
    return peak, (Assumption("peak-fallback", text),)


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a step's time depends on besides its FLOPs.

    Attributes:
        n_passes: over each layer, in units of a forward: 3, or 4 with full recomputation.
        host_layer_s: that the host takes to launch one layer's forward.
    """

    n_layers: int
    n_stages: int
    n_micro: int
    n_virtual: int
    n_passes: int
    host_layer_s: float


def step_time(
    rate: Rate | None, *, model_flops: float, hardware_flops: float, n_accelerators: int,
    n_tokens: int, n_steps: int | None, schedule: Schedule | None = None,
) -> Time:  # fmt: skip
    """Seconds a step and a run; all None without a rate.

    Args:
        schedule: None takes the utilisation for that of the whole step, as a user states it.
    """
    if rate is None:
        return Time()
    spent = {
        "n_accelerators": n_accelerators, "peak_flops_per_s": rate.peak_flops_per_s,
    }  # fmt: skip
    step = _step(rate, spent, model_flops, schedule)
    took = spent | {"step_s": step.value}
    trees = [step]
    whole = None
    if n_steps is not None:
        trees.append(run_s.term("run", step_s=step.value, n_steps=n_steps))
        whole = trees[-1].value
    return Time(
        step_s=step.value,
        tokens_per_s_per_accelerator=n_tokens / step.value / n_accelerators,
        mfu=mfu_frac(n_flops=model_flops, **took),
        hfu=mfu_frac(n_flops=hardware_flops, **took),
        total_s=whole,
        accelerator_hours=None
        if whole is None
        else accelerator_h(run_s=whole, n_accelerators=n_accelerators),
        trees=tuple(trees),
    )


def _step(
    rate: Rate, spent: dict[str, float], model_flops: float, schedule: Schedule | None
) -> Term:
    given = {**spent, "n_flops": model_flops, "mfu_frac": rate.mfu_frac}
    if schedule is None:
        return utilised_s.term("step", **given)
    shape = {
        "n_stages": schedule.n_stages, "n_micro": schedule.n_micro, "n_virtual": schedule.n_virtual,
    }  # fmt: skip
    return maximum("step", [
        worked_s.term("arithmetic", **given, **shape),
        launched_s.term("launches", n_layers=schedule.n_layers, n_passes=schedule.n_passes,
                        host_layer_s=schedule.host_layer_s, **shape),
    ])  # fmt: skip


def deadline_count(
    time: Time, *, deadline_s: float | None, n_accelerators: int, group: int
) -> tuple[int | None, Time, tuple[Assumption, ...]]:
    """Accelerators that meet a deadline, in whole groups of tp * pp * cp; the time with the term
    that says so; and what it assumes.
    """
    if deadline_s is None or time.total_s is None:
        return None, time, ()
    term = accelerators_for_deadline.term(
        "accelerators for the deadline",
        run_s=time.total_s,
        n_accelerators=n_accelerators,
        deadline_s=deadline_s,
    )
    count = max(math.ceil(term.value / group - 1e-9), 1) * group
    text = "time falls in proportion to the number of accelerators"
    return count, replace(time, trees=(*time.trees, term)), (Assumption("linear-scaling", text),)


def bill(
    hours: float | None, accelerator: Accelerator | None, catalogue: Catalogue, *, today: date
) -> tuple[Cost, tuple[Assumption, ...], tuple[Caution, ...]]:
    """Money, energy and carbon of accelerator-hours; None where a price or a power is unknown."""
    if hours is None or accelerator is None:
        return Cost(), (), ()
    price = catalogue.price(accelerator)
    money, of_money, cautions = _money(hours, price, today)
    drawn, of_energy = _energy(hours, accelerator, catalogue)
    values = {term.label: term.value for term in (*money, *drawn)}
    cost = Cost(
        values.get("cost"), price.as_of if price else None, values.get("energy"),
        values.get("carbon"), (*money, *drawn),
    )  # fmt: skip
    return cost, (*of_money, *of_energy), cautions


def _money(
    hours: float, price: Price | None, today: date
) -> tuple[tuple[Term, ...], tuple[Assumption, ...], tuple[Caution, ...]]:
    """What hours cost, where there is a price, and how old that is."""
    if price is None:
        return (), (), ()
    rate = price.usd_per_accelerator_h
    text = f"{rate:.2f} USD an accelerator-hour on {price.as_of}: {price.rule}"
    is_stale = _days_old(price.as_of, today) > PRICE_STALE_DAYS
    old = f"the price is of {price.as_of}, more than {PRICE_STALE_DAYS} days old"
    return (
        (cost_usd.term("cost", accelerator_h=hours, price_usd_per_h=rate),),
        (Assumption("price", text),),
        (Caution("stale-price", old),) if is_stale else (),
    )


def _energy(
    hours: float, accelerator: Accelerator, catalogue: Catalogue
) -> tuple[tuple[Term, ...], tuple[Assumption, ...]]:
    """Energy and carbon of hours, where the power of the accelerator is known."""
    if accelerator.tdp_w is None:
        return (), ()
    pue, grid = catalogue.overhead("pue"), catalogue.carbon()
    power = energy_kwh.term(
        "energy", accelerator_h=hours, draw_w=accelerator.tdp_w, pue=pue.typical
    )
    air = co2e_kg.term("carbon", energy_kwh=power.value, intensity_g_per_kwh=grid.g_co2e_per_kwh)
    drawn = f"each accelerator draws its {accelerator.tdp_w:g} W throughout, PUE {pue.typical:g} ({pue.source})"
    mixed = f"{grid.g_co2e_per_kwh:g} g CO2e a kWh, {grid.name} {grid.year}"
    return (power, air), (Assumption("energy-tdp", drawn), Assumption("carbon-grid", mixed))


def _days_old(as_of: str, today: date) -> int:
    """Days since a date that may be given to the day, the month or the year."""
    parts = [int(part) for part in as_of.split("-") if part.isdecimal()]
    if not parts:
        return PRICE_STALE_DAYS + 1
    year, month, day = (*parts, 1, 1)[:3]
    return (today - date(year, month, day)).days
