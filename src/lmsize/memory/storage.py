"""Bytes that numbers take in a number type: values, block scales, scales of scales."""

from __future__ import annotations

from typing import Any

from lmsize.catalogue import Precision
from lmsize.formula import Term, formula, total
from lmsize.numbers import ceil_div
from lmsize.source import Source

ZERO = Source("ZeRO", "section 3.1", "https://arxiv.org/abs/1910.02054")
QLORA = Source("QLoRA", "section 3", "https://arxiv.org/abs/2305.14314")


@formula(source=ZERO)
def stored_bytes(*, n_numbers: Any, bits_per_number: Any, n_shards: Any) -> Any:
    """Bytes of numbers on one rank.

    Assumes: a shard is the same size on every rank, the last one padded.
    Valid for: any number type; weights, gradients, main copies and optimizer states alike.
    """
    return ceil_div(ceil_div(n_numbers, n_shards) * bits_per_number, 8)


@formula(source=QLORA)
def scale_bytes(*, n_numbers: Any, block_size: Any, bits_per_scale: Any, n_shards: Any) -> Any:
    """Bytes of the scales that blocks of quantised numbers carry.

    Assumes: one scale a block of `block_size` numbers, rounded up over all of them together.
    Valid for: block-wise quantisation (bitsandbytes, GPTQ, AWQ, GGUF) and, with the scales
    themselves as the numbers, double quantisation.
    """
    return ceil_div(ceil_div(ceil_div(n_numbers, n_shards), block_size) * bits_per_scale, 8)


def storage(label: str, n_numbers: Any, precision: Precision, *, n_shards: Any = 1) -> Term:
    """Numbers in a number type: one leaf, or values and scales."""
    bits: float = precision.mixture_bits or precision.bits
    whole = int(bits) if bits == int(bits) else bits
    values = {"n_numbers": n_numbers, "bits_per_number": whole, "n_shards": n_shards}
    if precision.block_size is None or precision.mixture_bits is not None:
        return stored_bytes.term(label, **values)
    size = precision.block_size
    parts = [
        stored_bytes.term("values", **values),
        scale_bytes.term(
            "scales", n_numbers=n_numbers, block_size=size, n_shards=n_shards,
            bits_per_scale=int(precision.scale_bits + precision.zero_bits),
        ),
    ]  # fmt: skip
    if precision.nested_block_size:
        parts.append(
            scale_bytes.term(
                "scales of scales",
                n_numbers=n_numbers,
                n_shards=n_shards,
                block_size=size * precision.nested_block_size,
                bits_per_scale=int(precision.nested_scale_bits),
            )
        )
    return total(label, parts)
