"""Decoders with LayerNorm or with an MLP of two matrices."""

from __future__ import annotations

from lmsize.model.blocks import attention, fused_attention, gated_mlp, layer_norm, mlp, rms_norm
from lmsize.model.config import Config
from lmsize.model.dense_blocks import (
    dense_decoder,
    dense_shape,
    divided_head,
    one_window,
    pre_norm,
)
from lmsize.model.family import family
from lmsize.model.mixture_blocks import Shape, grouped_query
from lmsize.model.parts import Norm, Part, Plain
from lmsize.model.spec import ModelSpec


@family("phi")
def phi(config: Config) -> ModelSpec:
    """One LayerNorm for attention and MLP side by side; biases everywhere, even in the head."""
    shape = dense_shape(config)
    width = shape.width
    parts: list[Part] = [
        layer_norm("input_layernorm", width),
        *attention(
            width=width, n_heads=shape.n_heads, n_kv_heads=shape.n_kv_heads,
            head_dim=shape.head_dim, names=("q_proj", "k_proj", "v_proj", "dense"),
            qkv_bias=True, out_bias=True,
        ),
        *mlp(width=width, ffn=config.int("intermediate_size"), up="mlp.fc1", down="mlp.fc2"),
    ]  # fmt: skip
    if config.flag("qk_layernorm"):
        parts += _head_norms(divided_head(config, width, shape.n_heads))
    final = layer_norm("final_layernorm", width)
    return dense_decoder(config, shape, lambda _: parts, norm=final, lm_bias=True)


def _head_norms(head: int) -> tuple[Part, ...]:
    """One LayerNorm that all query heads share, one for the key heads."""
    return (layer_norm("self_attn.q_layernorm", head), layer_norm("self_attn.k_layernorm", head))


@family("persimmon")
def persimmon(config: Config) -> ModelSpec:
    """Queries, keys and values of one matrix, as many key heads as query heads."""
    shape = dense_shape(config, even=True, derived=True)
    width = shape.width
    attn = fused_attention(
        width=width, n_heads=shape.n_heads, n_kv_heads=shape.n_heads, head_dim=shape.head_dim,
        qkv="self_attn.query_key_value", out="self_attn.dense", qkv_bias=True, out_bias=True,
    )  # fmt: skip
    norms = _head_norms(shape.head_dim) if config.flag("qk_layernorm") else ()
    feed_forward = mlp(
        width=width, ffn=config.int("intermediate_size"),
        up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h",
    )  # fmt: skip
    parts = _layer_norms(width, (*attn, *norms), feed_forward)
    return dense_decoder(config, shape, lambda _: parts, norm=layer_norm("final_layernorm", width))


def _layer_norms(
    width: int, attn: tuple[Part, ...], feed_forward: tuple[Part, ...]
) -> tuple[Part, ...]:
    return (
        layer_norm("input_layernorm", width), *attn,
        layer_norm("post_attention_layernorm", width), *feed_forward,
    )  # fmt: skip


@family("stablelm")
def stablelm(config: Config) -> ModelSpec:
    """LayerNorm with SwiGLU; each head may have a norm of its own."""
    shape = dense_shape(config, even=True, derived=True)
    width = shape.width
    parts: list[Part] = [
        layer_norm("input_layernorm", width),
        *grouped_query(shape, qkv_bias=config.flag("use_qkv_bias")),
    ]
    if config.flag("qk_layernorm"):
        # A ModuleList of one norm a head: as many parameters as one norm over all heads.
        parts.append(Norm("self_attn.q_layernorm.norms", shape.n_heads * shape.head_dim))
        parts.append(Norm("self_attn.k_layernorm.norms", shape.n_kv_heads * shape.head_dim))
    if not config.flag("use_parallel_residual"):
        parts.append(layer_norm("post_attention_layernorm", width))
    parts += gated_mlp(width=width, ffn=config.int("intermediate_size"))
    return dense_decoder(config, shape, lambda _: parts, norm=layer_norm("norm", width))


