"""The range and the probability that go with an estimate, from residuals of published measurements.

``data/ranges.csv`` holds, for each group of measurements, quantiles of ``log(measured /
predicted)``; :mod:`lmsize.validation.ranges` writes it. An estimate takes its own group; one that is
too small to have a line, or was never measured, takes a wider one, and says so.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from lmsize.assumption import Assumption
from lmsize.estimate.answer import Estimate

LEVELS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99)
LOW, HIGH = 0.05, 0.95
ANY = "*"
EXTREMES = (0.001, 0.999)  # no probability is said to be nearer to 0 or 1 than this


@dataclass(frozen=True, slots=True)
class Spread:
    """How measured values of one group lie about their estimates.

    Attributes:
        stratum: for serving, what was measured
            (``peak``, ``part``; ``first-token``, ``token-load`` ...); ``*`` elsewhere.
        n_clusters: sets of rows of one source, framework, model and method.
        log_ratios: quantiles of ``log(measured / predicted)`` at :data:`LEVELS`.
    """

    engine: str
    quantity: str
    stack: str
    method: str
    stratum: str
    n_rows: int
    n_clusters: int
    log_ratios: tuple[float, ...]

    @property
    def key(self) -> tuple[str, ...]:
        return self.engine, self.quantity, self.stack, self.method, self.stratum

    def ratio(self, level: float) -> float:
        """Measured over predicted that a share `level` of the group lies below."""
        return math.exp(float(np.interp(level, LEVELS, self.log_ratios)))

    def ends(self, predicted: float) -> tuple[float, float]:
        """The 90 % range about an estimate; the estimate itself is always in it."""
        return (
            predicted * min(1.0, self.ratio(LOW)),
            predicted * max(1.0, self.ratio(HIGH)),
        )

    def probability_below(self, value: float, predicted: float) -> float:
        """How likely the measured value is at most `value`."""
        if predicted <= 0:
            return EXTREMES[1]
        ratio = math.log(max(value, 1e-300) / predicted)
        ends = self.log_ratios
        # Beyond the last quantiles the tails go on as they came in, and never reach certainty.
        step = max(ends[1] - ends[0], 1e-6), max(ends[-1] - ends[-2], 1e-6)
        grid = (ends[0] - 2 * step[0], *ends, ends[-1] + 2 * step[1])
        return float(np.interp(ratio, grid, (EXTREMES[0], *LEVELS, EXTREMES[1])))


@cache
def spreads() -> Mapping[tuple[str, ...], Spread]:
    """The package's table by engine, quantity, stack, method and stratum."""
    text = files("lmsize.estimate.data").joinpath("ranges.csv").read_text("utf-8")
    return {s.key: s for s in map(_spread, csv.DictReader(text.splitlines()))}


def _spread(row: Mapping[str, str]) -> Spread:
    return Spread(
        row["engine"], row["quantity"], row["stack"], row["method"], row["stratum"],
        int(row["n_rows"]), int(row["n_clusters"]),
        tuple(float(row[f"q{level:g}"]) for level in LEVELS),
    )  # fmt: skip


def chain(
    engine: str, quantity: str, stack: str, method: str, stratum: str
) -> Iterator[tuple[str, ...]]:
    """The groups that may answer, the narrowest first: a stack gives way before a stratum does."""
    for within in dict.fromkeys((stratum, ANY)):
        yield engine, quantity, stack, method, within
        yield engine, quantity, ANY, method, within
        yield engine, quantity, ANY, ANY, within


def spread_for(
    engine: str, quantity: str, stack: str, method: str, stratum: str = ANY
) -> Spread | None:
    """The narrowest group's spread; None if nothing like it was ever measured."""
    known = spreads()
    keys = chain(engine, quantity, stack, method, stratum)
    return next((known[key] for key in keys if key in known), None)


def ranged(estimate: Estimate) -> Estimate:
    """A training estimate with the 90 % ranges of its memory and its time, and how they were had.

    The range of memory is about what the driver reports, which decides whether a run fits.
    """
    stated: list[Assumption] = []
    memory, time = estimate.memory, estimate.time
    found = _found(estimate, "memory", stated)
    if found is not None and memory.peak_device_bytes is not None:
        low, high = found.ends(memory.peak_device_bytes)
        memory = replace(memory, low_bytes=round(low), high_bytes=round(high))
    if time.step_s is not None and estimate.inputs["mfu"] is None:
        found = _found(estimate, "time", stated)
        if found is not None:
            low, high = found.ends(time.step_s)
            time = replace(time, low_s=low, high_s=high)
    assumptions = (*estimate.assumptions, *stated)
    return replace(estimate, memory=memory, time=time, assumptions=assumptions)


def ranged_serving(estimate: Estimate) -> Estimate:
    """A serving estimate with the 90 % range of its memory, and how it was had.

    The engine that will serve is not asked for: the range is that over all that were measured.
    """
    found = _spread_of_memory(estimate)
    device = estimate.memory.peak_device_bytes
    if found is None or device is None:
        return estimate
    low, high = found.ends(device)
    memory = replace(estimate.memory, low_bytes=round(low), high_bytes=round(high))
    text = f"range of memory: {found.n_rows} published measurements of serving, any engine"
    stated = Assumption("range-serving", text)
    return replace(estimate, memory=memory, assumptions=(*estimate.assumptions, stated))


def _spread_of_memory(estimate: Estimate) -> Spread | None:
    """How what the driver reports lies about what it was estimated to."""
    if estimate.task == "infer":
        return spread_for(estimate.engine, "inference_memory", ANY, "infer", "peak")
    used: Mapping[str, Any] = estimate.inputs
    return spread_for(estimate.engine, "memory", str(used.get("stack")), str(used.get("method")))


def _found(estimate: Estimate, quantity: str, stated: list[Assumption]) -> Spread | None:
    stack, method = str(estimate.inputs["stack"]), str(estimate.inputs["method"])
    found = spread_for(estimate.engine, quantity, stack, method)
    if found is None:
        return None
    kind = f"{found.stack} {found.method}".replace(ANY, "any")
    where = f"{found.n_rows} published measurements of {kind} training"
    if (found.stack, found.method) == (stack, method):
        stated.append(Assumption("range-measured", f"range of {quantity}: {where}"))
    else:
        text = f"range of {quantity}: too few measurements of {stack} {method}; {where}, wider"
        stated.append(Assumption("range-pooled", text))
    return found


def fit_probability(estimate: Estimate, capacity_bytes: float | None) -> float | None:
    """How likely what the driver will report is within a capacity; None without measurements."""
    device = estimate.memory.peak_device_bytes
    if capacity_bytes is None or device is None:
        return None
    found = _spread_of_memory(estimate)
    return None if found is None else found.probability_below(capacity_bytes, device)
