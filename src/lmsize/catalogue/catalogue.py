"""The catalogue: look-ups over the package's own tables and a user's rows on top of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from lmsize.assumption import Assumption
from lmsize.catalogue import architectures, tables
from lmsize.catalogue.names import find_accelerator, listed, plain
from lmsize.catalogue.records import (
    Accelerator,
    CarbonRow,
    MfuRow,
    ModelEntry,
    ModelSummary,
    Node,
    Overhead,
    Price,
)
from lmsize.catalogue.rules import Optimizer, Precision, Recipe, Stack, StackScope
from lmsize.catalogue.typical import mfu_row, node_price
from lmsize.errors import InputError, nearest_names

Row = TypeVar("Row", Optimizer, Precision)

WORLD = "WORLD"


@dataclass(frozen=True)
class UserRows:
    """What a user's file adds or overrides; the same keys as the package's own tables."""

    accelerators: Mapping[str, Accelerator] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()
    optimizers: Mapping[str, Optimizer] = field(default_factory=dict)
    precisions: Mapping[str, Precision] = field(default_factory=dict)
    carbon: Mapping[str, CarbonRow] = field(default_factory=dict)
    models: Mapping[str, ModelEntry] = field(default_factory=dict)


class Catalogue:
    """Every table, read when first asked for.

    Args:
        own: a user's rows; they add to the package's or take the place of those so named.
    """

    def __init__(self, own: UserRows | None = None) -> None:
        self.own = own or UserRows()
        self._precisions_met: dict[str, Precision] = {}  # looked up a dozen times an estimate

    # -- tables ------------------------------------------------------------------------------

    @cached_property
    def _accelerators(self) -> Mapping[str, Accelerator]:
        return {**tables.accelerators(), **self.own.accelerators}

    @cached_property
    def _nodes(self) -> tuple[Node, ...]:
        own = {(n.provider, n.instance) for n in self.own.nodes}
        rest = (n for n in tables.nodes() if (n.provider, n.instance) not in own)
        return (*self.own.nodes, *rest)

    @cached_property
    def _models(self) -> Mapping[str, ModelSummary]:
        own = {name: summary(row) for name, row in self.own.models.items()}
        return {**architectures.index(), **own}

    @cached_property
    def _model_words(self) -> Mapping[str, ModelSummary]:
        return architectures.by_words(self._models.values())

    @cached_property
    def _precisions(self) -> Mapping[str, Precision]:
        return {**tables.precisions(), **self.own.precisions}

    @cached_property
    def _carbon(self) -> Mapping[str, CarbonRow]:
        return {**tables.carbon(), **self.own.carbon}

    # -- accelerators ------------------------------------------------------------------------

    def accelerator(self, name: str) -> tuple[Accelerator, tuple[Assumption, ...]]:
        """The accelerator that a name means, and what was taken for granted.

        Raises:
            InputError: for an unknown name, with near ones.
        """
        row, assumed = find_accelerator(name, self._accelerators)
        if row.capacity_is_assumed:
            text = f"capacity of {row.name}: {row.capacity_source}"
            assumed = (*assumed, Assumption("accelerator-capacity", text))
        return row, assumed

    def accelerators(self, pattern: str = "") -> list[Accelerator]:
        """Accelerators whose name, alias, family or vendor holds a pattern (or fits a glob)."""
        words = {n: (*r.aliases, r.family, r.vendor) for n, r in self._accelerators.items()}
        return listed(pattern, self._accelerators, words)

    def nodes_with(self, accelerator: Accelerator) -> tuple[Node, ...]:
        """The nodes that hold an accelerator, a user's own first."""
        return tuple(n for n in self._nodes if n.accelerator == accelerator.name)

    def price(self, accelerator: Accelerator) -> Price | None:
        """The on-demand price of an accelerator-hour; None if no row has one."""
        own = [n for n in self.own.nodes if n.accelerator == accelerator.name]
        return node_price(own) or node_price(self.nodes_with(accelerator))

    # -- training ----------------------------------------------------------------------------

    def optimizer(self, name: str) -> Optimizer:
        """An optimizer by its name or by what transformers, torch and others call it."""
        own = match(name, self.own.optimizers.values())
        row = own or tables.optimizer(plain(name))
        if row is None:
            near = nearest_names(name, [*tables.optimizer_names(), *self.own.optimizers])
            raise InputError("--optimizer", name, "a known optimizer", nearest=near)
        return row

    def optimizers(self) -> tuple[str, ...]:
        """The names of the optimizers."""
        return tuple(dict.fromkeys((*tables.optimizer_names(), *self.own.optimizers)))

    def precision(self, name: str, what: str = "--precision") -> Precision:
        """A number type or a way of quantising; `what` names the option in an error."""
        row = self._precisions_met.get(name)
        if row is None:
            own = match(name, self.own.precisions.values())
            row = own or match(name, self._precisions.values())
        if row is None:
            near = nearest_names(name, self._precisions)
            raise InputError(what, name, "a known precision", nearest=near)
        self._precisions_met[name] = row
        return row

    def precisions(self) -> tuple[str, ...]:
        """The names of the precisions."""
        return tuple(self._precisions)

    def stack(self, name: str) -> Stack:
        """How a stack holds a model on a rank."""
        known = tables.stacks()
        found = known.get(name)
        if found is None:
            expected = f"one of {', '.join(sorted(known))}"
            raise InputError("--stack", name, expected, nearest=nearest_names(name, known))
        return found

    def recipe(self, stack: str, precision: str) -> Recipe:
        """The number types of a training step under a stack and a precision."""
        known = tables.recipes()
        found = known.get((self.stack(stack).name, precision))
        if found is not None:
            return found
        legal = [p for s, p in known if s == stack]
        raise InputError(
            "--precision", precision, f"one of {', '.join(legal)}",
            nearest=nearest_names(precision, legal),
        )  # fmt: skip

    def stack_scopes(self) -> Mapping[str, StackScope]:
        """Which models each stack trains."""
        return tables.stack_scopes()

    def typical_mfu(
        self,
        accelerator: Accelerator,
        n_params: float,
        method: str = "full",
        precision: str = "bf16",
        *,
        is_moe: bool = False,
    ) -> tuple[MfuRow, tuple[Assumption, ...]]:
        """What published runs most like this one reached; a looser group is an assumption."""
        return mfu_row(
            tables.mfu(), accelerator, n_params, is_moe=is_moe, method=method, precision=precision
        )

    # -- places and overheads ----------------------------------------------------------------

    def carbon(self, region: str = WORLD) -> CarbonRow:
        """Carbon intensity of a grid by ISO code, country or cloud region; WORLD by default."""
        for form in (str.casefold, plain):  # AWS's us-east-1 is not Google's us-east1
            for row in self._carbon.values():
                if form(region) in map(form, (row.region, row.name, *row.aliases)):
                    return row
        known = [*self._carbon, *(row.name for row in self._carbon.values())]
        raise InputError(
            "region", region, "a country, its ISO code or a cloud region",
            nearest=nearest_names(region, known),
        )  # fmt: skip

    def overhead(self, name: str, vendor: str = "") -> Overhead:
        """An overhead (``context``, ``reserved_frac``, ``pue``), by vendor where it has rows."""
        rows = [row for row in tables.overheads() if row.name == name]
        for row in rows:
            if row.vendor == vendor:
                return row
        if not rows:
            names = sorted({row.name for row in tables.overheads()})
            raise InputError("overhead", name, f"one of {', '.join(names)}")
        return next((row for row in rows if not row.vendor), rows[0])

    # -- models ------------------------------------------------------------------------------

    def find_model(self, name: str) -> tuple[ModelEntry, tuple[Assumption, ...]] | None:
        """The architecture that a catalogue name or a Hub id means; None if none is known."""
        found = architectures.find(name, self._model_words)
        if found is None:
            return None
        row, assumed = found
        return self.own.models.get(row.name) or architectures.entry(row.name), assumed

    def model(self, name: str) -> tuple[ModelEntry, tuple[Assumption, ...]]:
        """As :meth:`find_model`.

        Raises:
            InputError: for an unknown name, with near ones.
        """
        found = self.find_model(name)
        if found is None:
            hub = [word for row in self._models.values() for word in architectures.hub_words(row)]
            raise architectures.unknown(name, hub if "/" in name else self._models)
        return found

    def models(self, pattern: str = "") -> list[ModelSummary]:
        """Models whose name, Hub id or type holds a pattern (or fits a glob)."""
        words = {
            name: (*architectures.hub_words(row), row.model_type)
            for name, row in self._models.items()
        }
        return listed(pattern, self._models, words)


def match(name: str, rows: Iterable[Row]) -> Row | None:
    """The row with this plain name or alias; names win over aliases."""
    by_alias = None
    for row in rows:
        if plain(row.name) == plain(name):
            return row
        if by_alias is None and plain(name) in map(plain, row.aliases):
            by_alias = row
    return by_alias


def summary(row: ModelEntry) -> ModelSummary:
    """The line of the list that a user's own model gets."""
    return ModelSummary(
        row.name, row.hf_id, str(row.config.get("model_type", "")), row.n_params,
        row.n_params_active, row.confidence, offset=0, n_bytes=0, aliases=row.hub_aliases,
    )  # fmt: skip
