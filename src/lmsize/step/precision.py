"""What a precision means for the step: the type of the weights, autocast, TF32, loss scaling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lmsize.errors import InputError

# By precision: the type of the weights, and that of autocast if any.
TYPES = {
    "fp32": ("float32", None),
    "tf32": ("float32", None),
    "amp-bf16": ("float32", "bfloat16"),
    "amp-fp16": ("float32", "float16"),
    "bf16": ("bfloat16", None),
    "fp16": ("float16", None),
}


@dataclass(frozen=True, slots=True)
class StepPrecision:
    """The number types of a step.

    Attributes:
        weights: dtype that the model is built in.
        autocast: dtype of autocast; None without.
        tf32: whether fp32 products may run in TF32.
    """

    weights: Any
    autocast: Any
    tf32: bool


def step_precision(name: str) -> StepPrecision:
    """The types behind a precision's name.

    Raises:
        InputError: a precision that plain torch does not run (fp8 needs a library of its own).
    """
    import torch

    if name not in TYPES:
        expected = f"one that torch runs by itself: {', '.join(TYPES)}"
        raise InputError("--precision", name, expected)
    weights, autocast = TYPES[name]
    return StepPrecision(
        weights=getattr(torch, weights),
        autocast=getattr(torch, autocast) if autocast else None,
        tf32=name == "tf32",
    )


@contextmanager
def matmul_precision(*, tf32: bool) -> Iterator[None]:
    """Products of fp32 in TF32 or in full, while it lasts."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
