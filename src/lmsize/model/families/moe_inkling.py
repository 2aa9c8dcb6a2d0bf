"""Inkling and Inkling 2: hybrid layers with relative logits and short convolutions."""

from __future__ import annotations

from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    chosen,
    expert_bank,
    grouped_query,
    int_list,
    kinds_by_layer,
    mixture_decoder,
    pre_norm_layer,
    read_shape,
    router,
    shared_mlp,
    sparse_layers,
    sparse_mlp,
)
from lmsize.model.parts import Conv, Experts, Linear, Norm, Part, Plain
from lmsize.model.spec import Block, ModelSpec

LOCAL, GLOBAL = "hybrid_sliding", "hybrid"


def _attention_shape(config: Config, shape: Shape, kind: str) -> Shape:
    """Heads of this kind of layer: sliding layers have keys of their own."""
    if kind == GLOBAL:
        return shape
    return Shape(
        shape.width, shape.n_layers, config.int("swa_num_attention_heads"), shape.vocab,
        config.int("swa_num_key_value_heads"), config.int("swa_head_dim"),
    )  # fmt: skip


def _relative(config: Config, own: Shape, kind: str) -> tuple[Part, ...]:
    """Logits by distance, as far back as the layer looks."""
    d_rel = config.int("d_rel")
    extent = config.int("sliding_window_size" if kind == LOCAL else "rel_extent")
    return (
        Linear("self_attn.r_proj", own.width, own.n_heads * d_rel, False, "column", own.n_heads),
        Plain("self_attn.rel_logits_proj.proj", (d_rel, extent)),
    )


def _short_conv(name: str, width: int, kernel: int) -> Conv:
    return Conv(f"{name}.conv1d", width, width, kernel, width, bias=False)


def _kinds(config: Config, n_layers: int) -> list[str]:
    """Five sliding layers to a global one unless the file lists them."""
    local = int_list(config, "local_layer_ids") if config.model_type == "inkling_text" else None
    at = {i for i in range(n_layers) if (i + 1) % 6} if local is None else set(local)
    return kinds_by_layer(
        config, "layer_types", n_layers, (LOCAL, GLOBAL), lambda i: LOCAL if i in at else GLOBAL
    )


@family("inkling_text")
def inkling_text(config: Config) -> ModelSpec:
    """Inkling: shared experts kept as a bank of their own, scored by the router too."""
    shape, kernel = read_shape(config), config.int("conv_kernel_size")
    width = shape.width

    def layer(kind: tuple[str, bool]) -> Block:
        own = _attention_shape(config, shape, kind[0])
        k_width = own.n_kv_heads * own.head_dim
        window = config.int("sliding_window_size") if kind[0] == LOCAL else None
        attn = (
            *grouped_query(own, window=window, qk_norm=True),
            *_relative(config, own, kind[0]),
            _short_conv("self_attn.k_sconv", k_width, kernel),
            _short_conv("self_attn.v_sconv", k_width, kernel),
        )
        mlp = _experts(config, width) if kind[1] else _dense(config, width)
        convs = (_short_conv("attn_sconv", width, kernel), _short_conv("mlp_sconv", width, kernel))
        return pre_norm_layer(width, attn, (*mlp, *convs), sparse=kind[1])

    n_dense = config.int("dense_mlp_idx", 0, least=0)
    sparse_at = sparse_layers(config, shape.n_layers, n_dense)
    kinds = zip(_kinds(config, shape.n_layers), sparse_at, strict=True)
    extra = [Norm("embed_tokens.embed_norm", width)]
    return mixture_decoder(config, shape, built(kinds, layer), extra=extra, can_tie=False)


def _dense(config: Config, width: int) -> tuple[Part, ...]:
    """The Hub's files give ``intermediate_size`` to the experts if they name the dense width."""
    older = config.has("dense_intermediate_size")
    ffn = config.int("dense_intermediate_size" if older else "intermediate_size")
    return (*shared_mlp(width, ffn, prefix="mlp"), Plain("mlp.global_scale", (1,)))


def _experts(config: Config, width: int) -> tuple[Part, ...]:
    older = config.has("dense_intermediate_size")
    ffn = config.int("intermediate_size" if older else "moe_intermediate_size")
    n_experts = config.int("n_routed_experts")
    n_shared = config.int("n_shared_experts", least=0)
    top_k = chosen(config, "num_experts_per_tok", n_experts, 1)
    parts: tuple[Part, ...] = (
        router(width, n_experts + n_shared, "mlp.gate"),
        Plain("mlp.gate.global_scale", (1,)),
        expert_bank(width, ffn, n_experts, top_k),
    )
    if n_shared:
        matrices = (("gate_proj", width, ffn), ("up_proj", width, ffn), ("down_proj", ffn, width))
        parts += (Experts("mlp.shared_experts", matrices, n_shared, n_shared),)
    return parts


@family("inkling2_text")
def inkling2_text(config: Config) -> ModelSpec:
    """Inkling 2: clipped queries, gates and sinks from the input, attention over blocks' outputs."""
    shape, kernel = read_shape(config), config.int("conv_kernel_size")
    width = shape.width
    mlp = (
        *sparse_mlp(config, width, n_key="n_routed_experts"),
        _short_conv("post_attention_convolution", width, kernel),
        _short_conv("post_mlp_convolution", width, kernel),
        Plain("mlp_input.query", (width,)),
    )

    def layer(kind: tuple[str, bool]) -> Block:
        slides, first = kind[0] == LOCAL, kind[1]
        names = ("",) if slides else ("q_", "k_", "v_")
        norms = [Norm(f"{name}input_layernorm", width) for name in names]
        queries = () if first else (_query(width, len(names)),)
        attn = _clipped_attention(config, _attention_shape(config, shape, kind[0]), slides, kernel)
        after = Norm("post_attention_layernorm", width)
        return Block("moe layer", (*queries, *norms, *attn, after, *mlp))

    kinds = ((kind, i == 0) for i, kind in enumerate(_kinds(config, shape.n_layers)))
    return mixture_decoder(
        config, shape, built(kinds, layer), can_tie=False,
        extra=[Norm("embed_tokens.embed_norm", width)], final=[Plain("final_input.query", (width,))],
    )  # fmt: skip


def _query(width: int, n_queries: int) -> Plain:
    """What a layer asks the outputs of the blocks before it for its own input."""
    return Plain("attention_input.query", (width,) if n_queries == 1 else (n_queries, width))


def _clipped_attention(config: Config, own: Shape, slides: bool, kernel: int) -> tuple[Part, ...]:
    heads, head_dim, width = own.n_heads, own.head_dim, own.width
    k_width = own.n_kv_heads * head_dim
    window = config.int("sliding_window_size") if slides else None
    convs: tuple[Part, ...] = ()
    for name in ("self_attn.k_sconv", "self_attn.v_sconv"):
        if slides:
            convs += (_short_conv(name, k_width, kernel),)
        else:  # kernels that depend on the input, on top of fixed ones
            convs += (
                Plain(f"{name}.static_weight", (kernel, k_width)),
                Linear(f"{name}.weight_proj", width, own.n_kv_heads * kernel),
            )
    return (
        *grouped_query(own, window=window),
        *_relative(config, own, LOCAL if slides else GLOBAL),
        *convs,
        Linear("self_attn.gate_proj", width, heads * head_dim, False, "column", heads),
        Linear("self_attn.sink_proj", width, heads, False, "column", heads),
        Plain("self_attn.q_l2_clip.scale", (heads, head_dim)),
        Plain("self_attn.rel_l2_clip.scale", (heads, config.int("d_rel"))),
    )
