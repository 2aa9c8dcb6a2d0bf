"""Rows of serving measurements, each put as the call that a user would make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lmsize.estimate.answer import Estimate
from lmsize.estimate.ranges import ANY, spread_for
from lmsize.measurements.engines import serving_engine
from lmsize.measurements.measured import METRICS
from lmsize.measurements.served import Load, Served, served
from lmsize.measurements.serving import serving_question
from lmsize.measurements.unmodelled import UnmodelledError
from lmsize.validation.result import Answer
from lmsize.validation.training import Asked

METHOD = "infer"
PARTS = ("weights", "context")


def serving_answers(
    row: Mapping[str, str], _kinds: tuple[str, ...], asked: Asked
) -> Iterator[Answer]:
    """The memory or the latency that a row measured, beside the estimate.

    Raises:
        LmsizeError: the row cannot be modelled; the message says why.
    """
    posed = serving_question(row)
    estimate = asked.serving(posed)
    used = estimate.inputs
    load = Load(
        used["concurrency"], used["accelerators"], used["prompt"], used["output"],
        is_stated="prompt" in posed.options,
    )  # fmt: skip
    measured = served(row, load)
    cell = row.get("engine", "") or row.get("framework", "")
    stack, stratum = serving_engine(cell).name, _stratum(measured)
    quantity = "latency" if measured.is_time else "inference_memory"
    predicted = _seconds(estimate, measured) if measured.is_time else _bytes(estimate, measured)
    # `lmsize infer` is not told the engine: its range of memory is that of all of them.
    name = stack if measured.is_time else ANY
    spread = spread_for(asked.engine, quantity, name, METHOD, stratum)
    low, high = spread.ends(predicted) if spread is not None else (None, None)
    yield Answer(
        row["id"], quantity, measured.value, predicted, low, high, stated=posed.stated,
        group={
            "source": row.get("source_repo_or_url") or "(no source)",
            "framework": cell,
            "model": row.get("model", ""),
            "stack": stack,
            "method": METHOD,
            "quality": row.get("quality", ""),
            "split": row.get("split", ""),
            "metric": f"{measured.what} under load" if measured.comes_and_goes else measured.what,
            "stratum": stratum,
        },
    )  # fmt: skip


def _stratum(measured: Served) -> str:
    """Which residuals a value shares: each kind of latency its own, parts of memory apart."""
    if measured.is_time:
        load = "-load" if measured.comes_and_goes else ""
        return measured.what.replace(" ", "-") + load
    return "part" if measured.what in PARTS else "peak"


def _bytes(estimate: Estimate, measured: Served) -> float:
    memory = estimate.memory
    if measured.what == "weights":
        return float(memory.components["weights"] or 0)
    device, reserved = memory.peak_device_bytes or 0, memory.peak_reserved_bytes or 0
    if measured.what == "context":
        return float(device - reserved)
    return float(getattr(memory, METRICS[measured.what]))


def _seconds(estimate: Estimate, measured: Served) -> float:
    """What the estimate says of the interval that was measured.

    A batch that starts together waits for all its prompts before its first tokens. Where requests
    come and go, each takes its share of the steady rate, and its tokens wait for others' prompts.
    """
    serving, used = estimate.serving, estimate.inputs
    first, each, rate = serving.prefill_s, serving.decode_s_per_token, serving.tokens_per_s
    if first is None or each is None or rate is None:
        raise UnmodelledError("time: no known accelerator is stated")
    n_replicas = used["accelerators"] // (used["tp"] * used["pp"])
    n_sequences = -(-used["concurrency"] // n_replicas)
    request = n_sequences * used["output"] / (rate / n_replicas)
    if measured.what == "request":
        return float(request)
    if measured.what == "first token":
        return float(first if measured.comes_and_goes else first * n_sequences)
    if measured.comes_and_goes:
        return float((request - first) / used["output"])
    return float(each)
