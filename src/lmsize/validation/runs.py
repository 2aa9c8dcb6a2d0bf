"""Rows that state a whole run: tokens, accelerators, and the days or accelerator-hours it took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lmsize.estimate.ranges import spread_for
from lmsize.measurements.cells import count, number
from lmsize.measurements.settings import Question, question
from lmsize.measurements.unmodelled import UnmodelledError
from lmsize.validation.result import Answer
from lmsize.validation.training import Asked, group_of

USUAL_MICRO = 8


def run_answers(row: Mapping[str, str], _kinds: tuple[str, ...], asked: Asked) -> Iterator[Answer]:
    """The seconds of a whole run, beside the estimate.

    Raises:
        LmsizeError: the row cannot be modelled, or states neither length nor duration.
    """
    days, hours, n = number(row, "days"), number(row, "gpu_hours"), count(row, "n_gpus")
    tokens = number(row, "tokens_b")
    if not days and not hours:
        raise UnmodelledError("run: neither days nor accelerator-hours are stated")
    if not tokens:
        raise UnmodelledError("run: the number of tokens is not stated")
    posed = question(row)
    # Hours of all accelerators together, where their number is not stated: as if of one.
    measured = (
        days * 86400 if days else (hours or 0.0) * 3600 / (n or posed.options["accelerators"])
    )
    estimate = asked.estimate(posed, tokens=max(1, round(tokens * 1e9)), **_micro_batch(row, posed))
    time = estimate.time
    if time.total_s is None:
        raise UnmodelledError("time: no known accelerator is stated")
    # A whole run's row seldom states its micro-batch, so the range is that of any layer's time.
    kind = (str(posed.options["stack"]), str(posed.options["method"]))
    spread = spread_for(asked.engine, "time", *kind)
    low, high = spread.ends(time.total_s) if spread else (None, None)
    yield Answer(
        row["id"], "run_s", measured, time.total_s, low, high, group=group_of(row, posed),
        stated=posed.stated,
    )  # fmt: skip


def _micro_batch(row: Mapping[str, str], posed: Question) -> dict[str, int]:
    """The largest micro-batch up to the usual one that the step's batch allows, where none is said:
    nobody runs for days at a micro-batch that the host's launches bind.
    """
    if count(row, "micro_batch"):
        return {}
    o = posed.options
    dp = o["accelerators"] // (o.get("tp", 1) * o.get("pp", 1) * o.get("cp", 1))
    each = o.get("global_batch", USUAL_MICRO * dp) // dp
    return {"micro_batch": max(n for n in range(1, USUAL_MICRO + 1) if each % n == 0)}
