"""Megatron core with Transformer Engine: fused norms, rotary positions, gates and losses.

Weight gradients are summed into the fp32 buffers of the main gradients by the product itself, so
none is ever a tensor of its own, unless ``no-gradient-fusion`` says so. Under sequence parallelism norms and residuals hold a share of
the tokens; a column-parallel linear gathers them for its product, twice.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

from lmsize.model.parts import AttentionCore, Norm
from lmsize.stacks import transformers
from lmsize.stacks.further import with_further
from lmsize.stacks.megatron_experts import mixture
from lmsize.stacks.megatron_switches import MegatronSwitches
from lmsize.stacks.setting import QKV, Adapting, Setting, Style, parameter
from lmsize.stacks.switches import Switches
from lmsize.tape import kernels, ops
from lmsize.tape.program import Gradient, Op, Program, Tensor

FP32 = 4
OF_HEADS = ("q_layernorm", "k_layernorm", "q_norm", "k_norm", "query_layernorm", "key_layernorm")


def is_part(x: Tensor) -> bool:
    """Whether it is a view of a part of a larger tensor."""
    return x.numel is not x.base.numel


def norm(program: Program, x: Tensor, part: Norm, setting: Setting, *, n_rows: Any) -> Tensor:
    """The fused norm saves its input and a deviation (LayerNorm: and a mean) a row.

    Heads that are a part of what queries, keys and values were projected to are copied for it.
    """
    if is_part(x) and part.name.rpartition(".")[2].startswith(OF_HEADS):
        x = ops.copy(program, x, name=f"{x.name} heads")
    weight = parameter(program, f"{part.name}.weight", part.width, setting)
    made = Tensor("norm", x.numel, x.itemsize, made_from=(x,))
    rows = [Tensor("row deviations", n_rows, FP32)]
    rows += [Tensor("row means", n_rows, FP32)] if part.has_means else []
    return program.record(
        "fused norm", [x, weight], made, saves=[x, *rows],
        gradients=[Gradient(x), Gradient(weight)], side=rows,
    )  # fmt: skip


def rotary(program: Program, x: Tensor, setting: Setting) -> Tensor:
    """One kernel that saves nothing but the shared table, or plain torch, which saves its own two.

    Source: Megatron-LM core/models/common/embeddings/rope_utils.py, _apply_rotary_pos_emb_bshd.
    """
    if MegatronSwitches.of(setting.switches).rope_fusion:
        return ops.pointwise(program, x, name="fused rotary")
    numel = setting.seq_len * setting.head_dim * setting.conduct.rotary_frac
    cosines, sines = (Tensor(name, numel, x.itemsize) for name in ("cosines", "sines"))
    program.ops.append(Op("rotary tables", (), (cosines, sines)))
    straight = ops.mul(program, x, cosines)
    half = x.numel // 2
    first, second = ops.narrow(program, x, numel=half), ops.narrow(program, x, numel=half)
    turned = ops.cat(program, [ops.pointwise(program, second, name="negative"), first])
    return ops.copy(program, ops.add(program, straight, ops.mul(program, turned, sines)))


def core(program: Program, qkv: QKV, part: AttentionCore, setting: Setting) -> Tensor:
    """Attention of cuDNN or flash-attention, or scores that the fused softmax keeps in 16 bits.

    Values come to it as a view of what queries, keys and values were projected to together; where
    rotary positions have made tensors of the other two, it is copied, and that can go.
    """
    start = len(program.ops)
    attend = _unfused if is_unfused(setting) else _fused
    out = attend(program, qkv, part, setting)
    if setting.runs_again("core_attn"):
        program.recompute(start)
    return out


def _fused(program: Program, qkv: QKV, part: AttentionCore, setting: Setting) -> Tensor:
    q, k, v = qkv
    width, switches = part.n_heads * part.v_head_dim, MegatronSwitches.of(setting.switches)
    if switches.attention_backend == "flash":  # its kernels want sequences outermost
        q, k, v = (ops.copy(program, x, name="transposed") for x in (q, k, v))
    elif is_part(v) and q.base is not v.base:  # no layout that the kernels know (get_qkv_layout)
        v = ops.copy(program, v, name="values")
    trades_heads = switches.cp_comm == "a2a" and setting.layout.cp > 1
    if trades_heads:  # AttnFuncWithCPAndQKVOA2A of Transformer Engine's context_parallel.py
        q, k, v = (ops.copy(program, x, numel=x.numel, name="by heads") for x in (q, k, v))
    out = kernels.fused_attention(
        program, q, k, v, numel=setting.n_tokens * width, n_log_sums=setting.n_tokens * part.n_heads
    )
    if trades_heads:
        out = ops.copy(program, out, numel=out.numel, name="by tokens")
    is_turned = switches.attention_backend == "flash" and setting.micro_batch > 1
    return ops.copy(program, out, name="transposed back") if is_turned else out


def is_unfused(setting: Setting) -> bool:
    """Whether scores are there: asked for, or all that Megatron's own layers have."""
    switches = MegatronSwitches.of(setting.switches)
    named = switches.attention_backend == "unfused" or setting.attention == "eager"
    return named or switches.transformer_impl == "local"


