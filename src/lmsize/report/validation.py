"""The text report of a validation: how far off, by source, stack and method; the worst rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from lmsize.quantity import format_bytes, format_duration
from lmsize.report.console import new_console, widen
from lmsize.validation.metrics import Metrics, grouped, metrics
from lmsize.validation.result import QUANTITIES, Answer, Skipped
from lmsize.validation.run import Validation

TITLES = {
    "memory": "memory", "time": "time a step", "run_s": "time of a run", "fits": "fits or not",
    "inference_memory": "memory of serving", "latency": "latency of serving",
}  # fmt: skip
MOST_REASONS = 12
MOST_CHARS = 90


def show_validation(done: Validation, *, n_worst: int = 10, console: Console | None = None) -> None:
    """Print the figures of every quantity, the worst rows, and why rows were skipped."""
    console = console or new_console()
    n_skipped = len({one.id for one in done.skipped})
    names = ", ".join(_short(name) for name in done.tables)
    console.print(
        f"{done.n_rows:,} rows of {names}: {done.n_rows - n_skipped:,} modelled by the "
        f"{done.engine} engine, {n_skipped:,} skipped"
    )
    for quantity in QUANTITIES:
        answers = [a for a in done.answers if a.quantity == quantity]
        if answers:
            console.print(f"\n{TITLES[quantity]}", style="bold")
            _print(console, _figures(answers))
            if quantity != "fits":
                _print_worst(console, answers, n_worst)
            else:
                _print_wrong(console, answers, n_worst)
    print_skipped(console, done.skipped)


def _print(console: Console, table: Table) -> None:
    widen(console, table)
    console.print(table)


def _figures(answers: list[Answer]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("source")
    table.add_column("stack")
    table.add_column("method")
    is_fit = answers[0].right is not None
    heads = ("rows", "right") if is_fit else (
        "rows", "median", "mean", "90th pct", "bias", "in 90 % range", "range width")  # fmt: skip
    for head in heads:
        table.add_column(head, justify="right")
    keys: tuple[Callable[[Answer], str], ...] = (
        lambda a: a.group["source"], lambda a: a.group["stack"], lambda a: a.group["method"]
    )  # fmt: skip
    for members in grouped(answers, lambda a: "\0".join(key(a) for key in keys)).values():
        first = members[0]
        table.add_row(
            _short(first.group["source"]), first.group["stack"], first.group["method"],
            *_cells(metrics(members), is_fit=is_fit),
        )  # fmt: skip
    table.add_section()
    table.add_row("all", "", "", *_cells(metrics(answers), is_fit=is_fit), style="bold")
    return table


def _cells(found: Metrics, *, is_fit: bool) -> tuple[str, ...]:
    if is_fit:
        return f"{found.n:,}", percent(found.right)
    return (
        f"{found.n:,}", percent(found.median_abs), percent(found.mean_abs), percent(found.p90_abs),
        percent(found.bias, signed=True), percent(found.coverage90), percent(found.width90),
    )  # fmt: skip


def percent(value: float | None, *, signed: bool = False) -> str:
    """A fraction in percent; a dash where there is none."""
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 0.1 else 1
    return f"{value:{'+' if signed else ''}.{digits}%}"


def _short(name: str) -> str:
    """A source's or a file's name without what all have in common, cut to a line."""
    text = name.removeprefix("https://").removeprefix("github.com/")
    return text if len(text) <= MOST_CHARS else f"{text[: MOST_CHARS - 1]}…"


def amount(answer: Answer, value: float) -> str:
    """A measured or predicted value in its unit."""
    return format_bytes(value) if "memory" in answer.quantity else format_duration(value)


def _print_worst(console: Console, answers: list[Answer], n_worst: int) -> None:
    ranked = sorted(answers, key=lambda a: -abs(a.relative_error or 0.0))[:n_worst]
    if not ranked:
        return
    table = Table(box=None, pad_edge=False, title="worst rows", title_justify="left")
    for head in ("row", "model"):
        table.add_column(head)
    for head in ("measured", "predicted", "error"):
        table.add_column(head, justify="right")
    for answer in ranked:
        table.add_row(
            _short(answer.id), _short(answer.group["model"]), amount(answer, answer.measured),
            amount(answer, answer.predicted), percent(answer.relative_error, signed=True),
        )  # fmt: skip
    console.print()
    _print(console, table)


def _print_wrong(console: Console, answers: list[Answer], n_worst: int) -> None:
    wrong = [a for a in answers if not a.right][:n_worst]
    for answer in wrong:
        said = "it fits" if answer.measured else "it does not fit"
        console.print(f"  {_short(answer.id)}: {said}; probability given {answer.predicted:.0%}")


def print_skipped(console: Console, skipped: Sequence[Skipped]) -> None:
    """Print how many rows were skipped, and the commonest reasons."""
    if not skipped:
        return
    console.print(f"\nskipped: {len(skipped):,}", style="bold")
    reasons = Counter(_short(one.reason) for one in skipped).most_common()
    for reason, n in reasons[:MOST_REASONS]:
        console.print(f"  {n:,} x {reason}", style="dim")
    if len(reasons) > MOST_REASONS:
        console.print(f"  and {len(reasons) - MOST_REASONS:,} other reasons (--json lists them)",
                      style="dim")  # fmt: skip
