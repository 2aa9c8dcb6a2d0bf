"""Rows that say "fits", "out of memory" or "this length is the longest": verdicts, not values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lmsize.catalogue import built_in
from lmsize.estimate.ranges import fit_probability
from lmsize.measurements.cells import number
from lmsize.measurements.settings import question
from lmsize.measurements.unmodelled import UnmodelledError
from lmsize.measurements.words import read
from lmsize.validation.result import Answer
from lmsize.validation.training import Asked, group_of, known_accelerator

GIB = 2**30
BEYOND = 1.5  # times the longest length that fits: said not to


def fit_answers(row: Mapping[str, str], _kinds: tuple[str, ...], asked: Asked) -> Iterator[Answer]:
    """Whether a row's run fits, beside what the source saw.

    ``max_fit`` asks twice: the stated length fits, 1.5 times it does not.

    Raises:
        LmsizeError: the row cannot be modelled, or says neither.
    """
    if not row.get("outcome", ""):
        return
    outcome = read("outcome", row["outcome"]).meaning
    if outcome is None:
        raise UnmodelledError(f"outcome {row['outcome']!r} is not read")
    posed = question(row)
    capacity = _capacity(row, posed.accelerator)
    lengths: dict[str, tuple[dict[str, Any], bool]] = {"": ({}, outcome != "oom")}
    seq_len = posed.options.get("seq_len")
    if outcome == "max_fit" and seq_len:
        lengths[" x1.5"] = ({"seq_len": int(seq_len * BEYOND)}, False)
    for label, (change, fitted) in lengths.items():
        estimate = asked.estimate(posed, **change)
        probability = fit_probability(estimate, capacity)
        device = estimate.memory.peak_device_bytes or 0
        likely = probability if probability is not None else float(device <= capacity)
        yield Answer(
            row["id"] + label, "fits", float(fitted), likely, group=group_of(row, posed),
            right=(likely >= 0.5) == fitted, stated=posed.stated,
        )  # fmt: skip


def _capacity(row: Mapping[str, str], accelerator: str) -> float:
    """What a process can use: the accelerator's, else the stated size."""
    gib = number(row, "gpu_memory_gib")
    name = known_accelerator(accelerator)
    if gib:
        return gib * GIB
    if name is None:
        raise UnmodelledError("fits: neither the accelerator nor its memory is stated")
    return float(built_in().accelerator(name)[0].capacity_bytes)
