"""Builders of the parts that families share: attention, MLPs, experts, heads.

Module names are transformers', so that LoRA targets and quantisation find them. A builder takes
dimensions, never a config: reading keys is the family's work.
"""

from __future__ import annotations

from collections.abc import Iterable

from lmsize.model.config import Config
from lmsize.model.parts import AttentionCore, Embedding, Experts, Linear, Norm, Part
from lmsize.model.spec import Block, ModelSpec, Run, Tower, stacked


def attention(
    *, width: int, n_heads: int, n_kv_heads: int, head_dim: int, prefix: str = "self_attn",
    names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
    qkv_bias: bool = False, out_bias: bool = False, window: int | None = None,
    causal: bool = True, cross: bool = False, kv_width: int | None = None,
) -> tuple[Part, ...]:  # fmt: skip
    """Multi-head, grouped-query or multi-query attention with four projections.

    Args:
        kv_width: width of what keys and values are computed from, if not `width` (cross
            attention to another tower).
    """
    query, key, value, out = (f"{prefix}.{name}" for name in names)
    q_width, k_width = n_heads * head_dim, n_kv_heads * head_dim
    source = kv_width or width
    return (
        Linear(query, width, q_width, qkv_bias, "column", n_heads),
        Linear(key, source, k_width, qkv_bias, "column", n_kv_heads),
        Linear(value, source, k_width, qkv_bias, "column", n_kv_heads),
        AttentionCore(n_heads, n_kv_heads, head_dim, head_dim, window, causal, cross),
        Linear(out, q_width, width, out_bias, "row", n_heads),
    )


def fused_attention(
    *, width: int, n_heads: int, n_kv_heads: int, head_dim: int, qkv: str, out: str,
    qkv_bias: bool = False, out_bias: bool = False, window: int | None = None,
    causal: bool = True,
) -> tuple[Part, ...]:  # fmt: skip
    """Attention whose query, key and value come from one matrix (GPT-2, NeoX, Falcon, Phi-3)."""
    fused = (n_heads + 2 * n_kv_heads) * head_dim
    return (
        Linear(qkv, width, fused, qkv_bias, "column", n_kv_heads),
        AttentionCore(n_heads, n_kv_heads, head_dim, head_dim, window, causal),
        Linear(out, n_heads * head_dim, width, out_bias, "row", n_heads),
    )


def gated_mlp(
    *, width: int, ffn: int, prefix: str = "mlp", bias: bool = False,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> tuple[Part, ...]:  # fmt: skip
    """SwiGLU and its relatives: gate and up projections, their product, down projection."""
    gate, up, down = (f"{prefix}.{name}" for name in names)
    return (
        Linear(gate, width, ffn, bias, "column"),
        Linear(up, width, ffn, bias, "column"),
        Linear(down, ffn, width, bias, "row"),
    )


def mlp(*, width: int, ffn: int, up: str, down: str, bias: bool = True) -> tuple[Part, ...]:
    """Two matrices with an activation between them."""
    return (Linear(up, width, ffn, bias, "column"), Linear(down, ffn, width, bias, "row"))


def routed_experts(
    *, width: int, ffn: int, n_experts: int, top_k: int, prefix: str = "mlp",
    gated: bool = True, bias: bool = False, router: str = "gate", router_bias: bool = False,
    experts: str = "experts",
) -> tuple[Part, ...]:  # fmt: skip
    """A router and its fused experts. Shared experts are ordinary MLPs that a family adds."""
    up = ("gate_up_proj", width, 2 * ffn) if gated else ("up_proj", width, ffn)
    return (
        Linear(f"{prefix}.{router}", width, n_experts, router_bias, adaptable=False),
        Experts(f"{prefix}.{experts}", (up, ("down_proj", ffn, width)), n_experts, top_k, bias),
    )


def token_embedding(
    config: Config, *, vocab: int, width: int, name: str, extra: Iterable[Part] = ()
) -> Block:
    """The token table, and whatever else happens before the first layer."""
    return Block(
        "embedding", (Embedding(name, vocab, width, is_vocabulary=True), *extra), "embedding"
    )


def lm_head(
    *, width: int, vocab: int, tied: bool, bias: bool = False, name: str = "lm_head"
) -> Linear:
    """The projection to the vocabulary; tied, it holds no matrix of its own.

    bitsandbytes and peft's ``all-linear`` leave the output projection alone.
    """
    return Linear(name, width, vocab, bias, "column", adaptable=False, tied=tied)


def decoder_head(
    config: Config, *, width: int, lm: Iterable[Part], final: Iterable[Part] = ()
) -> Block:
    """What follows the last layer of a decoder, by the class that the config names.

    ``lm`` is the head of its causal class; ``final`` the norm that every class has. The other
    heads are transformers' generic ones.
    """
    labels = config.n_labels
    heads: dict[str, tuple[Part, ...]] = {
        "Model": (),
        "SequenceClassification": (Linear("score", width, labels, adaptable=False),),
        "TokenClassification": (Linear("score", width, labels, True, adaptable=False),),
        "QuestionAnswering": (Linear("qa_outputs", width, 2, True, adaptable=False),),
    }
    return Block("head", (*final, *heads.get(config.task, tuple(lm))), "head")


def decoder(
    config: Config, *, width: int, n_layers: int, n_heads: int, vocab: int, embedding: Block,
    layers: Iterable[Block], head: Block, max_positions: int | None,
    learned_positions: bool = False, extra_towers: tuple[Tower, ...] = (),
) -> ModelSpec:  # fmt: skip
    """A model with one tower over the input tokens (decoder-only or encoder-only)."""
    runs = (Run(embedding), *stacked(layers), Run(head))
    return ModelSpec(
        name="", model_type=config.model_type, architecture=config.architecture, width=width,
        n_layers=n_layers, n_heads=n_heads, vocab_size=vocab, max_positions=max_positions,
        learned_positions=learned_positions, towers=(*extra_towers, Tower("decoder", runs)),
        assumptions=(),
    )  # fmt: skip


def rms_norm(name: str, width: int) -> Norm:
    """RMSNorm: a scale, no bias."""
    return Norm(name, width)


def layer_norm(name: str, width: int, *, bias: bool = True) -> Norm:
    """LayerNorm: a scale and, unless said otherwise, a bias."""
    return Norm(name, width, bias, is_layer_norm=True)
