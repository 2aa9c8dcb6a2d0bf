"""What a trace records: storages, and the order in which they come and go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from lmsize.tracing.events import Event


class Layer(NamedTuple):
    """One of the like modules of a list, such as ``model.layers`` at 3."""

    stack: str
    number: int


@dataclass(slots=True)
class Storage:
    """A piece of memory from its allocation to its release.

    Attributes:
        phase: part of the step that made it; `module` and `op` say who, and how.
        category: set when the trace is over, by what became of the storage.
        layer: the layer at work when it was made, if any.
    """

    n_bytes: int
    phase: str
    module: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    stream: int = 0
    layer: Layer | None = None
    category: str = ""


class Entry(NamedTuple):
    """A storage that came (`is_alloc`) or went, in which phase, and while which layer ran."""

    storage: Storage
    is_alloc: bool
    phase: str
    layer: Layer | None


@dataclass(slots=True)
class Log:
    """Everything that happened to the memory of one device, in order.

    Attributes:
        n_flops: FLOPs by phase and layer; `n_moved` bytes that operations read and wrote.
        n_ops: operations that were seen.
        assumed: codes of what some shape or branch rests on without its being known.
    """

    entries: list[Entry] = field(default_factory=list)
    n_flops: dict[tuple[str, Layer | None], float] = field(default_factory=dict)
    n_moved: dict[tuple[str, Layer | None], float] = field(default_factory=dict)
    n_ops: int = 0
    assumed: set[str] = field(default_factory=set)

    def events(self) -> Iterator[Event]:
        """The same as the allocator reads it."""
        numbers: dict[int, int] = {}
        for storage, is_alloc, phase, _ in self.entries:
            if is_alloc:
                numbers[id(storage)] = len(numbers)
            yield Event(
                "alloc" if is_alloc else "free", numbers[id(storage)], storage.n_bytes,
                storage.stream, phase, storage.category, storage.module, storage.op,
            )  # fmt: skip
