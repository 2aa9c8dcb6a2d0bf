"""Unsloth: hand-written derivatives of adapted layers, checkpoints on the host, a loss without logits.

Read off unsloth's `kernels/` (fast_lora.py, rms_layernorm.py, rope_embedding.py) and unsloth_zoo's
gradient checkpointing of 2025. A layer's input goes to the host after its forward and comes back
to be run again. Activations are in 16 bits throughout; adapters in fp32 are cast where they are used.
"""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import AttentionCore, Linear, Norm
from lmsize.stacks import megatron, transformers
from lmsize.stacks.activations import activation
from lmsize.stacks.linears import applied, base_product
from lmsize.stacks.setting import QKV, Adapting, Setting, Style
from lmsize.tape import kernels, ops
from lmsize.tape.program import Gradient, Program, Tensor


def norm(program: Program, x: Tensor, part: Norm, setting: Setting, *, n_rows: Any) -> Tensor:
    """One kernel for RMSNorm and LayerNorm: saves its input and a deviation a row."""
    return megatron.norm(program, x, part, setting, n_rows=n_rows)


def rotary(program: Program, x: Tensor, setting: Setting) -> Tensor:
    """Queries and keys are turned where they lie, and so are their gradients."""
    del setting
    return ops.in_place(program, x, name="rotary in place")


def core(program: Program, qkv: QKV, part: AttentionCore, setting: Setting) -> Tensor:
    """Flash attention or torch's kernel over as many key-value heads as there are."""
    q, k, v = qkv
    return kernels.fused_attention(
        program, q, k, v, numel=setting.n_tokens * part.n_heads * part.v_head_dim,
        n_log_sums=setting.n_tokens * part.n_heads,
    )  # fmt: skip


def gated(program: Program, gate: Tensor, other: Tensor, kind: str) -> Tensor:
    """The activation times its gate: saves both, over which their gradients are written."""
    made = Tensor(f"gated {kind}", gate.numel, gate.itemsize)
    return program.record(
        "gated", [gate, other], made, saves=[gate, other],
        gradients=[Gradient(gate, "saved"), Gradient(other, "saved")],
    )  # fmt: skip


def down(program: Program, x: Tensor, linear: Linear, setting: Setting) -> Tensor:
    """``LoRA_MLP``'s last product: its input is computed again over its own gradient, not saved."""
    rank = setting.rank(linear.name)
    if rank is None or setting.trains_base:
        return applied(program, x, linear, setting)
    base = base_product(program, x, linear, setting)
    itemsize = setting.adapting.itemsize or setting.weight_itemsize
    first = program.parameter("lora_A", linear.n_in * rank, itemsize, trained=True)
    second = program.parameter("lora_B", rank * linear.n_out, itemsize, trained=True)
    made = Tensor("adapted", base.numel, base.itemsize)
    return program.record(
        "adapted in place", [x, base], made,
        gradients=[Gradient(base, "same"), Gradient(x), Gradient(first), Gradient(second)],
    )  # fmt: skip


ADAPTING = Adapting(casts=False)
STYLE = Style(
    norm, rotary, core, activation, transformers.loss, gated=gated,
    upcasts=transformers.upcasts_logits, adapting=ADAPTING, down=down, offloads=True, reentrant=True,
)  # fmt: skip
