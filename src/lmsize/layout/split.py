"""How a pipeline's stages come by their layers: evenly, or with ends that have fewer."""

from __future__ import annotations

from dataclasses import dataclass

from lmsize.errors import LayoutError


@dataclass(frozen=True, slots=True)
class Split:
    """What makes the ends unlike the rest.

    Attributes:
        first, last: layers of the first and of the last stage, if they are said.
        embedding, loss: whether these take the place of a layer; `spills` whether places that do not come
            out evenly are one more on the first stages.
        parts: layers of every part in the order in which they run, stage after stage and round again.
    """

    first: int | None = None
    last: int | None = None
    embedding: bool = False
    loss: bool = False
    spills: bool = False
    parts: tuple[int, ...] = ()

    @property
    def is_even(self) -> bool:
        return self == EVEN


EVEN = Split()


def layer_counts(n_layers: int, pp: int, split: Split = EVEN) -> list[int]:
    """Layers of each stage; of an even split that does not come out, the first ones have one more.

    Raises:
        LayoutError: said ends that leave the stages between them an uneven rest.
    """
    if split.is_even or pp == 1:
        each, extra = divmod(n_layers, pp)
        return [each + (i < extra) for i in range(pp)]
    if split.parts:
        if sum(split.parts) != n_layers or len(split.parts) % pp:
            what = f"stages whose parts, {len(split.parts)}, make up the {n_layers} layers"
            raise LayoutError("--pp", pp, f"{what}: they have {sum(split.parts)}")
        return [sum(split.parts[i::pp]) for i in range(pp)]
    said = {0: split.first, pp - 1: split.last}
    taken = {i: n for i, n in said.items() if n is not None}
    places = n_layers + split.embedding + split.loss - sum(taken.values())
    n_rest = pp - len(taken)
    if split.spills:
        each, extra = divmod(places, pp)
        counts = [each + (i < extra) for i in range(pp)]
        return [
            n - split.embedding * (i == 0) - split.loss * (i == pp - 1)
            for i, n in enumerate(counts)
        ]
    if places < 0 or (n_rest and places % n_rest) or (not n_rest and places):
        what = f"layers that the {n_rest} other stages share evenly"
        raise LayoutError("--pp", pp, f"{what}: {places} are left of {n_layers}")
    counts = [taken.get(i, places // n_rest if n_rest else 0) for i in range(pp)]
    counts[0] -= split.embedding
    counts[-1] -= split.loss
    return counts
