"""A tree of terms, opened down to formula, inputs and source."""

from __future__ import annotations

from typing import Any

from rich.text import Text
from rich.tree import Tree

from lmsize.formula import Term
from lmsize.quantity import format_bytes, format_duration, format_flops

PRINTED = {"bytes": format_bytes, "FLOP": format_flops, "s": format_duration}


def tree_view(term: Term) -> Tree:
    """The tree under a term, ready to print."""
    tree = Tree(_headline(term))
    _grow(tree, term)
    return tree


def _grow(tree: Tree, term: Term) -> None:
    for child in term.children:
        _grow(tree.add(_headline(child)), child)
    if term.formula is not None:
        line = Text(f"{term.formula.name} = {term.formula.text}", style="cyan")
        tree.add(line).add(Text(", ".join(f"{k} = {_plain(v)}" for k, v in term.inputs.items()), "dim"))
        tree.add(Text(str(term.formula.source), "dim"))


def _headline(term: Term) -> Text:
    text = Text(term.label, "bold")
    text.append(f"  {shown(term.value, term.unit)}", "")
    if term.combine != "leaf":
        text.append(f"  ({term.combine} of {len(term.children)})", "dim")
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
