"""``lmsize.train``: the complete estimate of a training run."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import date
from os import PathLike
from typing import Any

from lmsize.api.calibration import Calibration, corrections
from lmsize.api.locate import ModelLike, found_config, located
from lmsize.api.trace_options import refuse_without_trace, trace_spec
from lmsize.api.tracing import traced_training
from lmsize.assumption import Assumption
from lmsize.catalogue import Catalogue, built_in, load_user_catalogue
from lmsize.errors import InputError
from lmsize.estimate.answer import Estimate
from lmsize.estimate.correction import applicable
from lmsize.estimate.question import TrainingQuestion, training_question
from lmsize.estimate.ranges import ranged
from lmsize.estimate.rules import RulesSpec
from lmsize.estimate.training import training_estimate, training_memory
from lmsize.estimate.verdict import training_verdict
from lmsize.planner.training import Smallest, limits, min_to_fit, remedies
from lmsize.workload.parse import parsed
from lmsize.workload.training import TrainSpec, check_choice

ENGINES = ("rules", "analytic", "trace")
TRAIN_OPTIONS = {f.name for f in fields(TrainSpec)}
RULES_OPTIONS = {f.name for f in fields(RulesSpec)}


def opened(catalogue: Catalogue | str | PathLike[str] | None) -> Catalogue:
    """The catalogue: as given, with a user's file on top, or the package's own."""
    if isinstance(catalogue, Catalogue):
        return catalogue
    if catalogue is None:
        return built_in()
    return load_user_catalogue(str(catalogue))


def specs(options: dict[str, Any]) -> tuple[TrainSpec, RulesSpec]:
    """The options of a training question as its two specs."""
    values = parsed(options, allowed=TRAIN_OPTIONS | RULES_OPTIONS)
    rules = RulesSpec(**{k: v for k, v in values.items() if k in RULES_OPTIONS})
    return TrainSpec(**{k: v for k, v in values.items() if k in TRAIN_OPTIONS}), rules


def train(
    model: ModelLike | None = None, *, accelerator: str | None = None, engine: str = "analytic",
    catalogue: Catalogue | str | PathLike[str] | None = None, today: date | None = None,
    search: bool = True, calibration: Calibration = None, **options: Any,
) -> Estimate:  # fmt: skip
    """What training a model needs.

    Args:
        model: a catalogue name, a Hub id, a path, a parsed config or a ModelSpec; None only with
            ``engine="rules"`` and ``params``.
        accelerator: its name; None asks for sizes alone.
        engine: ``analytic``, ``rules`` for the rules of thumb, or ``trace`` for the real model on
            fake tensors (extra ``trace``).
        catalogue: a user's file of rows (TOML or CSV), or a catalogue already opened.
        today: decides whether a price is stale; the current date if None.
        search: whether to look for the limits, the fewest accelerators and what would help; without
            them an estimate takes a sixth of the time.
        calibration: a file of :func:`lmsize.calibrate`; None for the usual one if it is there; False
            or ``none`` for no correction.
        options: the long options of ``lmsize train`` with ``_`` for ``-``, as numbers or as text
            with suffixes (``tokens="1B"``, ``deadline="7d"``); with ``trace`` also the fields of
            :class:`lmsize.api.trace_options.TraceSpec`.

    Raises:
        LmsizeError: input that makes no sense. A run that does not fit is an answer.
    """
    check_choice("--engine", engine, ENGINES)
    asked = trace_spec(options)
    if engine != "trace":
        refuse_without_trace(asked, engine)
    spec, rules = specs(options)
    rows = opened(catalogue)
    day = today or date.today()
    if engine == "rules":
        from lmsize.api.rules import rules_training

        return rules_training(model, spec, rules, rows, accelerator=accelerator, today=day)
    rules.refuse_without_rules()
    if model is None:
        raise InputError("MODEL", None, "a catalogue name, a Hub id or a path")
    question = training_question(
        located(model, rows), spec, rows, accelerator=accelerator, today=day
    )
    question = with_corrections(question, calibration)
    if engine == "trace":
        return traced_training(question, found_config(model, rows).config, asked, search=search)
    return answered(question, search=search)


def with_corrections(question: TrainingQuestion, calibration: Calibration) -> TrainingQuestion:
    """The question with the corrections for its stack and accelerator."""
    name = question.accelerator.name if question.accelerator else ""
    found = applicable(corrections(calibration), stack=str(question.spec.stack), accelerator=name)
    stated = (*question.assumptions, *found.assumptions)
    return replace(question, corrections=found, assumptions=stated)


def answered(question: TrainingQuestion, *, search: bool = True) -> Estimate:
    """The analytic estimate with its limits and verdict."""
    estimate = ranged(training_estimate(question))
    if not search:
        return replace(estimate, verdict=training_verdict(estimate, []))
    enough = min_to_fit(question, _peak)
    count = enough.n_accelerators if enough else None
    found = replace(
        estimate,
        limits=limits(question, _peak),
        accelerators=replace(estimate.accelerators, min_to_fit=count),
        assumptions=(*estimate.assumptions, *_of_smallest(enough, question)),
    )
    device, capacity = estimate.memory.peak_device_bytes, estimate.memory.capacity_bytes
    needs_help = device is not None and capacity is not None and device > capacity
    help_ = list(remedies(question, _peak, enough=enough)) if needs_help else []
    return replace(found, verdict=training_verdict(found, help_))


def _of_smallest(enough: Smallest | None, question: TrainingQuestion) -> tuple[Assumption, ...]:
    layout = question.setup.layout
    if enough is None or (enough.zero, enough.tp) == (layout.zero, layout.tp):
        return ()
    tp = f" and tp {enough.tp}" if enough.tp != layout.tp else ""
    text = f"min_to_fit shards weights, gradients and states with ZeRO-{enough.zero}{tp}"
    return (Assumption("min-to-fit-zero3", text),)


def _peak(question: TrainingQuestion) -> int:
    return training_memory(question)[0].peak_device_bytes or 0
