"""The JSON that ``lmsize validate --json`` prints."""

from __future__ import annotations

from typing import Any

from lmsize.validation.metrics import Metrics, by_quantity, grouped
from lmsize.validation.result import Answer, Skipped
from lmsize.validation.run import Validation

SCHEMA = "lmsize/validation/1"
FIGURES = ("n", "median_abs", "mean_abs", "p90_abs", "bias", "coverage90")


def document(done: Validation) -> dict[str, Any]:
    """A validation as plain data, in the shape of the contract; more keys than it fixes."""
    figures = by_quantity(done.answers)
    by_source = grouped(done.answers, lambda a: a.group["source"])
    return {
        "schema": SCHEMA,
        "engine": done.engine,
        "files": list(done.tables),
        "n": done.n_rows,
        "n_modelled": done.n_rows - len({s.id for s in done.skipped}),
        "skipped": [_skipped(one) for one in done.skipped],
        "metrics": _figures(figures),
        "sharpness": {quantity: found.width90 for quantity, found in figures.items()},
        "fits_right": figures["fits"].right if "fits" in figures else None,
        "by_source": {name: _figures(by_quantity(answers)) for name, answers in by_source.items()},
        "rows": [_row(answer) for answer in done.answers],
    }


def _figures(found: dict[str, Metrics]) -> dict[str, Any]:
    return {
        quantity: {key: getattr(figures, key) for key in FIGURES}
        for quantity, figures in found.items()
    }


def _skipped(one: Skipped) -> dict[str, str]:
    return {"id": one.id, "reason": one.reason, "quality": one.group.get("quality", "")}


def _row(answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.id,
        "quantity": answer.quantity,
        "measured": answer.measured,
        "predicted": answer.predicted,
        "low": answer.low,
        "high": answer.high,
        "relative_error": answer.relative_error,
        "right": answer.right,
        **{key: answer.group.get(key, "") for key in ("source", "stack", "method", "quality", "split", "metric")},
        "assumptions": [{"code": a.code, "text": a.text} for a in answer.stated],
    }  # fmt: skip
