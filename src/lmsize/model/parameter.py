"""Parameter tensors, over which everything walks that is counted from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

# Of modules for entities (LUKE) and for tokens that see all (Longformer), which a plain text has none of.
UNREACHED = (
    "entity_embeddings.", "entity_predictions.", ".w2e_query", ".e2w_query", ".e2e_query",
    "query_global", "key_global", "value_global",
)  # fmt: skip
Kind = Literal["matrix", "expert", "embedding", "vector"]
Split = Literal["column", "row"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """`n_tensors` parameter tensors of one shape.

    Attributes:
        name: path inside the block, as in the transformers module (``self_attn.q_proj.weight``).
        shape: as stored; fused experts are one 3-D tensor (experts first).
        kind: ``matrix`` multiplies every token; ``expert`` only the tokens routed to it;
            ``embedding`` is looked up; ``vector`` is anything else (norms, biases, kernels).
        split: how tensor parallelism divides it (``column``: the output dimension).
        n_units: into how many indivisible units the split dimension falls (heads, else rows).
        n_tensors: how many tensors of this shape the block holds under this name.
        active_frac: the share of it that one token uses.
        trainable: False for tables that are never trained (sinusoids kept as parameters).
        picks: of an indexer, which only picks and runs without gradients.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    split: Split | None = None
    n_units: int = 1
    n_tensors: int = 1
    active_frac: float = 1.0
    trainable: bool = True
    picks: bool = False

    @property
    def learns(self) -> bool:
        """Whether gradients of a text reach it."""
        return self.trainable and not self.picks and is_reached(self.name)

    @property
    def n_params(self) -> int:
        """Number of scalars in all the tensors."""
        return math.prod(self.shape) * self.n_tensors


def is_reached(name: str) -> bool:
    """Whether a plain text passes through a module of that path."""
    return not any(word in name for word in UNREACHED)
