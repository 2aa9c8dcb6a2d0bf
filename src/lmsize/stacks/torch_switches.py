"""Stacks that step by torch's own optimizers, and litgpt's kernels."""

from __future__ import annotations

from dataclasses import dataclass

from lmsize.stacks.options import flag
from lmsize.stacks.switches import Switches


@dataclass(frozen=True, slots=True)
class TorchSwitches(Switches):
    """What depends on the version of torch alone; said there."""

    older_foreach: bool = flag(default=False)


@dataclass(frozen=True, slots=True)
class LitgptSwitches(TorchSwitches):
    """litgpt's.

    Attributes:
        fused_kernels: of flash-attn and xformers, as TinyLlama's fork runs them.
    """

    fused_kernels: bool = flag(default=False)
