"""Several estimates side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.table import Table

from lmsize.estimate.answer import Estimate
from lmsize.quantity import format_bytes, format_count, format_duration
from lmsize.report.console import new_console, widen
from lmsize.report.text import grouped


def show_comparison(rows: list[Estimate], *, by: str, console: Console | None = None) -> None:
    """Print a table with a column an estimate, and what is assumed in all of them."""
    console = console or new_console()
    decimal = rows[0].engine == "rules"
    table = Table(box=None, pad_edge=False)
    table.add_column()
    for row in rows:
        table.add_column(_heading(row, by), justify="right", no_wrap=True)
    console.print(f"{rows[0].inputs['model']}\n", style="bold")
    names = list(dict.fromkeys(name for row in rows for name in row.memory.components))
    for name in names:
        sizes = (row.memory.components.get(name) for row in rows)
        shown = [format_bytes(s, decimal=decimal) if s is not None else "-" for s in sizes]
        if any(text != "-" for text in shown):
            table.add_row(name.replace("_", " "), *shown)
    table.add_section()
    for label, cells in _summary(rows, decimal=decimal):
        table.add_row(label, *cells)
    widen(console, table)
    console.print(table)
    _notes(rows, console)


def _heading(row: Estimate, by: str) -> str:
    if by == "method":
        quant = row.inputs.get("quant")
        return f"{row.inputs['method']} ({quant or row.inputs['precision']})"
    return f"{row.inputs.get('quant') or row.inputs['precision']}{'' if row.task == 'train' else ', inference'}"


def _summary(rows: list[Estimate], *, decimal: bool) -> list[tuple[str, list[str]]]:
    def size(row: Estimate) -> str:
        memory = row.memory
        if memory.peak_allocated_bytes is None:
            return "-"
        if decimal and memory.low_bytes is not None and memory.low_bytes != memory.high_bytes:
            ends = (
                format_bytes(v or 0, decimal=decimal) for v in (memory.low_bytes, memory.high_bytes)
            )
            return "\n".join(ends)
        return format_bytes(
            memory.peak_device_bytes or memory.peak_allocated_bytes or 0, decimal=decimal
        )

    lines = [
        ("needs", [size(row) for row in rows]),
        ("reduction", [_times(row.memory.reduction_factor) for row in rows]),
        ("trained", [format_count(row.parameters.trainable or 0) for row in rows]),
    ]
    if rows[0].memory.capacity_bytes is not None:
        words = {True: "yes", False: "no", None: "-"}
        lines.append(("fits", [words[row.verdict.fits] for row in rows]))
    optional: list[tuple[str, Sequence[float | None], Callable[[float], str]]] = [
        ("accelerators to fit", [r.accelerators.min_to_fit for r in rows], lambda v: f"{v:,}"),
        ("largest micro-batch", [r.limits.max_micro_batch for r in rows], lambda v: f"{v:,}"),
        ("a step", [r.time.step_s for r in rows], format_duration),
        ("the run", [r.time.total_s for r in rows], format_duration),
        ("cost", [r.cost.usd for r in rows], lambda v: f"{v:,.0f} USD"),
    ]
    for label, values, shown in optional:
        if any(value is not None for value in values):
            lines.append((label, ["-" if v is None else shown(v) for v in values]))
    return lines


def _times(factor: float | None) -> str:
    return "-" if factor is None else f"{factor:.2f}x"


def _notes(rows: list[Estimate], console: Console) -> None:
    stated = grouped(a for row in rows for a in row.assumptions)
    cautions = [(row, caution) for row in rows for caution in row.warnings]
    for row, caution in cautions:
        if caution.code == "missing-extra":
            console.print(f"\n{row.inputs['method']}: {caution.text}", style="bold")
    others = {c.text: c.code for _, c in cautions if c.code != "missing-extra"}
    if others:
        _table(console, "warnings", [(code, text) for text, code in others.items()], "yellow")
    _table(console, "assumptions", stated, "dim")


def _table(console: Console, title: str, notes: Iterable[tuple[str, str]], style: str) -> None:
    console.print(f"\n{title}", style="bold")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style=style)
    table.add_column(style=style)
    for code, text in notes:
        table.add_row(code, text)
    console.print(table)
