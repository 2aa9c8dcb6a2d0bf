"""What a step asks of the allocator, in order: the stream that every analysis of a trace reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Event:
    """One request to the allocator of the traced device.

    Attributes:
        storage_id: names the storage from its allocation to its release; never used again.
        n_bytes: as requested, before any rounding; a release repeats the size of its allocation.
        stream: 0 is the stream that computes; others are copies and collectives.
        phase: part of the step: ``setup``, then ``forward``, ``backward``, ``optimizer`` ...
            with the number of the step before it (``2.backward``).
        category: what the storage is: ``weights``, ``gradients``, ``optimizer_states``,
            ``activations``, ``adapter_weights``, ``temporaries``, ``buffers``, ``inputs``.
        module: path of the module that made the storage; empty outside the model.
        op: the operation that made it, such as ``aten.mm``; empty for what was there before.
    """

    kind: Literal["alloc", "free"]
    storage_id: int
    n_bytes: int
    stream: int
    phase: str
    category: str
    module: str
    op: str
