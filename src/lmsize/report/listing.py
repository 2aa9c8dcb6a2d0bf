"""A plain table of rows."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from lmsize.report.console import new_console, widen


def show_listing(columns: Sequence[str], rows: Sequence[Sequence[str]], *, nothing: str) -> None:
    """Print rows under column names, none wrapped or cut; `nothing` when there are none."""
    console = new_console()
    if not rows:
        console.print(nothing)
        return
    table = Table(box=None, pad_edge=False)
    for at, name in enumerate(columns):
        numeric = at > 0 and all(_starts_numeric(row[at]) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    widen(console, table)
    console.print(table)


def _starts_numeric(text: str) -> bool:
    return not text or text[0].isdigit()
