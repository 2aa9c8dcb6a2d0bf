"""What DeepSpeed's configuration says of the optimizer's step, and whose layers it runs."""

from __future__ import annotations

from dataclasses import dataclass

from lmsize.stacks import options
from lmsize.stacks.switches import Switches

LAYERS = ("transformers", "megatron")


@dataclass(frozen=True, slots=True)
class DeepspeedSwitches(Switches):
    """DeepSpeed's; what other stacks have too is said there.

    Attributes:
        layers: whose classes it runs: transformers', or Megatron's own (Megatron-DeepSpeed).
        fp32_sums: ``data_types.grad_accum_dtype``, of gradients of bf16 weights below ZeRO-2; None for
            its default, which is to do so without ZeRO.
        norm_of_copies: as InternEvo's optimizer does.
        fused_adam: it steps by its own Adam, in one kernel, not by torch's.
    """

    layers: str = options.choice("transformers", LAYERS)
    stage_layers: tuple[int, ...] = options.layers()
    fp32_sums: bool | None = options.flag(default=None)
    norm_of_copies: bool = options.flag(default=False)
    older_foreach: bool = options.flag(default=False)
    fused_adam: bool = options.flag(default=True)
