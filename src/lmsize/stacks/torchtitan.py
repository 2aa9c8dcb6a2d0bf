"""torchtitan: fused RMSNorm, complex rotary positions, torch's attention kernels, an fp32 loss."""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import Norm
from lmsize.stacks import megatron, transformers
from lmsize.stacks.setting import Setting, Style
from lmsize.tape import ops
from lmsize.tape.program import Program, Tensor

FP32 = 4


def norm(program: Program, x: Tensor, part: Norm, setting: Setting, *, n_rows: Any) -> Tensor:
    """``nn.RMSNorm``: one kernel that saves its input and a deviation a row."""
    return megatron.norm(program, x, part, setting, n_rows=n_rows)


def rotary(program: Program, x: Tensor, setting: Setting) -> Tensor:
    """A complex product in fp32, cast back; the table asks for no gradient, so nothing is saved."""
    del setting
    raised = ops.cast(program, x, FP32)
    return ops.cast(program, ops.pointwise(program, raised, name="complex product"), x.itemsize)


STYLE = Style(
    norm, rotary, transformers.core, transformers.activation, transformers.loss,
    upcasts=transformers.upcasts_logits,
)  # fmt: skip
