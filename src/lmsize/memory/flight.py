"""How many micro-batches each block of a stage keeps, where parts of the stage take turns.

The first parts run ahead of the last: of eight micro-batches in flight, seven may be in the first part and four
in the second. Where layers are alike only their sum counts; where a mixture comes after dense layers,
it matters which of them wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from lmsize.layout.schedule import Schedule
from lmsize.layout.shares import Stage
from lmsize.memory.blocks import Placed


def in_flight_of(
    blocks: Sequence[Placed], stage: Stage, n_micro: int, schedule: Schedule, *, usual: float,
    at_loss: bool,
) -> Sequence[float]:  # fmt: skip
    """Micro-batches that each block keeps at the fullest instant.

    Args:
        blocks: of the stage, in order of execution.
        usual: what all of them keep where no layer is unlike another.
        at_loss: at the instants at which the loss is taken.
    """
    layers = [placed for placed in blocks if placed.role == "layer"]
    ends = list(accumulate(placed.n_layers for placed in layers))
    is_plain = schedule.vp == 1 or stage.n_stages == 1 or len(layers) < 2
    if is_plain or ends[-1] != stage.n_layers:  # or chunks of several layers
        return [usual] * len(blocks)
    spans = [(end - placed.n_layers, end) for placed, end in zip(layers, ends, strict=True)]
    first = [(0, 1)] if blocks[0].role == "embedding" else []
    found = stage.kept_of([*first, *spans], n_micro, schedule, at_loss=at_loss)
    turns = usual - stage.n_in_flight(
        n_micro, Schedule(schedule.vp, schedule.group), at_loss=at_loss
    )
    counted = [*blocks[: len(first)], *layers]
    sizes = [placed.n_layers * placed.piece.saved for placed in counted]
    fullest = max(found, key=lambda kept: sum(n * s for n, s in zip(kept, sizes, strict=True)))
    by_block = dict(zip(map(id, counted), fullest, strict=True))
    return [by_block.get(id(placed), usual - turns) + turns for placed in blocks]
