"""What DeepSpeed's configuration says of the optimizer's step."""

from __future__ import annotations

from dataclasses import dataclass

from lmsize.stacks.options import flag, layers
from lmsize.stacks.switches import Switches


@dataclass(frozen=True, slots=True)
class DeepspeedSwitches(Switches):
    """DeepSpeed's.

    Attributes:
        fp32_sums: ``data_types.grad_accum_dtype``, of gradients of bf16 weights below ZeRO-2.
        fused_adam: it steps by its own Adam, in one kernel, not by torch's.
    """

    stage_layers: tuple[int, ...] = layers()
    fp32_sums: bool = flag(default=True)
    fused_adam: bool = flag(default=True)