@family("starcoder2")
def starcoder2(config: Config) -> ModelSpec:
    """Biases in all matrices, and a sliding window in some versions."""
    shape = dense_shape(config)
    width, bias = shape.width, config.flag("use_bias")
    feed_forward = mlp(
        width=width, ffn=config.int("intermediate_size"), up="mlp.c_fc", down="mlp.c_proj",
        bias=bias,
    )  # fmt: skip

    def layer(window: int | None) -> tuple[Part, ...]:
        attn = grouped_query(shape, qkv_bias=bias, out_bias=bias, window=window)
        return _layer_norms(width, attn, feed_forward)

    windows = one_window(config, shape.n_layers)
    return dense_decoder(config, shape, layer, windows=windows, norm=layer_norm("norm", width))


@family("nemotron", "jais2")
def nemotron(config: Config) -> ModelSpec:
    """LayerNorm and a squared-ReLU MLP."""
    shape = dense_shape(config, even=config.model_type == "jais2")
    width, bias = shape.width, config.flag("attention_bias")
    attn = grouped_query(shape, qkv_bias=bias, out_bias=bias)
    parts = _layer_norms(width, attn, _up_down(config, shape, config.flag("mlp_bias")))
    return dense_decoder(config, shape, lambda _: parts, norm=layer_norm("norm", width))


def _up_down(config: Config, shape: Shape, bias: bool = False) -> tuple[Part, ...]:
    ffn = config.int("intermediate_size")
    return mlp(width=shape.width, ffn=ffn, up="mlp.up_proj", down="mlp.down_proj", bias=bias)


@family("arcee")
def arcee(config: Config) -> ModelSpec:
    """RMSNorm and a squared-ReLU MLP."""
    shape = dense_shape(config, even=True)
    bias = config.flag("attention_bias")
    attn = grouped_query(shape, qkv_bias=bias, out_bias=bias)
    parts = pre_norm(shape.width, attn, _up_down(config, shape, config.flag("mlp_bias")))
    return dense_decoder(config, shape, lambda _: parts)


@family("apertus")
def apertus(config: Config) -> ModelSpec:
    """Norms on query and key heads; the xIELU activation has two parameters."""
    shape = dense_shape(config)
    width, bias = shape.width, config.flag("attention_bias")
    names = ("alpha_p", "alpha_n") if config.text("hidden_act") == "xielu" else ()
    parts = (
        rms_norm("attention_layernorm", width),
        *grouped_query(shape, qkv_bias=bias, out_bias=bias, qk_norm=True),
        rms_norm("feedforward_layernorm", width),
        *_up_down(config, shape),
        *(Plain(f"mlp.act_fn.{name}", (1,)) for name in names),
    )
    return dense_decoder(config, shape, lambda _: parts)


@family("nanochat")
def nanochat(config: Config) -> ModelSpec:
    """Norms without parameters, on query and key heads too."""
    shape = dense_shape(config)
    width, head = shape.width, shape.head_dim
    bias = config.flag("attention_bias")
    before, after, q_norm, k_norm = (
        Norm(name, size, weight=False) for name, size in (
            ("input_layernorm", width), ("post_attention_layernorm", width),
            ("self_attn.q_norm", head), ("self_attn.k_norm", head),
        )
    )  # fmt: skip
    ffn = config.int("intermediate_size")
    feed_forward = mlp(width=width, ffn=ffn, up="mlp.fc1", down="mlp.fc2", bias=False)
    attention = grouped_query(shape, qkv_bias=bias, out_bias=bias)
    parts = (before, *attention, q_norm, k_norm, after, *feed_forward)
    # The one norm of the model stands both before the first layer and after the last.
    final = Norm("norm", width, weight=False)
    return dense_decoder(config, shape, lambda _: parts, norm=final, extra=[final])
