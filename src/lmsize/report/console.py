"""The console that reports are printed on."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

NARROWEST = 60  # a narrower terminal breaks lines itself: no figure may be cut
WIDEST = 1000


def new_console() -> Console:
    """A console that prints text as it stands: names may look like markup or emoji."""
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = max(console.width, NARROWEST)
    return console


def widen(console: Console, table: Table) -> None:
    """Make room for every column of a table, so that no cell is cut."""
    options = console.options.update(width=WIDEST)
    console.width = max(console.width, console.measure(table, options=options).maximum)
