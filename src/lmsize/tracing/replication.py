"""From a short model's log to a deep one's: one unit's entries, as often as there are units.

A log is cut wherever work passes from one unit to the next: down the layers in the forward, up in the
backward, and along the parameters in the optimizer. Of a model with five units, the third stands for
all that are left out: the second and the fourth, its neighbours, are as far from both ends as it is.
A copy lets go of its own storages, or of the unit's beside it, by the order in which each unit made
them. That this gives the deep model's log is checked by taking a unit out: it must give the log of a
model with four units, entry by entry. Where it does not, the layers are not alike, and the model is
traced whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from lmsize.tracing.stacks import Stack
from lmsize.tracing.storages import Entry, Layer, Log, Storage

N_UNITS = 5  # of the model that is traced
N_CHECK = N_UNITS - 1  # of the one it is checked by
MODEL = 3  # the unit that stands for all others
_LIKE = (MODEL - 1, MODEL, MODEL + 1)
Growth = Mapping[int, int]  # bytes a unit, by the id of a storage whose size depends on the depth


class NotAlikeError(Exception):
    """The layers do not do the same, one like the other; says where they differ."""


@dataclass(slots=True)
class _Run:
    """Entries one after the other while one unit is at work (0: none of the stack's).

    Attributes:
        visit: how often the unit was at work before.
    """

    unit: int
    visit: int
    entries: list[Entry] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a storage was made: the `order`-th of a unit's visit."""

    unit: int
    visit: int
    order: int


def replicated(log: Log, stack: Stack, *, n_units: int, growth: Growth | None = None) -> Log:
    """The log of a model in which `stack` has `n_units` units.

    Args:
        log: of the same model with five; `stack` describes that one.
        growth: see :func:`growth_by_depth`.

    Raises:
        NotAlikeError: the entries do not tell how.
    """
    return _Replication(log, stack, n_units - N_UNITS, growth or {}).log()


def growth_by_depth(log: Log, check: Log, found: list[Stack]) -> dict[int, int]:
    """Bytes that a storage of `log` grows by for every unit more, by its id, where it does.

    Args:
        log: of the model with five units in each stack; `check`: of the one with four.

    Raises:
        NotAlikeError: taking a unit out of the one does not give the other.
    """
    fewer, origins = log, {id(e.storage): e.storage for e in log.entries}
    for stack in found:
        replication = _Replication(fewer, stack, N_CHECK - N_UNITS, {})
        fewer = replication.log()
        origins = {
            made: origins.get(id(source), source) for made, source in replication.sources.items()
        }
    growth = _differences(fewer, check, origins)
    if growth and len(found) > 1:
        raise NotAlikeError("sizes depend on the depth of one stack or another")
    return growth


def _differences(log: Log, check: Log, origins: Mapping[int, Storage]) -> dict[int, int]:
    pairs: dict[int, int] = {}
    growth: dict[int, int] = {}
    for ours, theirs in zip_longest(log.entries, check.entries):
        if ours is None or theirs is None or _told(ours) != _told(theirs):
            raise NotAlikeError(f"a layer more changes more than a layer: {ours} and {theirs}")
        if pairs.setdefault(id(ours.storage), id(theirs.storage)) != id(theirs.storage):
            raise NotAlikeError(f"other storages are let go: {ours} and {theirs}")
        more = ours.storage.n_bytes - theirs.storage.n_bytes
        if more:
            growth[id(origins[id(ours.storage)])] = more
    return growth


def _told(entry: Entry) -> tuple[object, ...]:
    storage = entry.storage
    return (
        entry.is_alloc, entry.phase, storage.op, storage.module, storage.category, storage.dtype,
        len(storage.shape),
    )  # fmt: skip


class _Replication:
    """One stack's units, made more (or one fewer)."""

    def __init__(self, log: Log, stack: Stack, n_more: int, growth: Growth) -> None:
        self._log, self._stack, self._n_more, self._growth = log, stack, n_more, growth
        self._runs, self._origins = _cut(log, stack)
        self._made: dict[object, Storage] = {}
        self.sources: dict[int, Storage] = {}  # by the id of what was made of it

    def log(self) -> Log:
        """The replicated log."""
        self._check_visits()
        entries: list[Entry] = []
        for at, run in enumerate(self._runs):
            places: range | list[int] = [self._place(run.unit)]
            if run.unit == MODEL:
                places = range(MODEL, MODEL + self._n_more + 1)
                if not self._goes_down(at):
                    places = places[::-1]
            for place in places:
                entries += self._copy(run, place)
        flops, moved = (self._repeated(sums) for sums in (self._log.n_flops, self._log.n_moved))
        return replace(self._log, entries=entries, n_flops=flops, n_moved=moved)

    def _repeated(
        self, sums: Mapping[tuple[str, Layer | None], float]
    ) -> dict[tuple[str, Layer | None], float]:
        return {
            (phase, layer): n * (1 + self._n_more if self._unit(layer) == MODEL else 1)
            for (phase, layer), n in sums.items()
        }

    def _unit(self, layer: Layer | None) -> int:
        inside = layer is not None and layer.stack == self._stack.path
        return self._stack.unit(layer.number) if inside and layer is not None else 0

    def _check_visits(self) -> None:
        counts = Counter(run.unit for run in self._runs)
        if len({counts[unit] for unit in _LIKE}) != 1:
            raise NotAlikeError(f"{self._stack.path}: layers are visited more or less often")

    def _goes_down(self, at: int) -> bool:
        """Whether work passes from the unit before to the one after, or the other way."""
        sides = [self._runs[i].unit if i < len(self._runs) else 0 for i in (at - 1, at + 1)]
        if sorted(sides) != [MODEL - 1, MODEL + 1]:
            raise NotAlikeError(f"{self._stack.path}: work does not pass from layer to layer")
        return sides[0] < sides[1]

    def _place(self, unit: int) -> int:
        """Where a unit of the traced model is in the replicated one."""
        return unit + self._n_more if unit > MODEL else unit

    def _copy(self, run: _Run, place: int) -> Iterator[Entry]:
        """The entries of a run as the unit at `place` has them."""
        for entry in run.entries:
            origin = self._origins[id(entry.storage)]
            offset = origin.unit - run.unit
            if origin.unit not in _LIKE:
                if run.unit == MODEL and not entry.is_alloc:
                    raise NotAlikeError(f"{self._stack.path}: a layer lets go of what all share")
                storage = self._own(entry.storage, origin)
            elif abs(offset) > 1:
                raise NotAlikeError(f"{self._stack.path}: layers reach beyond their neighbours")
            else:
                storage = self._like(entry.storage, origin, place + offset)
            layer = self._shifted(entry.layer, place - run.unit)
            yield Entry(storage, entry.is_alloc, entry.phase, layer)

    def _own(self, storage: Storage, origin: _Origin) -> Storage:
        """A storage that is there once, however many units there are."""
        if id(storage) not in self._made:
            grown = self._growth.get(id(storage), 0) * self._n_more
            moved = self._place(origin.unit) - origin.unit
            self._make(id(storage), storage, origin.unit, moved, storage.n_bytes + grown)
        return self._made[id(storage)]

    def _like(self, storage: Storage, origin: _Origin, place: int) -> Storage:
        """The storage that the unit at `place` made where another made this one."""
        key = (place, origin.visit, origin.order)
        if key not in self._made:
            self._make(key, storage, origin.unit, place - origin.unit, storage.n_bytes)
        return self._made[key]

    def _make(
        self, key: object, storage: Storage, unit: int, n_units: int, n_bytes: int
    ) -> None:  # fmt: skip
        made = replace(
            storage, n_bytes=n_bytes, layer=self._shifted(storage.layer, n_units),
            module=self._renamed(storage.module, unit, n_units),
        )  # fmt: skip
        self._made[key] = made
        self.sources[id(made)] = storage

    def _shifted(self, layer: Layer | None, n_units: int) -> Layer | None:
        if layer is None or layer.stack != self._stack.path:
            return layer
        return Layer(layer.stack, layer.number + n_units * self._stack.period)

    def _renamed(self, module: str, unit: int, n_units: int) -> str:
        """A module's path when the unit that made the storage is so many units on.

        What a unit makes belongs to it or to the one beside it; anything else stays at its end.
        """
        head = f"{self._stack.path}."
        if not module.startswith(head):
            return module
        number, dot, rest = module[len(head) :].partition(".")
        own = self._stack.unit(int(number))
        moved = n_units if abs(own - unit) <= 1 else self._place(own) - own
        return f"{head}{int(number) + moved * self._stack.period}{dot}{rest}"


def _cut(log: Log, stack: Stack) -> tuple[list[_Run], dict[int, _Origin]]:
    """The runs of a log, and where each storage was made."""
    runs: list[_Run] = []
    visits: Counter[int] = Counter()
    origins: dict[int, _Origin] = {}
    order = 0
    for entry in log.entries:
        layer = entry.layer
        inside = layer is not None and layer.stack == stack.path
        unit = stack.unit(layer.number) if inside and layer is not None else 0
        if not runs or runs[-1].unit != unit:
            runs.append(_Run(unit, visits[unit]))
            visits[unit] += 1
            order = 0
        run = runs[-1]
        run.entries.append(entry)
        if entry.is_alloc:
            origins[id(entry.storage)] = _Origin(unit, run.visit, order)
            order += 1
    return runs, origins
