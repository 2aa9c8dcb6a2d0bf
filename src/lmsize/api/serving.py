"""``lmsize.infer``: the complete estimate of serving."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import date
from os import PathLike
from typing import Any

from lmsize.api.locate import ModelLike, located
from lmsize.api.training import RULES_OPTIONS, opened
from lmsize.catalogue import Catalogue
from lmsize.errors import InputError
from lmsize.estimate.answer import Estimate
from lmsize.estimate.ranges import ranged_serving
from lmsize.estimate.rules import RulesSpec
from lmsize.estimate.serving import ServingQuestion, serving_estimate, serving_question
from lmsize.estimate.training import filled_memory
from lmsize.estimate.verdict import serving_verdict
from lmsize.memory.serving import serving_peak
from lmsize.planner.serving import min_to_fit, remedies, with_limits
from lmsize.workload.parse import parsed
from lmsize.workload.serving import InferSpec
from lmsize.workload.training import check_choice

INFER_OPTIONS = {f.name for f in fields(InferSpec)}


def infer(
    model: ModelLike | None = None, *, accelerator: str | None = None, engine: str = "analytic",
    catalogue: Catalogue | str | PathLike[str] | None = None, today: date | None = None,
    search: bool = True, **options: Any,
) -> Estimate:  # fmt: skip
    """What serving a model needs.

    Args:
        model: a catalogue name, a Hub id, a path, a parsed config or a ModelSpec; None only with
            ``engine="rules"`` and ``params``.
        accelerator: its name; None asks for sizes alone.
        engine: ``analytic``, or ``rules`` for the rules of thumb.
        catalogue: a user's file of rows, or a catalogue already opened.
        today: decides whether a price is stale; the current date if None.
        search: whether to look for what would still fit and what would be enough.
        options: the long options of ``lmsize infer`` with ``_`` for ``-``.

    Raises:
        LmsizeError: input that makes no sense. Serving that does not fit is an answer.
    """
    if engine == "trace":
        expected = (
            "analytic or rules: a trace is of a training step. To trace a prompt or decoding by code of "
            "your own, give `lmsize trace` a factory whose `step` runs it"
        )
        raise InputError("--engine", engine, expected, nearest=["analytic"])
    check_choice("--engine", engine, ("rules", "analytic"))
    values = parsed(options, allowed=INFER_OPTIONS | RULES_OPTIONS)
    rules = RulesSpec(**{k: v for k, v in values.items() if k in RULES_OPTIONS})
    spec = InferSpec(**{k: v for k, v in values.items() if k in INFER_OPTIONS})
    rows = opened(catalogue)
    if engine == "rules":
        from lmsize.api.rules import rules_inference

        return rules_inference(model, spec, rules, rows, accelerator=accelerator)
    rules.refuse_without_rules()
    if model is None:
        raise InputError("MODEL", None, "a catalogue name, a Hub id or a path")
    question = serving_question(
        located(model, rows), spec, rows, accelerator=accelerator, today=today or date.today()
    )
    return answered(question, search=search)


def answered(question: ServingQuestion, *, search: bool = True) -> Estimate:
    """The analytic estimate with its limits and verdict."""
    estimate = ranged_serving(serving_estimate(question))
    if not search:
        return replace(estimate, verdict=serving_verdict(estimate, []))
    enough = min_to_fit(question, _peak)
    filled = replace(
        estimate,
        serving=with_limits(estimate.serving, question, _peak),
        accelerators=replace(estimate.accelerators, min_to_fit=enough),
    )
    device, capacity = estimate.memory.peak_device_bytes, estimate.memory.capacity_bytes
    needs_help = device is not None and capacity is not None and device > capacity
    help_ = list(remedies(question, _peak, n_needed=enough)) if needs_help else []
    return replace(filled, verdict=serving_verdict(filled, help_))


def _peak(question: ServingQuestion) -> int:
    return filled_memory(serving_peak(question.setup), question)[0].peak_device_bytes or 0
