"""The text report of a calibration: what was found, what helped, where it is kept."""

from __future__ import annotations

from rich.table import Table

from lmsize.report.console import new_console, widen
from lmsize.report.validation import percent, print_skipped
from lmsize.validation.calibrating import LEAST_ROWS, Calibrated


def show_calibrated(done: Calibrated) -> None:
    """Print a line for each stack and accelerator, and where the kept ones went."""
    console = new_console()
    if not done.found:
        console.print(f"no stack and accelerator has {LEAST_ROWS} rows that could be modelled")
    else:
        table = Table(box=None, pad_edge=False)
        for head in ("quantity", "stack", "accelerator"):
            table.add_column(head)
        for head in ("rows", "factor", "error without", "error with"):
            table.add_column(head, justify="right")
        table.add_column("")
        for one, kept in done.found:
            table.add_row(
                one.quantity, one.stack, one.accelerator or "-", f"{one.n_rows:,}", f"{one.factor:.3f}",
                percent(one.error_before), percent(one.error_after),
                "kept" if kept else "left out: it would not help",
            )  # fmt: skip
        widen(console, table)
        console.print(table)
        console.print("\nerrors are the medians of rows that were left out in turn", style="dim")
    if done.path is not None:
        console.print(f"written to {done.path}: estimates of these apply and mention it")
    print_skipped(console, done.skipped)
