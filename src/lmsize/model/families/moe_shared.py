"""Decoders with grouped-query attention whose layers mix dense MLPs, routed and shared experts."""

from __future__ import annotations

from collections.abc import Iterable

from lmsize.model.blocks import gated_mlp
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    grouped_query,
    int_list,
    mixture_decoder,
    nullable_int,
    pre_norm_layer,
    read_shape,
    shared_mlp,
    sliding_layers,
    sparse_layers,
    sparse_mlp,
)
from lmsize.model.parts import Linear, Part
from lmsize.model.spec import Block, ModelSpec

Plan = Iterable[tuple[int | None, bool]]


def dense_mlp(config: Config, shape: Shape, *, bias: bool = False) -> tuple[Part, ...]:
    """The gated MLP of a layer without experts."""
    return gated_mlp(width=shape.width, ffn=config.int("intermediate_size"), bias=bias)


def qwen_sparse(config: Config, n_layers: int, only: list[int]) -> list[bool]:
    """Qwen's pattern: every ``decoder_sparse_step``-th layer but those listed as dense."""
    dense, every = set(only), config.int("decoder_sparse_step", 1)
    some = config.int("num_experts", least=0) > 0
    return [some and i not in dense and (i + 1) % every == 0 for i in range(n_layers)]


@family("qwen2_moe", "qwen3_moe")
def qwen_moe(config: Config) -> ModelSpec:
    """Qwen2-MoE has a gated shared expert and QKV biases, Qwen3-MoE norms of queries and keys."""
    shape, second = read_shape(config), config.model_type == "qwen2_moe"
    biased = config.flag("qkv_bias" if second else "attention_bias")

    def layer(kind: tuple[int | None, bool]) -> Block:
        window, sparse = kind
        attn = grouped_query(
            shape, qkv_bias=biased, out_bias=biased and not second, window=window,
            qk_norm=not second,
        )  # fmt: skip
        mlp = _qwen_experts(config, shape) if sparse else dense_mlp(config, shape)
        return pre_norm_layer(shape.width, attn, mlp, sparse=sparse)

    sparse = qwen_sparse(config, shape.n_layers, int_list(config, "mlp_only_layers") or [])
    kinds = zip(_qwen_windows(config, shape.n_layers), sparse, strict=True)
    return mixture_decoder(config, shape, built(kinds, layer))


def _qwen_windows(config: Config, n_layers: int) -> list[int | None]:
    if not config.flag("use_sliding_window"):
        return [None] * n_layers
    if config.model_type == "qwen3_moe":
        return [nullable_int(config, "sliding_window") or None] * n_layers
    upto = config.int("max_window_layers", 28, least=0)
    return sliding_layers(config, n_layers, lambda i: (i + 1) % 2 == 1 and i < upto)


def _qwen_experts(config: Config, shape: Shape) -> tuple[Part, ...]:
    experts = sparse_mlp(config, shape.width)
    if config.model_type == "qwen3_moe":
        return experts
    ffn = config.int("shared_expert_intermediate_size", least=0)
    shared = shared_mlp(shape.width, ffn, prefix="mlp.shared_expert")
    return (*experts, *shared, Linear("mlp.shared_expert_gate", shape.width, 1))


@family("flint")
def flint(config: Config) -> ModelSpec:
    """Qwen3-MoE with sinks, windows and a shared expert without a gate."""
    shape, biased = read_shape(config), config.flag("attention_bias")
    n_layers = shape.n_layers

    def layer(kind: tuple[int | None, bool]) -> Block:
        window, sparse = kind
        attn = grouped_query(
            shape, qkv_bias=biased, out_bias=biased, window=window, qk_norm=True, sinks=True
        )
        mlp: tuple[Part, ...] = dense_mlp(config, shape)
        if sparse:
            ffn = config.int("shared_expert_intermediate_size", least=0)
            shared = shared_mlp(shape.width, ffn, prefix="mlp.shared_expert")
            mlp = (*sparse_mlp(config, shape.width), *shared)
        return pre_norm_layer(shape.width, attn, mlp, sparse=sparse)

    only = int_list(config, "mlp_only_layers")
    sparse_at = qwen_sparse(config, n_layers, [0, 1] if only is None else only)
    windows = sliding_layers(
        config, n_layers, lambda i: not (i < 2 or i % 4 == 1 or i == n_layers - 1)
    )
    return mixture_decoder(config, shape, built(zip(windows, sparse_at, strict=True), layer))


