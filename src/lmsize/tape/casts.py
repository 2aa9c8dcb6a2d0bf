"""Products in few bits: what is cast, how often, and which casts are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmsize.tape.program import Gradient, Program, Tensor, rounded_bytes


@dataclass(frozen=True, slots=True)
class Casts:
    """How a linear layer whose products run in few bits keeps its operands.

    Attributes:
        itemsize: bytes of a number with its share of the scales.
        weights: number type of the casts of weights, as the catalogue names it.
        n_copies: casts of one tensor: by rows for one product and by columns for the other, or
            one that kernels read both ways.
        keeps_cast: a layer saves the cast of its input; else the input, and casts it again.
        gathers_rows: ranks gather casts by rows alone, so that such a layer keeps that one.
        shares_inputs: where something else saves a layer's input, the layer saves it as it is too.
        keeps_weights: casts of weights stay from step to step.
        stores_weights: weights are held in few bits alone.
        align: rows of a group that kernels want a multiple of.
        product: the operation of a linear layer, by whose name selective recomputation keeps outputs.
    """

    itemsize: float
    weights: str = "fp8"
    n_copies: int = 2
    keeps_cast: bool = True
    gathers_rows: bool = False
    shares_inputs: bool = False
    keeps_weights: bool = False
    stores_weights: bool = False
    align: int = 1
    product: str = "linear"

    def n_bytes(self, numel: Any) -> Any:
        """Of one cast of so many numbers."""
        return rounded_bytes(numel * self.itemsize)

    @property
    def of_shared(self) -> Casts:
        """For a layer whose input something else saves."""
        return replace(self, keeps_cast=self.keeps_cast and not self.shares_inputs)


@dataclass(frozen=True, slots=True)
class Operands:
    """What one product in few bits saves of its input, and needs beside while it runs.

    Attributes:
        kept: the cast that is saved; None where the input itself is.
        forward_bytes: other casts, forward; `backward_bytes` until both gradients are made.
    """

    kept: Tensor | None
    forward_bytes: Any
    backward_bytes: Any


def operands(casts: Casts, x: Tensor, out_numel: Any, *, n_ranks: Any) -> Operands:
    """The casts of a product's input and of the gradient of its whole output.

    Args:
        n_ranks: whose shares of the input are gathered for the product; 1 for none.
    """
    own, whole = casts.n_bytes(x.numel), casts.n_bytes(x.numel * n_ranks)
    is_spread = not (isinstance(n_ranks, int) and n_ranks == 1)
    kept = Tensor(f"{x.name} cast", x.numel, casts.itemsize) if casts.keeps_cast else None
    keeps_rows = casts.n_copies == 1 or (is_spread and casts.gathers_rows)
    apart = 0 if kept is not None and keeps_rows else own
    again = (whole if is_spread else 0) + (own if kept is None else 0)
    turned = whole if is_spread and casts.gathers_rows and casts.n_copies > 1 else 0
    return Operands(
        kept, apart + (whole if is_spread else 0),
        again + turned + casts.n_copies * casts.n_bytes(out_numel),
    )  # fmt: skip


def both(a: Tensor, b: Tensor) -> list[Tensor]:
    """Each operand of a product, where the other one's gradient is wanted."""
    return ([a] if b.needs_grad else []) + ([b] if a.needs_grad else [])


def record_cast(
    program: Program, name: str, reads: Sequence[Tensor], made: Tensor, *,
    gradients: Sequence[Gradient], few: Operands, forward_bytes: Any = 0,
) -> Tensor:  # fmt: skip
    """Append a product in few bits; the last two that it reads are its input and its weight."""
    *_, x, weight = reads
    kept = [few.kept] if few.kept is not None and weight.needs_grad else []
    return program.record(
        name, reads, made, saves=[*kept, weight] if kept else both(x, weight),
        gradients=gradients, side=kept, forward_bytes=forward_bytes + few.forward_bytes,
        backward_bytes=few.backward_bytes,
    )  # fmt: skip
