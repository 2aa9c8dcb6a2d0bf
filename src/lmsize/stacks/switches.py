"""What a run may switch in its stack beside the shapes (``--stack-options``), as memory asks for it.

Each stack that has switches derives a class of its own, whose fields with an :mod:`option
<lmsize.stacks.options>` may be set; what it does whatever is asked is another default there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from lmsize.layout.schedule import Schedule
from lmsize.layout.split import Split


@dataclass(frozen=True, slots=True)
class Switches:
    """What any stack is asked for; here as it is in one that has no such switch.

    Attributes:
        stage_layers: layers of every part of the pipeline, in the order in which they run.
        fp8_recipe: how tensors are scaled where products run in 8 bits (``nvfp4``: in 4).
        fp8_param_gather: weights are held in 8 bits alone.
        fp8_all_gather: ranks gather the layers' matrices in 8 bits.
        bf16_first_layers, bf16_last_layers: of the model, whose products are not in 8 bits.
        recompute_modules: what selective recomputation runs again, in order of name.
        recompute_layers: of each part of a stage, under full recomputation by block; None for all.
        recompute_chunk: layers that run again together, under full recomputation.
        decoder_seq_length: tokens of a decoder's sequence, if not the encoder's; for memory only.
        grad_reduce_in_bf16: main gradients are in the type of the weights.
        fp32_sums: below ZeRO-2 bf16 gradients are added up in fp32; None for the stack's default.
        norm_of_copies: the norm is taken of fp32 copies of all of a rank's gradients at once, not of
            one after the other.
        precision_aware: the optimizer keeps, instead of a full copy of 16-bit weights, the 16 bits
            that they lack; `exp_avg_dtype` and `exp_avg_sq_dtype` are its states' types.
        optimizer_offload: share of its copies and states that lies on the host.
        whole_tensors: the distributed optimizer deals tensors out whole (Muon's, without a layout of
            buffers for it).
        optimizer_instances: copies of the distributed optimizer, over whose ranks states are whole.
        older_foreach: torch's step over all tensors at once is that of before torch 2.1.
        fused_adam: a stack with an Adam of its own steps by that, in one kernel.
        ends_in_root: table, last norm and head are the root's unit, which stays gathered from the
            forward to the end of the backward; so does the last layer, until it is undone.
    """

    stage_layers: tuple[int, ...] = ()
    fp8_recipe: str = "delayed"
    fp8_param_gather: bool = False
    fp8_all_gather: bool = False
    bf16_first_layers: int | None = None
    bf16_last_layers: int | None = None
    recompute_modules: tuple[str, ...] = ("core_attn",)
    recompute_layers: int | None = None
    recompute_chunk: int | None = None
    decoder_seq_length: int | None = None
    grad_reduce_in_bf16: bool = False
    fp32_sums: bool | None = None
    norm_of_copies: bool = False
    precision_aware: bool = False
    exp_avg_dtype: str = ""
    exp_avg_sq_dtype: str = ""
    optimizer_offload: float = 0.0
    whole_tensors: bool = False
    optimizer_instances: int = 1
    older_foreach: bool = False
    fused_adam: bool = True
    ends_in_root: bool = False

    @property
    def split(self) -> Split:
        """How stages come by their layers."""
        return Split(parts=self.stage_layers)

    @property
    def bf16_ends(self) -> dict[str, int]:
        """How many layers at each end of the model compute in 16 bits, whatever the rest does."""
        return {"first": self.bf16_first_layers or 0, "last": self.bf16_last_layers or 0}

    def schedule(self, vp: int) -> Schedule:
        """The order of micro-batches on stages of `vp` parts."""
        return Schedule(vp)

    def on(self, capability: int) -> Switches:  # noqa: ARG002  # a stack may go by it
        """The same on an accelerator of that compute capability (its first number)."""
        return self

    @classmethod
    def of(cls, switches: Switches) -> Self:
        """What was asked for, as usual where nothing was asked of this stack."""
        if isinstance(switches, cls):
            return switches
        usual: Self = _usual(cls)  # type: ignore[arg-type]  # classes are hashable
        return usual


@cache
def _usual(stack: Any) -> Any:
    return stack()


USUAL = Switches()
