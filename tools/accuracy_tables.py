"""The tables of docs/accuracy.md, from the figures that refresh_accuracy.py collected."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lmsize.quantity import format_bytes, format_duration
from lmsize.report.validation import TITLES, percent

FIGURES = Path(__file__).parent.parent / "docs" / "accuracy.json"
ERRORS = ("median_abs", "mean_abs", "p90_abs")
HEADS = "rows | median | mean | 90th pct | bias | in 90 % range | range width"
AIMED = {"median": "median", "p90": "90th", "p99": "99th", "worst": "worst", "right": "right in"}
PROMISED = (0.85, 0.95)
# Mean absolute errors that others were run at on the rows of one source, without calibration.
PEERS_VTRAIN = (
    ("vTrain (profiles kernels on a GPU; its authors' figure)", 0.0837), ("SimuMax (every 4th row)", 0.307),
    ("calculon", 0.389), ("constant MFU and pipeline bubble", 0.532), ("llm-analysis", 0.573),
    ("constant MFU", 0.608),
)  # fmt: skip
VTRAIN = "https://github.com/VIA-Research/vTrain"


@cache
def collected() -> dict[str, Any]:
    """The committed figures."""
    found: dict[str, Any] = json.loads(FIGURES.read_text("utf-8"))
    return found


def _short(source: str) -> str:
    return source.removeprefix("https://").removeprefix("github.com/").replace("|", "/")


def _lines(head: str, rows: Sequence[Sequence[str]], *, left: int) -> Iterator[str]:
    n = head.count("|") + 1
    yield f"| {head} |"
    yield "|" + "---|" * left + "--:|" * (n - left)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _figures(row: dict[str, Any]) -> tuple[str, ...]:
    errors = (percent(row[k]) for k in ERRORS)
    bias = percent(row["bias"], signed=True)
    return f"{row['n']:,}", *errors, bias, percent(row["coverage90"]), percent(row["width90"])


def overall() -> list[str]:
    """By quantity and split, and by quantity and grade."""
    rows = [
        (TITLES[r["quantity"]], r["split"] or "-", *_figures(r))
        for r in collected()["overall"] if r["quantity"] != "fits"
    ]  # fmt: skip
    rows += [
        (TITLES[r["quantity"]], f"grade {r['quality']}", *_figures(r))
        for r in collected()["by_grade"] if r["quantity"] != "fits"
    ]  # fmt: skip
    return list(_lines(f"quantity | rows of | {HEADS}", sorted(rows), left=2))


def coverage() -> list[str]:
    """Coverage on test rows, overall and of every group of at least 30."""
    rows = []
    for r in collected()["coverage"]:
        group = f"{r['stack']} {r['method']}" if "stack" in r else "all"
        kept = PROMISED[0] <= r["coverage90"] <= PROMISED[1]
        side = "" if kept else "too wide" if r["coverage90"] > PROMISED[1] else "too narrow"
        rows.append((TITLES[r["quantity"]], group, f"{r['n']:,}", percent(r["coverage90"]),
                     percent(r["width90"]), side))  # fmt: skip
    return list(
        _lines("quantity | group | test rows | in 90 % range | range width | ", rows, left=2)
    )


def _by_set(quantity: str) -> list[str]:
    rows = [
        (_short(r["source"]), r["stack"], r["method"], *_figures(r))
        for r in collected()["by_set"] if r["quantity"] == quantity
    ]  # fmt: skip
    return list(_lines(f"source | stack | method | {HEADS}", rows, left=3))


def intervals() -> list[str]:
    """Latencies by engine and by what was timed."""
    rows = [(r["stack"], r["metric"], *_figures(r)) for r in collected()["by_interval"]]
    return list(_lines(f"engine | of | {HEADS}", sorted(rows), left=2))


def fits() -> list[str]:
    """Verdicts that were right."""
    rows = [
        (_short(r["source"]), r["stack"], r["method"], f"{r['n']:,}", percent(r["right"]))
        for r in collected()["by_set"] if r["quantity"] == "fits"
    ]  # fmt: skip
    return list(_lines("source | stack | method | verdicts | right", rows, left=3))


def toys() -> list[str]:
    """Megatron-LM's own tests on toy layouts."""
    rows = [(r["stack"], *_figures(r)) for r in collected()["toys"]]
    return list(_lines(f"stack | {HEADS}", rows, left=1))


def _small(value: float | None) -> str:
    """A fraction in percent, with two digits however small."""
    return percent(value) if value is None or value >= 0.01 else f"{100 * value:.2g}%"


def judges() -> list[str]:
    """Every set that memory is judged by, its aim, and whether it is met."""
    rows = []
    for r in collected()["judges"]:
        aims = ", ".join(f"{AIMED[k]} {percent(v)}" for k, v in r["aims"].items())
        shown = [_small(r.get(k)) for k in ("median", "p90", "p99", "worst")]
        if "right" in r:
            shown = [f"{percent(r['right'])} right", *("-" * 3)]
        test = percent(r.get("median_of_test_rows"))
        rows.append((r["name"], aims, f"{r['n']:,}", *shown, test, "yes" if r["met"] else "no"))
    head = "set | aim | n | median | 90th pct | 99th pct | worst | median of test rows | met"
    return list(_lines(head, rows, left=2))


def worst() -> list[str]:
    """The rows that are furthest off."""
    rows = []
    for r in collected()["worst"]:
        shown = format_bytes if "memory" in r["quantity"] else format_duration
        rows.append((r["id"], r["model"].replace("|", "/"), _short(r["source"]), shown(r["measured"]),
                     shown(r["predicted"]), percent(r["error"], signed=True)))  # fmt: skip
    return list(_lines("row | model | source | measured | predicted | error", rows, left=3))


def skipped() -> list[str]:
    """Why rows were left out."""
    rows = [(reason, f"{n:,}") for reason, n in collected()["skipped"]["reasons"].items()]
    return list(_lines("reason | rows", rows, left=1))


def peers() -> list[str]:
    """Others on the rows of vTrain."""
    ours = next(
        r for r in collected()["by_source_on_test"]
        if r["quantity"] == "time" and r["source"] == VTRAIN
    )  # fmt: skip
    rows = [(f"lmsize, on the {ours['n']:,} test rows", percent(ours["mean_abs"]))]
    rows += [(name, percent(error)) for name, error in PEERS_VTRAIN]
    return list(_lines("predictor | mean absolute error", rows, left=1))


TABLES: dict[str, Callable[[], list[str]]] = {
    "accuracy-judges": judges,
    "accuracy-overall": overall,
    "accuracy-coverage": coverage,
    "accuracy-memory": lambda: _by_set("memory"),
    "accuracy-time": lambda: _by_set("time"),
    "accuracy-runs": lambda: _by_set("run_s"),
    "accuracy-serving-memory": lambda: _by_set("inference_memory"),
    "accuracy-intervals": intervals,
    "accuracy-latency": lambda: _by_set("latency"),
    "accuracy-fits": fits,
    "accuracy-toys": toys,
    "accuracy-worst": worst,
    "accuracy-skipped": skipped,
    "accuracy-peers": peers,
}
