"""torchtitan: fused RMSNorm, complex rotary positions, torch's attention kernels.

Compiled, what is cheap is computed again in the backward, unless a product or attention reads it
there, and the loss is one kernel over the logits; table, last norm and head never are. Not compiled (``--stack-options no-compile``, or
``no-compiled-loss`` for the loss alone), it raises them to fp32.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lmsize.model.parts import AttentionCore, Norm
from lmsize.numbers import chosen
from lmsize.stacks import megatron, transformers
from lmsize.stacks.activations import activation
from lmsize.stacks.setting import QKV, Setting, Style
from lmsize.stacks.switches import Switches
from lmsize.stacks.torchtitan_switches import TorchtitanSwitches
from lmsize.tape import kernels, ops
from lmsize.tape.program import Gradient, GradKind, Op, Program, Tensor

FP32 = 4


def norm(program: Program, x: Tensor, part: Norm, setting: Setting, *, n_rows: Any) -> Tensor:
    """``nn.RMSNorm``: one kernel that saves its input and a deviation a row."""
    return megatron.norm(program, x, part, setting, n_rows=n_rows)


def plain_norm(
    program: Program, x: Tensor, part: Norm, setting: Setting, *, n_rows: Any
) -> Tensor:  # fmt: skip
    """The same before torch 2.9 had a kernel for it: in fp32, operation by operation, unless compiled."""
    made = norm if program.is_compiled else transformers.norm
    return made(program, x, part, setting, n_rows=n_rows)


def rotary(program: Program, x: Tensor, setting: Setting) -> Tensor:
    """A complex product in fp32."""
    del setting
    return transformers.complex_rotary(program, x)


def core(program: Program, qkv: QKV, part: AttentionCore, setting: Setting) -> Tensor:
    """Torch's kernels, keys and values repeated for every head.

    Under context parallelism keys and values of all ranks are gathered, forward and backward
    (``context_parallel_rotate_method = "allgather"``), and the parts of the output are summed in fp32.
    """
    if setting.attention == "eager" or part.head_dim != part.v_head_dim:
        return transformers.core(program, qkv, part, setting)
    q, k, v = qkv
    numel = setting.n_tokens * part.n_heads * part.head_dim
    if part.n_kv_heads != part.n_heads:
        k = ops.copy(program, k, numel=numel, name="keys repeated")
        v = ops.copy(program, v, numel=numel, name="values repeated")
    cp = setting.layout.cp
    gathered = chosen(cp > 1, cp * (k.n_bytes + v.n_bytes), 0)
    sums = chosen(cp > 1, numel * FP32, 0)
    return kernels.fused_attention(
        program, q, k, v, numel=numel, n_log_sums=setting.n_tokens * part.n_heads,
        forward_bytes=gathered + sums, backward_bytes=gathered + 3 * sums,
    )  # fmt: skip


def loss(program: Program, logits: Tensor, *, upcasts: bool, n_tokens: Any) -> Tensor:
    """The compiled cross-entropy: reads the logits, keeps them and a log-sum-exp a token."""
    del upcasts
    made, sums = Tensor("loss", 1, FP32), Tensor("log-sum-exp", n_tokens, FP32)
    return program.record(
        "cross_entropy", [logits], made, saves=[logits, sums], gradients=[Gradient(logits)],
        side=[sums],
    )  # fmt: skip


def plain_loss(program: Program, logits: Tensor, *, upcasts: bool, n_tokens: Any) -> Tensor:
    """Torch's cross-entropy of the logits in fp32; torchtitan lets go of them before the backward."""
    del upcasts, n_tokens
    return kernels.nll_loss(program, _log_softmax(program, logits, "new", 0))


def spread_loss(program: Program, logits: Tensor, *, upcasts: bool, n_tokens: Any) -> Tensor:
    """Loss parallelism (``torch/distributed/tensor/parallel/loss.py``): each rank has its words.

    The forward holds exponentials beside the shifted logits. The backward of both steps is one sum of
    a one-hot tensor and of exponentials, and its product with the gradient.
    """
    del upcasts, n_tokens
    whole = Tensor("exponentials", logits.numel, FP32).n_bytes
    probs = _log_softmax(program, logits, "same", whole)
    made, total = Tensor("loss", 1, FP32), Tensor("total weight", 1, FP32)
    return program.record(
        "nll_loss", [probs], made, saves=[probs, total], side=[total],
        gradients=[Gradient(probs, scratch_bytes=2 * whole)],
    )  # fmt: skip


def _log_softmax(program: Program, logits: Tensor, kind: GradKind, beside: Any) -> Tensor:
    raised = Tensor("logits in fp32", logits.numel, FP32)
    program.record("raised", [logits], raised, gradients=[Gradient(logits)])
    probs = Tensor("log-probabilities", logits.numel, FP32)
    return program.record(
        "log_softmax", [raised], probs, saves=[probs], gradients=[Gradient(raised, kind)],
        forward_bytes=beside,
    )  # fmt: skip


def keeps(op: Op, n_before: int) -> bool:
    """Selective recomputation by operation: attention is kept, and every second product.

    Args:
        n_before: products that came before in the block.
    """
    return op.name == "attention" or (op.name == "linear" and n_before % 2 == 0)


STYLE = Style(
    norm, rotary, core, activation, loss,
    is_compiled=True, gathers_once=True, upcasts=transformers.upcasts_logits, keeps=keeps,
)  # fmt: skip
PLAIN = replace(STYLE, loss=plain_loss, spread_loss=spread_loss)
EAGER = replace(PLAIN, is_compiled=False)


def style(switches: Switches) -> Style:
    """The stack as its switches have it."""
    asked = TorchtitanSwitches.of(switches)
    usual = STYLE if asked.compiled_loss else PLAIN
    made = usual if asked.compile else EAGER
    return made if asked.fused_norm else replace(made, norm=plain_norm)
