"""The estimate as a person would want to read it: verdict first, then the evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lmsize.assumption import Assumption
from lmsize.estimate.answer import Estimate
from lmsize.quantity import format_bytes, format_count, format_duration, format_flops
from lmsize.report.bar import capacity_bar
from lmsize.report.console import new_console
from lmsize.report.tree import formula_notes, tree_view

if TYPE_CHECKING:
    from lmsize.formula import Term

DEFAULT_MARK = " (the default)"


def show(estimate: Estimate, *, explain: bool = False, console: Console | None = None) -> None:
    """Print the estimate to stdout."""
    console = console or new_console()
    console.print(Group(*sections(estimate, explain=explain)))


def sections(estimate: Estimate, *, explain: bool) -> Iterator[RenderableType]:
    """The report's parts in order."""
    fits = estimate.verdict.fits
    style = {True: "bold green", False: "bold red", None: "bold"}[fits]
    yield Text(estimate.verdict.sentence, style=style)
    bar = capacity_bar(estimate.memory)
    if bar is not None:
        yield Text()
        yield bar
    yield Text()
    yield components_table(estimate)
    facts = fact_table(estimate)
    if facts.row_count:
        yield Text()
        yield facts
    if explain:
        terms = list(_terms(estimate))
        for term in terms:
            yield Text()
            yield tree_view(term)
        yield Text("\nformulas", style="bold")
        yield formula_notes(terms)
    yield from _notes("warnings", [(w.code, w.text) for w in estimate.warnings], "yellow")
    yield from _notes("assumptions", grouped(estimate.assumptions), "dim")


def _terms(estimate: Estimate) -> Iterator[Term]:
    if estimate.memory.tree is not None:
        yield estimate.memory.tree
    yield from estimate.compute.trees
    yield from estimate.time.trees
    yield from estimate.serving.trees
    yield from estimate.cost.trees


def components_table(estimate: Estimate) -> Table:
    """Bytes by component, with the totals of allocator and driver."""
    memory = estimate.memory
    decimal = estimate.engine == "rules"
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for name, value in memory.components.items():
        size = "-" if value is None else format_bytes(value, decimal=decimal)
        table.add_row(name.replace("_", " "), size)
    rows = [
        (f"live at {(memory.moment or 'the peak').replace('_', ' ')}", memory.peak_allocated_bytes),
        ("held by the allocator", memory.peak_reserved_bytes),
        ("seen by the driver", memory.peak_device_bytes),
    ]
    for name, value in rows:
        if value is not None:
            table.add_row(Text(name, "bold"), Text(format_bytes(value, decimal=decimal), "bold"))
    if memory.low_bytes is not None and memory.low_bytes != memory.high_bytes:
        ends = (
            format_bytes(v or 0, decimal=decimal) for v in (memory.low_bytes, memory.high_bytes)
        )
        table.add_row("range" if decimal else "90 % range", " to ".join(ends))
    return table


def fact_table(estimate: Estimate) -> Table:
    """Everything else that is known, a line each."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in facts(estimate):
        table.add_row(name, value)
    return table


def facts(estimate: Estimate) -> Iterator[tuple[str, str]]:
    """(name, value) of parameters, arithmetic, time, money, serving and limits."""
    counts, work, time = estimate.parameters, estimate.compute, estimate.time
    if counts.total is not None:
        trained = f", {format_count(counts.trainable)} trained" if counts.trainable else ""
        active = counts.active_per_token
        routed = (
            f", {format_count(active)} active a token" if active and active != counts.total else ""
        )
        yield "parameters", f"{format_count(counts.total)}{routed}{trained}"
    if work.model_flops_per_step is not None:
        label = "FLOPs a step" if estimate.task == "train" else "FLOPs of a prompt"
        executed = work.hardware_flops_per_step
        extra = (
            f" ({format_flops(executed)} executed)"
            if executed not in (None, work.model_flops_per_step)
            else ""
        )
        yield label, format_flops(work.model_flops_per_step) + extra
    if time.step_s is not None and estimate.task == "train":
        speed = f", {time.tokens_per_s_per_accelerator:,.0f} tokens/s an accelerator"
        utilised = f" (MFU {time.mfu:.0%})" if time.mfu is not None else ""
        yield "a step", format_duration(time.step_s) + speed + utilised
        if time.low_s is not None and time.high_s is not None:
            yield "90 % range", f"{format_duration(time.low_s)} to {format_duration(time.high_s)}"
    if time.total_s is not None:
        hours = time.accelerator_hours or 0
        yield "the run", f"{format_duration(time.total_s)}, {hours:,.1f} accelerator-hours"
    yield from _served(estimate)
    yield from _money(estimate)
    yield from _counts(estimate)


def _served(estimate: Estimate) -> Iterator[tuple[str, str]]:
    serving = estimate.serving
    if serving.kv_cache_bytes is not None:
        each = f" ({format_bytes(serving.kv_cache_bytes_per_token or 0)} a token and sequence)"
        yield "cache", format_bytes(serving.kv_cache_bytes) + each
    if serving.prefill_s is not None:
        yield "first token after", format_duration(serving.prefill_s)
    if serving.decode_s_per_token is not None:
        rate = (
            f", {serving.tokens_per_s:,.0f} tokens/s over all sequences"
            if serving.tokens_per_s
            else ""
        )
        yield "a token every", format_duration(serving.decode_s_per_token) + rate


def _money(estimate: Estimate) -> Iterator[tuple[str, str]]:
    cost = estimate.cost
    what = "" if estimate.task == "train" else " a million output tokens"
    if cost.usd is not None:
        yield "cost", f"{cost.usd:,.2f} USD{what} (price of {cost.usd_as_of})"
    if cost.energy_kwh is not None:
        yield "energy", f"{cost.energy_kwh:,.1f} kWh, {cost.co2e_kg or 0:,.1f} kg CO2e{what}"


def _counts(estimate: Estimate) -> Iterator[tuple[str, str]]:
    found, limits, serving = estimate.accelerators, estimate.limits, estimate.serving
    if found.min_to_fit is not None:
        yield "accelerators to fit", f"{found.min_to_fit:,}"
    if found.needed_for_deadline is not None:
        n = found.needed_for_deadline
        yield "for the deadline", f"{n:,} accelerator{'' if n == 1 else 's'}"
    if limits.max_micro_batch is not None:
        yield "largest micro-batch", f"{limits.max_micro_batch:,}"
    if limits.max_seq_len is not None:
        yield "longest sequence", f"{limits.max_seq_len:,} tokens"
    if serving.max_concurrency is not None:
        yield "most sequences at once", f"{serving.max_concurrency:,}"
    if serving.max_context_tokens is not None:
        yield "longest context", f"{serving.max_context_tokens:,} tokens"


def grouped(stated: Iterable[Assumption]) -> list[tuple[str, str]]:
    """Assumptions as (code, text), the defaults of options together in one line."""
    defaults, others = [], []
    for one in dict.fromkeys(stated):
        if one.code.startswith("default-") and one.text.endswith(DEFAULT_MARK):
            defaults.append(one.text.removesuffix(DEFAULT_MARK))
        else:
            others.append((one.code, one.text))
    return [("defaults", ", ".join(defaults)), *others] if defaults else others


def _notes(title: str, notes: list[tuple[str, str]], style: str) -> Iterator[RenderableType]:
    if not notes:
        return
    yield Text()
    yield Text(title, style="bold")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style=style)
    table.add_column(style=style)
    for code, text in notes:
        table.add_row(code, text)
    yield table
