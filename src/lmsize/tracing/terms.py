"""A trace's peaks as the tree of the report: a maximum of moments, each a sum of categories."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable

from lmsize.formula import Term, maximum, total
from lmsize.source import Source
from lmsize.tracing.peaks import Peak
from lmsize.tracing.storages import Storage

SOURCE = Source("trace", "the step run on fake tensors")
ORDER = (
    "weights", "adapter_weights", "gradients", "optimizer_states", "activations", "gathers",
    "temporaries", "buffers", "inputs",
)  # fmt: skip
_NUMBER = re.compile(r"\.\d+(?=\.|$)")
MOST_TENSORS = 10  # of those that live at a peak, told one by one
MOST_MODULES = 12  # leaves of a category; what is smaller is one leaf


def moments(found: Iterable[Peak], size: Callable[[int], int], *, extra: dict[str, int]) -> Term:
    """The largest moment of the steady step.

    Args:
        size: bytes that the allocator gives for a request.
        extra: bytes by component that every moment holds besides, such as gradient buckets.
    """
    return maximum("peak", [_moment(peak, size, extra) for peak in found])


def _moment(peak: Peak, size: Callable[[int], int], extra: dict[str, int]) -> Term:
    by_category: dict[str, list[Storage]] = defaultdict(list)
    for storage in peak.live:
        by_category[storage.category].append(storage)
    names = sorted(by_category, key=lambda name: ORDER.index(name) if name in ORDER else 99)
    largest = {id(storage): at for at, storage in enumerate(peak.live[:MOST_TENSORS], start=1)}
    parts = [_category(name, by_category[name], size, largest) for name in names]
    parts += [
        Term(name, n_bytes, "bytes", source=Source("closed form", name.replace("_", " ")))
        for name, n_bytes in extra.items()
    ]
    return total(peak.phase.partition(".")[2], parts)


def _tensor(storage: Storage) -> str:
    return (
        f"{storage.dtype.removeprefix('torch.')} {' x '.join(map(str, storage.shape)) or 'scalar'}"
    )


def _category(
    name: str, storages: list[Storage], size: Callable[[int], int], largest: dict[int, int]
) -> Term:
    """The moment's largest tensors one by one, then the rest by module, like layers together."""
    alone = [_tensor_leaf(s, size, largest[id(s)]) for s in storages if id(s) in largest]
    groups: dict[str, list[Storage]] = defaultdict(list)
    for storage in storages:
        if id(storage) not in largest:
            groups[_NUMBER.sub(".*", storage.module) or storage.op or "outside"].append(storage)
    sums = sorted(
        ((sum(size(s.n_bytes) for s in held), module, held) for module, held in groups.items()),
        key=lambda one: -one[0],
    )
    leaves = [_leaf(module, n, held) for n, module, held in sums[:MOST_MODULES]]
    rest = sums[MOST_MODULES:]
    if rest:
        others = [storage for _, _, held in rest for storage in held]
        leaves.append(_leaf(f"{len(rest)} smaller", sum(n for n, _, _ in rest), others))
    return total(name, [*alone, *leaves])


def _tensor_leaf(storage: Storage, size: Callable[[int], int], rank: int) -> Term:
    """One of the largest live tensors, with what made it."""
    inputs = {
        "rank": rank, "tensor": _tensor(storage), "module": storage.module, "op": storage.op,
        "phase": storage.phase,
    }  # fmt: skip
    label = f"{storage.module or storage.op or 'outside'} ({_tensor(storage)})"
    return Term(label, size(storage.n_bytes), "bytes", inputs=inputs, source=SOURCE)


def _leaf(module: str, n_bytes: int, held: list[Storage]) -> Term:
    first = max(held, key=lambda storage: storage.n_bytes)
    inputs = {
        "n_tensors": len(held), "largest_bytes": first.n_bytes, "largest": _tensor(first), "op": first.op,
    }  # fmt: skip
    return Term(module, n_bytes, "bytes", inputs=inputs, source=SOURCE)
