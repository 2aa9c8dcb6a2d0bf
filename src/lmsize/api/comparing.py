"""``lmsize.compare``: the same question asked several ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from os import PathLike
from typing import Any

from lmsize.api.locate import ModelLike, located
from lmsize.api.serving import infer
from lmsize.api.trace_options import TRACE_OPTIONS
from lmsize.api.training import opened, train
from lmsize.assumption import Assumption, Caution
from lmsize.catalogue import Catalogue
from lmsize.errors import ExtraError, InputError
from lmsize.estimate.answer import Estimate, Verdict
from lmsize.workload.parse import parsed
from lmsize.workload.training import METHODS, PRECISIONS, check_choice

BY = ("method", "precision")
ONLY_QLORA = ("quant",)
ONLY_ADAPTERS = ("lora_rank", "lora_targets", "lora_experts", "modules_to_save", "adapter_fraction")
INFERENCE_OPTIONS = ("params", "activation_bytes", "accelerators")

Ask = Callable[..., Estimate]


def compare(
    model: ModelLike | None = None, *, by: str = "method", engine: str = "analytic",
    accelerator: str | None = None, catalogue: Catalogue | str | PathLike[str] | None = None,
    today: date | None = None, **options: Any,
) -> list[Estimate]:  # fmt: skip
    """The estimates of full training, LoRA and QLoRA, in that order; or of precisions.

    Args:
        by: ``method`` (``quant`` applies to QLoRA only) or ``precision``; under the rules of
            thumb the last precision is inference in int8, beside training.
        options: as for :func:`lmsize.train`.

    Raises:
        LmsizeError: input that makes no sense.
    """
    check_choice("--by", by, BY)
    rows = opened(catalogue)
    subject = model if model is None or engine == "trace" else located(model, rows)
    fixed = {"accelerator": accelerator, "engine": engine, "catalogue": rows, "today": today}

    def ask(question: Ask, changed: dict[str, Any]) -> Estimate:
        return question(subject, **(fixed | changed))

    if engine == "trace":
        ask = _or_left_out(ask)
    if by == "method":
        return reduced([ask(train, options | _for_method(m, options)) for m in METHODS])
    if engine == "rules":
        return reduced(_rules_precisions(ask, options))
    return reduced([ask(train, options | {"precision": p}) for p in _precisions(options)])


def _or_left_out(ask: Callable[[Ask, dict[str, Any]], Estimate]) -> Callable[..., Estimate]:
    """Ask for rows one by one; one whose software is missing here is empty and says so.

    The first row of a comparison has to be there.
    """
    made: list[Estimate] = []

    def row(question: Ask, changed: dict[str, Any]) -> Estimate:
        try:
            made.append(ask(question, changed))
        except ExtraError as error:
            if not made:
                raise
            plain = {k: v for k, v in changed.items() if k not in TRACE_OPTIONS}
            found = ask(question, plain | {"engine": "analytic", "search": False})
            return Estimate(
                engine="trace", task=found.task, inputs=found.inputs | {"engine": "trace"},
                parameters=found.parameters, verdict=Verdict(sentence=str(error)),
                warnings=(*found.warnings, Caution("missing-extra", str(error))),
            )  # fmt: skip
        return made[-1]

    return row


def _for_method(method: str, options: dict[str, Any]) -> dict[str, Any]:
    if options.get("method") is not None:
        raise InputError("--method", options["method"], "no value: compare asks for every method")
    dropped: tuple[str, ...] = ()
    if method == "full":
        dropped = (*ONLY_QLORA, *ONLY_ADAPTERS)
    elif method == "lora":
        dropped = ONLY_QLORA
    return {"method": method, **dict.fromkeys(dropped)}


def _precisions(options: dict[str, Any]) -> tuple[str, ...]:
    if options.get("precision") is not None:
        raise InputError("--precision", options["precision"], "no value: compare asks for each")
    return PRECISIONS


def _rules_precisions(ask: Ask, options: dict[str, Any]) -> list[Estimate]:
    """Training in fp32 and fp16, inference in int8: the rule's own comparison.

    States follow the weights' type, and activations given are those in 16 bits: fp32 keeps twice
    as much, int8 weights compute in 16 bits.
    """
    said = parsed(
        {k: options.get(k) for k in ("activation_bytes", "precision")},
        allowed={"activation_bytes", "precision"},
    )
    _precisions(options)
    half = said.get("activation_bytes")
    double = tuple(2 * end for end in half) if half else None
    text = (
        "optimizer states in the weights' type, activations as given in 16 bits and doubled in fp32"
    )
    stated = Assumption("precision-rows", text)
    states = options.get("state_precision") or "fp16"
    served = {key: options[key] for key in INFERENCE_OPTIONS if key in options}
    wide = {"precision": "fp32", "state_precision": "fp32", "activation_bytes": double}
    made = [
        ask(train, options | wide),
        ask(train, options | {"precision": "fp16", "state_precision": states}),
        ask(infer, served | {"precision": "fp16", "quant": "int8"}),
    ]
    return [replace(e, assumptions=(*e.assumptions, stated)) for e in made]


def reduced(rows: list[Estimate]) -> list[Estimate]:
    """The rows with each one's reduction factor: the first row's peak over its own."""
    first = rows[0].memory.peak_allocated_bytes
    return [
        replace(
            row,
            memory=replace(
                row.memory, reduction_factor=_ratio(first, row.memory.peak_allocated_bytes)
            ),
        )
        for row in rows
    ]


def _ratio(first: int | None, own: int | None) -> float | None:
    return first / own if first and own else None
