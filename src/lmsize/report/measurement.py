"""What a measured step took, for a person."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lmsize.measuring.case import Case, summary
from lmsize.measuring.outcome import OOM, Measured
from lmsize.quantity import format_bytes, format_duration
from lmsize.report.console import new_console, widen
from lmsize.workload.training import batch_of

SHOWN = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "cuda",
    "rocm",
    "driver",
    "optimizer_impl",
    "threads",
)


def show_measurement(case: Case, found: Measured, *, console: Console | None = None) -> None:
    """Print peaks, time and circumstances of a measured case."""
    console = console or new_console()
    console.print(f"{summary(case)}\n{found.device_name}\n", style="bold")
    if found.outcome == OOM:
        console.print(f"Out of memory. {found.reason}")
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True)
    for peak in found.peaks:
        table.add_row(f"peak {peak.kind}", format_bytes(peak.n_bytes), peak.definition)
    step_s = found.median_step_s
    if step_s is not None:
        spread = f"{format_duration(min(found.step_s))} to {format_duration(max(found.step_s))}"
        n = len(found.step_s)
        table.add_row("step", format_duration(step_s), f"median of {n} ({spread})" if n > 1 else "")
        tokens = batch_of(case.spec, dp=case.n_processes).tokens
        over = f"over {case.n_processes} ranks" if case.n_processes > 1 else ""
        table.add_row("tokens", f"{tokens / step_s:,.0f}/s", over)
    widen(console, table)
    console.print(table)
    facts = [f"{name} {found.facts[name]}" for name in SHOWN if name in found.facts]
    console.print(f"\n{', '.join(facts)}")
