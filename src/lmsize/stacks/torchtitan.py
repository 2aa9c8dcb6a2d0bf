"""torchtitan, compiled: fused RMSNorm, complex rotary positions, torch's attention kernels.

The compiler computes again in the backward what is cheap: norms, gates, casts. The loss is one
kernel over the logits.
"""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import Norm
from lmsize.stacks import megatron, transformers
from lmsize.stacks.setting import Setting, Style
from lmsize.tape import ops
from lmsize.tape.program import Gradient, Op, Program, Tensor

FP32 = 4


def norm(program: Program, x: Tensor, part: Norm, setting: Setting, *, n_rows: Any) -> Tensor:
    """``nn.RMSNorm``: one kernel that saves its input and a deviation a row."""
    return megatron.norm(program, x, part, setting, n_rows=n_rows)


def rotary(program: Program, x: Tensor, setting: Setting) -> Tensor:
    """A complex product in fp32, cast back; the table asks for no gradient, so nothing is saved."""
    del setting
    raised = ops.cast(program, x, FP32)
    return ops.cast(program, ops.pointwise(program, raised, name="complex product"), x.itemsize)


def loss(program: Program, logits: Tensor, *, upcasts: bool, n_tokens: Any) -> Tensor:
    """The compiled cross-entropy: reads the logits, keeps them and a log-sum-exp a token."""
    del upcasts
    made, sums = Tensor("loss", 1, FP32), Tensor("log-sum-exp", n_tokens, FP32)
    return program.record(
        "cross_entropy", [logits], made, saves=[logits, sums], gradients=[Gradient(logits)],
        side=[sums],
    )  # fmt: skip


def keeps(op: Op, n_before: int) -> bool:
    """Selective recomputation by operation: attention is kept, and every second product.

    Args:
        n_before: products that came before in the block.
    """
    return op.name == "attention" or (op.name == "linear" and n_before % 2 == 0)


STYLE = Style(
    norm, rotary, transformers.core, transformers.activation, loss,
    is_compiled=True, upcasts=transformers.upcasts_logits,
)  # fmt: skip
