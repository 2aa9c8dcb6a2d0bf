"""Kimi K3, which no class of transformers builds: counted from what its config's keys name.

Kimi delta attention and gated latent attention alternate, experts work in a narrower latent, and
each half of a layer attends over the outputs of earlier blocks. The sum is within 1e-7 of the
total of the published checkpoint.
"""

from __future__ import annotations

from dataclasses import replace

from lmsize.model.blocks import gated_mlp, rms_norm
from lmsize.model.config import Config
from lmsize.model.delta_blocks import DeltaNet, kimi_delta
from lmsize.model.family import family
from lmsize.model.latent_blocks import latent_attention, latent_shape, read_latent
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    chosen,
    expert_bank,
    int_list,
    mixture_decoder,
    pre_norm_layer,
    router,
    shared_mlp,
)
from lmsize.model.parts import AttentionCore, Conv, Embedding, Linear, Part, Plain
from lmsize.model.spec import Block, ModelSpec, Run, Tower


@family("kimi_k3")
def kimi_k3(config: Config) -> ModelSpec:
    """The text decoder and its vision tower."""
    config.assume(
        "no-transformers-class",
        "no class of transformers builds Kimi K3: counted from the keys of its config",
    )
    text = config.section("text_config", "kimi_linear") or config.typed("kimi_linear")
    spec = _text(text.replaced(tie_word_embeddings=config.flag("tie_word_embeddings")))
    vision = config.section("vision_config")
    towers = (*((_vision(vision),) if vision else ()), *spec.towers)
    return replace(
        spec, model_type=config.model_type, architecture=config.architecture, towers=towers
    )


def _text(config: Config) -> ModelSpec:
    shape = latent_shape(config)
    width = shape.width
    queries = tuple(
        part
        for half in ("attn", "mlp")
        for part in (Plain(f"{half}_res.query", (width,)), rms_norm(f"{half}_res.norm", width))
    )

    def layer(kind: tuple[bool, bool]) -> Block:
        linear, sparse = kind
        attn = _delta(config, width) if linear else _latent(config, shape)
        ffn = config.int("intermediate_size")
        mlp = _experts(config, width) if sparse else gated_mlp(width=width, ffn=ffn)
        return pre_norm_layer(width, (*queries, *attn), mlp, sparse=sparse)

    net = _section(config)
    linear_at = set(int_list(net, "kda_layers") or [])  # counted from 1
    n_dense = config.int("first_k_dense_replace", 1, least=0)
    kinds = ((i + 1 in linear_at, i >= n_dense) for i in range(shape.n_layers))
    final = (Plain("final_res.query", (width,)), rms_norm("final_res.norm", width))
    return mixture_decoder(config, shape, built(kinds, layer), final=final)


def _section(config: Config) -> Config:
    return config.section("linear_attn_config") or Config({}, "", path="linear_attn_config.")


def _delta(config: Config, width: int) -> tuple[Part, ...]:
    own = _section(config)
    n_heads, head_dim = own.int("num_heads", 32), own.int("head_dim", 128)
    kernel = own.int("short_conv_kernel_size", 4)
    net = DeltaNet(width, n_heads, n_heads, head_dim, head_dim, kernel)
    parts = kimi_delta(net, low_rank=True)
    if not own.flag("use_full_rank_gate"):
        return parts
    gate = Linear("self_attn.g_proj", width, net.values, False, "column", n_heads)
    low_rank = ("self_attn.g_a_proj", "self_attn.g_b_proj")
    return (*(p for p in parts if getattr(p, "name", "") not in low_rank), gate)


def _latent(config: Config, shape: Shape) -> tuple[Part, ...]:
    dims = read_latent(config, shape.n_heads)
    attn = latent_attention(shape.width, dims)
    if not config.flag("mla_use_output_gate"):
        return attn
    gated = dims.n_heads * dims.v
    return (*attn, Linear("self_attn.g_proj", shape.width, gated, False, "column", dims.n_heads))


def _experts(config: Config, width: int) -> tuple[Part, ...]:
    """Routed experts between projections to a narrower latent and back; shared ones beside."""
    latent = config.int("routed_expert_hidden_size", width)
    n_experts, ffn = config.int("num_experts"), config.int("moe_intermediate_size")
    top_k = chosen(config, "num_experts_per_token", n_experts, 8)
    n_shared = config.int("num_shared_experts", 1, least=0)
    narrow: tuple[Part, ...] = ()
    if latent != width:
        narrow = (
            Linear("mlp.latent_down_proj", width, latent),
            Linear("mlp.latent_up_proj", latent, width),
        )
        if config.flag("latent_moe_use_norm"):
            narrow += (rms_norm("mlp.latent_norm", latent),)
    return (
        router(width, n_experts, "mlp.gate"),
        expert_bank(latent, ffn, n_experts, top_k),
        *narrow,
        *(shared_mlp(width, ffn * n_shared) if n_shared else ()),
    )


def _vision(config: Config) -> Tower:
    """MoonViT with RMSNorm and no biases, then a merger of neighbouring patches."""
    width, ffn = config.int("vt_hidden_size"), config.int("vt_intermediate_size")
    n_heads = config.int("vt_num_attention_heads")
    inner = config.int("qkv_hidden_size", width)
    head_dim = max(1, inner // n_heads)
    layer = Block(
        "layer",
        (
            rms_norm("norm0", width),
            Linear("wqkv", width, 3 * inner, False, "column", n_heads),
            AttentionCore(n_heads, n_heads, head_dim, head_dim, causal=False, cache_width=0),
            Linear("wo", inner, width, False, "row", n_heads),
            rms_norm("norm1", width),
            Linear("mlp.fc0", width, ffn, False, "column"),
            Linear("mlp.fc1", ffn, width, False, "row"),
        ),
    )
    rows = config.int("init_pos_emb_height", 64) * config.int("init_pos_emb_width", 64)
    first = (
        Conv("patch_embed.proj", 3, width, config.int("patch_size", 14) ** 2, bias=False),
        Embedding("patch_embed.pos_emb", rows, width),
    )
    sides = int_list(config, "merge_kernel_size") or [2, 2]
    merged = width * sides[0] * sides[-1]
    last = (
        rms_norm("final_layernorm", width),
        Linear("merger.linear_1", merged, merged),
        Linear("merger.linear_2", merged, config.int("text_hidden_size")),
    )
    n_layers = config.int("vt_num_hidden_layers")
    runs = (
        Run(Block("embedding", first, "embedding")),
        Run(layer, n_layers, n_layers),
        Run(Block("merger", last)),
    )
    return Tower("vision", runs, "idle")
