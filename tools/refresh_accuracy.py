"""Refit the ranges, validate every engine anew, and write what docs/accuracy.md is made of.

``python tools/refresh_accuracy.py`` after every change of an engine; ``--keep-ranges`` leaves the table
of ranges as it is. Writes ``src/lmsize/estimate/data/ranges.csv``, ``docs/accuracy.json`` (the figures
that tests compare today's with) and ``docs/accuracy.png``; then the page itself.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tools")]

import judges
from lmsize.estimate import ranges
from lmsize.measurements.table import SHIPPED, shipped
from lmsize.report.plot import plot_validation
from lmsize.validation.metrics import grouped, metrics
from lmsize.validation.result import Answer
from lmsize.validation.run import Validation, validated

FIGURES = ROOT / "docs" / "accuracy.json"
PICTURE = ROOT / "docs" / "accuracy.png"
TOYS = "megatron_ci_tiny_memory"
ENGINE = "analytic"
N_WORST = 12
LEAST_FOR_COVERAGE = 30
DIGITS = 4

Key = Callable[[Answer], str]


def figures(answers: Iterable[Answer]) -> dict[str, Any]:
    """The figures of some answers, rounded."""
    found = asdict(metrics(list(answers)))
    return {k: round(v, DIGITS) if isinstance(v, float) else v for k, v in found.items()}


def sets(answers: Iterable[Answer], *keys: str) -> list[dict[str, Any]]:
    """The figures by quantity and some keys, the largest set first."""
    names = ("quantity", *keys)

    def key(answer: Answer) -> str:
        return "\0".join([answer.quantity, *(answer.group.get(k, "") for k in keys)])

    return [
        {**dict(zip(names, name.split("\0"), strict=True)), **figures(members)}
        for name, members in grouped(answers, key).items()
    ]


def worst(answers: Iterable[Answer]) -> list[dict[str, Any]]:
    """The rows of grades A and B that are furthest off, of each quantity."""
    good = [a for a in answers if a.group["quality"] in ("A", "B") and a.relative_error is not None]
    rows = []
    for quantity in ("memory", "time", "inference_memory", "latency"):
        mine = (a for a in good if a.quantity == quantity)
        rows += sorted(mine, key=lambda a: -abs(a.relative_error or 0.0))[:N_WORST]
    return [
        {
            "id": a.id, "quantity": a.quantity, "model": a.group["model"], "source": a.group["source"],
            "measured": float(f"{a.measured:.4g}"), "predicted": float(f"{a.predicted:.4g}"),
            "error": round(a.relative_error or 0.0, DIGITS),
        }
        for a in rows
    ]  # fmt: skip


def skipped(done: Validation) -> dict[str, Any]:
    """How many rows of each grade were left out, and the commonest reasons."""
    grades = Counter(one.group.get("quality", "") for one in done.skipped)
    reasons = Counter(one.reason.split(":")[0].split("'")[0].strip() for one in done.skipped)
    return {"by_grade": dict(sorted(grades.items())), "reasons": dict(reasons.most_common(12))}


def collected() -> tuple[dict[str, Any], Validation]:
    """Everything that the page shows, and the validation that it comes from."""
    done = validated([shipped(n) for n in SHIPPED if n != TOYS], engine=ENGINE)
    toys = validated([shipped(TOYS)], engine=ENGINE)
    test = [a for a in done.answers if a.group.get("split") == "test"]
    covered = [
        row for row in (*sets(test), *sets(test, "stack", "method"))
        if row["n"] >= LEAST_FOR_COVERAGE and row["coverage90"] is not None
    ]  # fmt: skip
    return {
        "engine": ENGINE,
        "n_rows": done.n_rows,
        "n_modelled": done.n_rows - len({s.id for s in done.skipped}),
        "overall": sets(done.answers, "split"),
        "coverage": covered,
        "by_set": sets(done.answers, "source", "stack", "method"),
        "by_source_on_test": sets(test, "source"),
        "by_grade": sets(done.answers, "quality"),
        "by_interval": sets(
            (a for a in done.answers if a.quantity == "latency"), "stack", "metric"
        ),
        "toys": sets(toys.answers, "stack"),
        "judges": judges.measured(done.answers, toys.answers),
        "worst": worst(done.answers),
        "skipped": skipped(done),
    }, done


def main(arguments: list[str]) -> None:
    """Refit, validate, write."""
    if "--keep-ranges" not in arguments:
        import refit_ranges

        refit_ranges.write(refit_ranges.lines())
        ranges.spreads.cache_clear()
    found, done = collected()
    FIGURES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    plot_validation(done, str(PICTURE))
    import refresh_docs

    refresh_docs.main([])
    print(
        f"{found['n_modelled']:,} of {found['n_rows']:,} rows modelled; docs/accuracy.md is fresh"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
