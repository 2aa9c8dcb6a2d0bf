"""Llama, Mistral, Qwen: pre-norm decoders with RMSNorm, grouped queries, rope and SwiGLU."""

from __future__ import annotations

from dataclasses import replace

from lmsize.model.blocks import gated_mlp, rms_norm
from lmsize.model.config import Config
from lmsize.model.dense_blocks import Windows, dense_decoder, dense_shape, one_window, pre_norm
from lmsize.model.family import family
from lmsize.model.mixture_blocks import grouped_query, sliding_layers
from lmsize.model.parts import Linear, Part
from lmsize.model.spec import Block, ModelSpec, Run, Tower

LLAMA_TYPES = ("llama", "internlm3", "iquestcoder")


@family(*LLAMA_TYPES)
def llama(config: Config) -> ModelSpec:
    """Biases by flags; the estimate of an unknown type too, which may have a window."""
    shape = dense_shape(config, even=True)
    bias, mlp_bias = config.flag("attention_bias"), config.flag("mlp_bias")
    ffn = config.int("intermediate_size")

    def layer(window: int | None) -> tuple[Part, ...]:
        attn = grouped_query(shape, qkv_bias=bias, out_bias=bias, window=window)
        return pre_norm(shape.width, attn, gated_mlp(width=shape.width, ffn=ffn, bias=mlp_bias))

    return dense_decoder(config, shape, layer, windows=_stated_window(config, shape.n_layers))


def _stated_window(config: Config, n_layers: int) -> Windows:
    """Llama itself attends to everything, whatever its config says."""
    if config.model_type in LLAMA_TYPES or not config.flag("use_sliding_window", True):
        return [None] * n_layers
    return [config.optional_int("sliding_window") or None] * n_layers


@family("mistral", "ministral", "ministral3")
def mistral(config: Config) -> ModelSpec:
    """No biases at all; a sliding window in some versions."""
    shape = dense_shape(config)
    ffn = config.int("intermediate_size")

    def layer(window: int | None) -> tuple[Part, ...]:
        attn = grouped_query(shape, window=window)
        return pre_norm(shape.width, attn, gated_mlp(width=shape.width, ffn=ffn))

    return dense_decoder(config, shape, layer, windows=one_window(config, shape.n_layers))


@family("qwen2", "qwen3")
def qwen(config: Config) -> ModelSpec:
    """Qwen 2 has biases on queries, keys and values; Qwen 3 a norm on each head instead."""
    shape = dense_shape(config)
    is_v3 = config.model_type == "qwen3"
    out_bias = is_v3 and config.flag("attention_bias")
    ffn = config.int("intermediate_size")

    def layer(window: int | None) -> tuple[Part, ...]:
        attn = grouped_query(
            shape, qkv_bias=out_bias or not is_v3, out_bias=out_bias, window=window, qk_norm=is_v3
        )
        return pre_norm(shape.width, attn, gated_mlp(width=shape.width, ffn=ffn))

    return dense_decoder(config, shape, layer, windows=_qwen_windows(config, shape.n_layers))


def _qwen_windows(config: Config, n_layers: int) -> Windows:
    """Only with ``use_sliding_window``, and from layer ``max_window_layers`` on."""
    if not config.flag("use_sliding_window"):
        return [None] * n_layers
    return sliding_layers(
        config, n_layers, lambda i: i >= config.int("max_window_layers", 0, least=0)
    )


@family("mimo")
def mimo(config: Config) -> ModelSpec:
    """MiMo: Qwen 2 with layers that predict further tokens (``num_nextn_predict_layers``).

    Not a class of transformers; its own code holds those layers but runs them only for
    speculative decoding, so they are an idle tower.
    """
    shape = dense_shape(config)
    ffn = config.int("intermediate_size")
    bias = config.flag("attention_bias", True)

    def layer(window: int | None) -> tuple[Part, ...]:
        attn = grouped_query(shape, qkv_bias=bias, window=window)
        return pre_norm(shape.width, attn, gated_mlp(width=shape.width, ffn=ffn))

    spec = dense_decoder(config, shape, layer, windows=_qwen_windows(config, shape.n_layers))
    n_extra = config.int("num_nextn_predict_layers", 0, least=0)
    if not n_extra:
        return spec
    width = shape.width
    norms = (rms_norm(f"{name}_layernorm", width) for name in ("token", "hidden", "final"))
    block = Block("mtp layer", (*norms, Linear("input_proj", 2 * width, width), *layer(None)))
    return replace(
        spec, towers=(*spec.towers, Tower("mtp", (Run(block, n_extra, n_extra),), "idle"))
    )
