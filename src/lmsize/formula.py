"""Formulas and the tree of terms that an answer is made of.

A formula is a pure function with keyword-only arguments, registered with its source by
:func:`formula`. Its name ends in its unit. The text that explains it is derived from its body,
so it cannot drift. Calling it gives a number (or an array); ``.term(label, ...)`` gives a leaf of
the tree in the report.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any, Literal, TypeVar

from lmsize.numbers import everywhere, larger
from lmsize.source import Source

Combine = Literal["leaf", "sum", "max"]
Thing = TypeVar("Thing")

# Longest ending first: "_bytes_per_s" before "_s".
UNITS = {
    "_bytes_per_s": "bytes/s", "_flops_per_s": "FLOP/s", "_g_per_kwh": "g/kWh",
    "_usd_per_h": "USD/h",
    "_per_s": "1/s", "_bytes": "bytes", "_flops": "FLOP", "_usd": "USD", "_kwh": "kWh",
    "_kg": "kg", "_frac": "1", "_w": "W", "_j": "J", "_h": "h", "_s": "s",
}  # fmt: skip


def unit_of(name: str) -> str:
    """The unit that a name carries: its ending, or a plain count ("1")."""
    return next((unit for ending, unit in UNITS.items() if name.endswith(ending)), "1")


class Formula:
    """A registered function: callable as it is, and able to explain itself."""

    def __init__(self, function: Callable[..., Any], source: Source) -> None:
        self.function, self.source = function, source
        self.name: str = function.__name__
        self.unit = unit_of(self.name)
        self.__doc__ = function.__doc__

    def __call__(self, **inputs: Any) -> Any:
        return self.function(**inputs)

    def term(self, label: str, **inputs: Any) -> Term:
        """A leaf with this formula's value for `inputs`."""
        return Term(label, self.function(**inputs), self.unit, formula=self, inputs=inputs)

    @cached_property
    def text(self) -> str:
        """The body as text: ``n_params * bytes_per_param``; helper variables come first."""
        tree = ast.parse(textwrap.dedent(inspect.getsource(self.function)))
        function = tree.body[0]
        assert isinstance(function, ast.FunctionDef)
        lines = []
        for statement in function.body:
            if isinstance(statement, ast.Return) and statement.value is not None:
                lines.append(ast.unparse(statement.value))
            elif isinstance(statement, ast.Assign):
                lines.append(ast.unparse(statement))
        return "; ".join(lines)

    @cached_property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.__doc__ or "").strip().partition("\n")[0]


_registry: dict[str, Formula] = {}


def formula(*, source: Source) -> Callable[[Callable[..., Any]], Formula]:
    """Register a function as a formula.

    Args:
        source: the paper's section or the code that it states.
    """

    def register(function: Callable[..., Any]) -> Formula:
        made = Formula(function, source)
        if made.name in _registry:
            raise ValueError(f"two formulas are called {made.name}")
        _registry[made.name] = made
        return made

    return register


def registry() -> Mapping[str, Formula]:
    """All formulas imported so far, by name."""
    return _registry


@dataclass(frozen=True, slots=True)
class Term:
    """A node of the tree: a leaf with a formula, or the sum or maximum of its children.

    Attributes:
        value: a number in base units; None if this part is not known or left out.
    """

    label: str
    value: Any
    unit: str
    combine: Combine = "leaf"
    formula: Formula | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    children: tuple[Term, ...] = ()
    source: Source | None = None

    def walk(self) -> Iterator[Term]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def child(self, label: str) -> Term | None:
        """The direct child of that label."""
        return next((child for child in self.children if child.label == label), None)

    @property
    def winner(self) -> Term:
        """The child that decides a maximum."""
        return max(self.children, key=lambda child: child.value)

    def as_dict(self) -> dict[str, Any]:
        """The node as the JSON contract has it."""
        source = self.source or (self.formula.source if self.formula else None)
        return {
            "label": self.label,
            "value": self.value,
            "unit": self.unit,
            "combine": self.combine,
            "formula": f"{self.formula.name} = {self.formula.text}" if self.formula else None,
            "source": str(source) if source else None,
            "inputs": dict(self.inputs),
            "children": [child.as_dict() for child in self.children],
        }


def total(label: str, children: Sequence[Term], *, unit: str = "bytes") -> Term:
    """The sum of the children (0 when there are none)."""
    return Term(label, sum([c.value for c in children]), unit, "sum", children=tuple(children))


def maximum(label: str, children: Sequence[Term]) -> Term:
    """The largest of the children. Raises `ValueError` where there is none."""
    if not children:
        raise ValueError(f"max of nothing: {label!r} needs at least one term to be the largest of")
    value = reduce(larger, (child.value for child in children))
    return Term(label, value, children[0].unit, "max", children=tuple(children))


def highest(label: str, terms: Sequence[Term]) -> Term:
    """The largest of terms itself; over candidates that differ in which it is, their maximum."""
    left = undominated(terms, key=lambda term: term.value)
    return left[0] if len(left) == 1 else maximum(label, left)


def undominated(things: Iterable[Thing], *, key: Callable[[Thing], Any]) -> list[Thing]:
    """The things that are the largest for some candidate; of equal ones the first.

    For plain numbers that is one.
    """
    left: list[tuple[Thing, Any]] = []
    for thing in things:
        value = key(thing)
        if any(everywhere(value <= other) for _, other in left):
            continue
        left = [(other, less) for other, less in left if not everywhere(less < value)]
        left.append((thing, value))
    return [thing for thing, _ in left]


def given(label: str, value: Any, unit: str, *, source: Source | None = None) -> Term:
    """A leaf that was given, not computed."""
    return Term(label, value, unit, source=source)