@family("dots1", "glm4_moe", "solar_open")
def dense_then_sparse(config: Config) -> ModelSpec:
    """DeepSeek-V3's experts on grouped-query attention: the first layers dense, one shared MLP."""
    shape, kind_of = read_shape(config), config.model_type
    biased = config.flag("attention_bias")
    normed = kind_of == "dots1" or config.flag("use_qk_norm")

    def layer(kind: tuple[int | None, bool]) -> Block:
        window, sparse = kind
        attn = grouped_query(
            shape, qkv_bias=biased, out_bias=biased and kind_of == "dots1", window=window,
            qk_norm=normed,
        )  # fmt: skip
        mlp = deepseek_experts(config, shape.width) if sparse else dense_mlp(config, shape)
        return pre_norm_layer(shape.width, attn, mlp, sparse=sparse)

    n_layers = shape.n_layers
    windows: list[int | None] = [None] * n_layers
    if kind_of == "dots1":
        upto = config.int("max_window_layers", 62, least=0)
        windows = sliding_layers(config, n_layers, lambda i: i >= upto)
    n_dense = 0 if kind_of == "solar_open" else config.int("first_k_dense_replace", 0, least=0)
    sparse_at = [i >= n_dense for i in range(n_layers)]
    return mixture_decoder(config, shape, built(zip(windows, sparse_at, strict=True), layer))


def deepseek_experts(
    config: Config, width: int, *, shared_key: str = "n_shared_experts", bias: bool = False,
    n_key: str = "n_routed_experts",
) -> tuple[Part, ...]:  # fmt: skip
    """Routed experts and one MLP as wide as all the shared experts together."""
    n_shared = config.int(shared_key, 0, least=0)
    shared = shared_mlp(width, n_shared * config.int("moe_intermediate_size"), bias=bias)
    return (*sparse_mlp(config, width, n_key=n_key), *shared)


@family("hy_v3")
def hy_v3(config: Config) -> ModelSpec:
    """Hunyuan 3: norms of queries and keys, optional biases."""
    shape, biased = read_shape(config), config.flag("attention_bias")
    mlp_bias, width = config.flag("mlp_bias"), shape.width
    attn = grouped_query(shape, qkv_bias=biased, out_bias=biased, qk_norm=True)

    def layer(sparse: bool) -> Block:
        mlp = dense_mlp(config, shape, bias=mlp_bias)
        if sparse:
            ffn = config.int("moe_intermediate_size") * config.int("num_shared_experts", least=0)
            # without shared experts the class builds one of the dense width
            ffn = ffn or config.int("intermediate_size")
            mlp = (*sparse_mlp(config, width), *shared_mlp(width, ffn, bias=mlp_bias))
        return pre_norm_layer(width, attn, mlp, sparse=sparse)

    return mixture_decoder(config, shape, built(sparse_layers(config, shape.n_layers, 1), layer))


@family("exaone_moe")
def exaone_moe(config: Config) -> ModelSpec:
    """K-EXAONE: three sliding layers to a full one, the first layer dense."""
    shape = read_shape(config)

    def layer(kind: tuple[int | None, bool]) -> Block:
        window, sparse = kind
        mlp: tuple[Part, ...] = dense_mlp(config, shape)
        if sparse:
            mlp = deepseek_experts(
                config, shape.width, shared_key="num_shared_experts", n_key="num_experts"
            )
        attn = grouped_query(shape, window=window, qk_norm=True)
        return pre_norm_layer(shape.width, attn, mlp, sparse=sparse)

    n_dense = config.int("first_k_dense_replace", 1, least=0)
    sparse_at = sparse_layers(config, shape.n_layers, n_dense)
    kinds = zip(_exaone_windows(config, shape.n_layers), sparse_at, strict=True)
    return mixture_decoder(config, shape, built(kinds, layer))


def _exaone_windows(config: Config, n_layers: int) -> list[int | None]:
    pattern = config.given("sliding_window_pattern")
    if isinstance(pattern, str) and pattern:  # "LLLG": local, local, local, global
        return sliding_layers(config, n_layers, lambda i: pattern[i % len(pattern)] == "L")
    every = config.int("sliding_window_pattern", 4, least=0) or n_layers + 1
    return sliding_layers(config, n_layers, lambda i: (i + 1) % every != 0)
