"""A tree of terms, opened down to formula, inputs and source."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from lmsize.formula import Term
from lmsize.quantity import format_bytes, format_duration, format_flops

PRINTED: dict[str, Callable[[float], str]] = {
    "bytes": format_bytes,
    "FLOP": format_flops,
    "s": format_duration,
}


def tree_view(term: Term) -> Tree:
    """The tree under a term, ready to print; leaves name their formula and inputs."""
    tree = Tree(_headline(term))
    _grow(tree, term)
    return tree


def formula_notes(terms: Iterable[Term]) -> Table:
    """Each formula that the terms use, once: its text and its source."""
    used = {t.formula.name: t.formula for root in terms for t in root.walk() if t.formula}
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="cyan")
    table.add_column()
    for formula in used.values():
        table.add_row(formula.name, formula.text)
        table.add_row("", Text(str(formula.source), "dim"))
    return table


def _grow(tree: Tree, term: Term) -> None:
    for child in term.children:
        _grow(tree.add(_headline(child)), child)


def _headline(term: Term) -> Text:
    text = Text(term.label, "bold")
    text.append(f"  {shown(term.value, term.unit)}", "")
    if term.combine != "leaf":
        text.append(f"  ({term.combine} of {len(term.children)})", "dim")
    if term.formula is not None:
        inputs = ", ".join(f"{name}={_plain(value)}" for name, value in term.inputs.items())
        text.append("  ")
        text.append(f"{term.formula.name}({inputs})", "cyan")
    return text


def shown(value: Any, unit: str) -> str:
    """A value with its unit, as a person would write it."""
    if value is None:
        return "-"
    if unit in PRINTED:
        return PRINTED[unit](value)
    return _plain(value) if unit == "1" else f"{_plain(value)} {unit}"


def _plain(value: Any) -> str:
    if isinstance(value, float) and value != int(value):
        return f"{value:,.4g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)
