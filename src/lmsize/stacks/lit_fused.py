"""lit-gpt with kernels of flash-attn and xformers, as TinyLlama's fork has it.

Norms are flash-attn's, rotary positions are turned in place, attention takes as many heads of keys as there
are, the MLP is xformers' SwiGLU, and the loss writes the gradient over the logits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lmsize.model.parts import AttentionCore, Linear
from lmsize.stacks import litgpt, megatron, unsloth
from lmsize.stacks.linears import applied
from lmsize.stacks.setting import QKV, Setting, parameter
from lmsize.tape import ops
from lmsize.tape.program import Gradient, Program, Tensor


def rotary(program: Program, x: Tensor, setting: Setting) -> Tensor:
    """Heads are copied out of what the three were projected to together, and turned where they lie."""
    return unsloth.rotary(program, ops.copy(program, x, name=f"{x.name} heads"), setting)


def core(program: Program, qkv: QKV, part: AttentionCore, setting: Setting) -> Tensor:
    """flash-attn's kernel, on values that are copied out as the other two are."""
    q, k, v = qkv
    return unsloth.core(program, (q, k, ops.copy(program, v, name="values")), part, setting)


def down(program: Program, x: Tensor, linear: Linear, setting: Setting) -> Tensor:
    """SwiGLU's last product: its input is computed again from the gate and its other half, not saved.

    Source: xformers/ops/swiglu_op.py, _SwiGLUFusedFunc.
    """
    if setting.rank(linear.name) is not None or not setting.trains(linear.name):
        return applied(program, x, linear, setting)
    weight = parameter(program, linear.name, linear.n_in * linear.n_out, setting)
    x, weight = ops.lowered(program, x), ops.lowered(program, weight)
    made = Tensor(linear.name, x.numel // linear.n_in * linear.n_out, x.itemsize)
    return program.record(
        "linear of what is made again", [x, weight], made, saves=[weight],
        gradients=[Gradient(x), Gradient(weight)], backward_bytes=x.n_bytes,
    )  # fmt: skip


def loss(program: Program, logits: Tensor, *, upcasts: bool, n_tokens: Any) -> Tensor:
    """One kernel that saves the logits, in fp32 as Fabric hands them over, and a number a token."""
    del upcasts
    raised = litgpt.handed_over(program, logits)
    sums, made = Tensor("log-sum-exp", n_tokens, litgpt.FP32), Tensor("loss", 1, litgpt.FP32)
    return program.record(
        "fused cross-entropy", [raised], made, saves=[raised, sums],
        gradients=[Gradient(raised, "saved")], side=[sums],
    )  # fmt: skip


STYLE = replace(
    litgpt.STYLE, norm=megatron.norm, rotary=rotary, core=core, gated=megatron.gated, down=down,
    loss=loss,
)  # fmt: skip