def _unfused(program: Program, qkv: QKV, part: AttentionCore, setting: Setting) -> Tensor:
    q, k, v = qkv
    width = part.n_heads * part.v_head_dim
    n_keys = setting.n_keys or setting.seq_len if part.cross else setting.seq_len
    n_scores = setting.n_tokens * part.n_heads * n_keys
    if part.n_kv_heads != part.n_heads:
        k = ops.copy(program, k, numel=setting.n_tokens * part.n_heads * part.head_dim)
        v = ops.copy(program, v, numel=setting.n_tokens * width)
    scores = ops.matmul(program, q, k, numel=n_scores, name="scores")
    probs = _softmax(program, scores, setting)
    probs = ops.dropout(program, probs, setting.conduct.attention_dropout)
    return ops.copy(
        program, ops.matmul(program, probs, v, numel=setting.n_tokens * width, name="attention")
    )


def _softmax(program: Program, scores: Tensor, setting: Setting) -> Tensor:
    """Scaled and masked in one kernel, or by torch: masked in place, in fp32 if so said.

    Source: Megatron-LM core/fusions/fused_softmax.py, FusedScaleMaskSoftmax.
    """
    switches = MegatronSwitches.of(setting.switches)
    if switches.softmax_fusion or switches.transformer_impl != "local":
        return ops.pointwise(program, scores, name="fused softmax", saves="output")
    raised = ops.cast(program, scores, FP32) if switches.fp32_softmax else scores
    scaled = ops.pointwise(program, raised, name="scaled") if switches.fp32_softmax else raised
    masked = ops.in_place(program, scaled, name="masked")
    return ops.cast(
        program, ops.pointwise(program, masked, name="softmax", saves="output"), scores.itemsize
    )


def activation(program: Program, x: Tensor, kind: str) -> Tensor:
    """A fused kernel that saves its input."""
    return ops.pointwise(program, x, name=kind, saves="input")


def gated(program: Program, gate: Tensor, other: Tensor, kind: str) -> Tensor:
    """SwiGLU in one kernel: saves what it reads, and computes the activation again."""
    made = Tensor(f"gated {kind}", gate.numel, gate.itemsize)
    return program.record(
        "gated", [gate, other], made, saves=[gate, other],
        gradients=[Gradient(gate), Gradient(other)],
    )  # fmt: skip


def loss(program: Program, logits: Tensor, *, upcasts: bool, n_tokens: Any, kind: str) -> Tensor:
    """Cross-entropy over a share of the vocabulary.

    Megatron's own (``eager``) is in place on the logits in fp32; compiled (``native``) it has the
    softmax beside them; Transformer Engine's (``te``) writes the gradient over the logits.
    """
    del upcasts, n_tokens
    raised = logits if kind == "te" else ops.cast(program, logits, FP32, name="logits in fp32")
    if kind == "native":
        probs = ops.pointwise(program, raised, name="softmax")
    else:
        probs = ops.in_place(program, raised, name="softmax")
    made = Tensor("loss", 1, FP32)
    return program.record(
        "cross_entropy", [probs], made, saves=[probs], gradients=[Gradient(probs, "saved")]
    )


STYLE = Style(
    norm, rotary, core, activation, partial(loss, kind="eager"), gated=gated, mixture=mixture,
    recomputes_modules=True, fuses_weight_gradients=True, reentrant=True, copies_values=True,
    fuses_matrices=True, hands_masks=False, gives_views=False, adapting=Adapting(itemsize=None, casts=False),
    upcasts=transformers.upcasts_logits,
)  # fmt: skip


@cache
def style(switches: Switches) -> Style:
    """The stack as its switches have it."""
    asked = MegatronSwitches.of(switches)
    return replace(
        STYLE, loss=partial(loss, kind=asked.cross_entropy),
        fuses_weight_gradients=asked.gradient_fusion,
        # Linears of Megatron's own gather in GlobalMemoryBuffer (core/tensor_parallel/layers.py).
        buffers=("head", "layer") if asked.transformer_impl == "local" else ("head",),
        built=partial(with_further, n_layers=asked.mtp_layers or 0),
    )  # fmt: skip
