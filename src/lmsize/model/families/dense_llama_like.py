"""Decoders that differ from Llama in biases, norms or a window."""

from __future__ import annotations

from lmsize.model.blocks import attention, gated_mlp, rms_norm
from lmsize.model.config import Config
from lmsize.model.dense_blocks import Windows, dense_decoder, dense_shape, pre_norm
from lmsize.model.family import family
from lmsize.model.mixture_blocks import Shape, grouped_query, sliding_layers
from lmsize.model.parts import AttentionCore, Linear, Norm, Part, Plain
from lmsize.model.spec import ModelSpec


@family("granite", "granite_swa", "smollm3", "cwm", "emu3_text_model")
def llama_with_windows(config: Config) -> ModelSpec:
    """Llama's layer; some layers slide, and Granite's sliding version has attention sinks."""
    shape = dense_shape(config, even=config.model_type == "cwm")
    bias = config.model_type != "cwm" and config.flag("attention_bias")
    mlp = gated_mlp(
        width=shape.width, ffn=config.int("intermediate_size"), bias=config.flag("mlp_bias")
    )
    sinks = config.model_type == "granite_swa"

    def layer(window: int | None) -> tuple[Part, ...]:
        attn = grouped_query(shape, qkv_bias=bias, out_bias=bias, window=window, sinks=sinks)
        return pre_norm(shape.width, attn, mlp)

    return dense_decoder(config, shape, layer, windows=_windows(config, shape.n_layers))


def _windows(config: Config, n_layers: int) -> Windows:
    """Granite and CWM slide on all but every fourth layer, SmolLM3 where it has no rope."""
    if config.model_type in ("granite_swa", "cwm"):
        return sliding_layers(config, n_layers, lambda i: i % 4 != 0)
    if config.model_type == "smollm3" and config.flag("use_sliding_window"):
        listed = config.sequence("no_rope_layers")
        if listed is not None and len(listed) != n_layers:
            raise config.error("no_rope_layers", listed, f"{n_layers} entries")
        every = config.int("no_rope_layer_interval")
        has_rope = listed or [(i + 1) % every != 0 for i in range(n_layers)]
        return sliding_layers(config, n_layers, lambda i: not has_rope[i])
    return ()


@family("seed_oss", "ernie4_5", "hyperclovax")
def llama_with_flags(config: Config) -> ModelSpec:
    """Llama's layer with its own switches for biases and, in HyperCLOVA X, two more norms."""
    kind = config.model_type
    shape = dense_shape(config, even=kind == "hyperclovax")
    bias_key = "use_bias" if kind == "ernie4_5" else "attention_bias"
    out_key = "attention_out_bias" if kind == "seed_oss" else bias_key
    mlp_key = "use_bias" if kind == "ernie4_5" else "mlp_bias"
    extra = kind == "hyperclovax" and config.flag("use_post_norm")
    names = ("post_norm1", "post_norm2") if extra else ()
    attn = grouped_query(shape, qkv_bias=config.flag(bias_key), out_bias=config.flag(out_key))
    mlp = gated_mlp(
        width=shape.width, ffn=config.int("intermediate_size"), bias=config.flag(mlp_key)
    )
    after = tuple((rms_norm(name, shape.width),) for name in names) or ((), ())
    parts = pre_norm(shape.width, (*attn, *after[0]), (*mlp, *after[1]))
    return dense_decoder(config, shape, lambda _: parts)


@family("helium")
def helium(config: Config) -> ModelSpec:
    """The output projection is square, whatever the heads' width, and has no bias."""
    shape = dense_shape(config)
    width, heads = shape.width, shape.n_heads
    *projections, _ = grouped_query(shape, qkv_bias=config.flag("attention_bias"))
    out = Linear("self_attn.o_proj", width, width, split="row", n_units=heads)
    mlp = gated_mlp(width=width, ffn=config.int("intermediate_size"), bias=config.flag("mlp_bias"))
    parts = pre_norm(width, (*projections, out), mlp)
    return dense_decoder(config, shape, lambda _: parts)


@family("hunyuan_v1_dense")
def hunyuan(config: Config) -> ModelSpec:
    """A norm on each query and key head."""
    shape = dense_shape(config)
    bias = config.flag("attention_bias")
    norms = (rms_norm(f"self_attn.{name}_layernorm", shape.head_dim) for name in ("query", "key"))
    attn = (*grouped_query(shape, qkv_bias=bias, out_bias=bias), *norms)
    mlp = gated_mlp(width=shape.width, ffn=config.int("intermediate_size"))
    parts = pre_norm(shape.width, attn, mlp)
    return dense_decoder(config, shape, lambda _: parts)


@family("bitnet")
def bitnet(config: Config) -> ModelSpec:
    """Norms inside attention and MLP, before the last projection of each."""
    shape = dense_shape(config)
    width, ffn = shape.width, config.int("intermediate_size")
    bias = config.flag("attention_bias")
    attn = grouped_query(shape, qkv_bias=bias, out_bias=bias)
    mlp = gated_mlp(width=width, ffn=ffn)
    parts = pre_norm(
        width,
        (*attn, rms_norm("self_attn.attn_sub_norm", width)),
        (*mlp, rms_norm("mlp.ffn_sub_norm", ffn)),
    )
    return dense_decoder(config, shape, lambda _: parts)


@family("diffllama")
def diffllama(config: Config) -> ModelSpec:
    """Differential Transformer: each query head weighs values twice as wide as itself."""
    shape = dense_shape(config)
    if shape.n_kv_heads % 2:
        raise config.error("num_key_value_heads", shape.n_kv_heads, "an even number")
    mlp = gated_mlp(width=shape.width, ffn=config.int("intermediate_size"))
    parts = pre_norm(shape.width, _differential(shape, config.flag("attention_bias")), mlp)
    return dense_decoder(config, shape, lambda _: parts)


def _differential(shape: Shape, bias: bool) -> tuple[Part, ...]:
    head = shape.head_dim
    parts = attention(
        width=shape.width, n_heads=shape.n_heads, n_kv_heads=shape.n_kv_heads, head_dim=head,
        qkv_bias=bias, out_bias=bias,
    )  # fmt: skip
    core = AttentionCore(
        shape.n_heads, shape.n_kv_heads, head, 2 * head, cache_width=2 * shape.n_kv_heads * head
    )
    return (
        *(core if isinstance(part, AttentionCore) else part for part in parts),
        *(Plain(f"self_attn.lambda_{name}", (head,)) for name in ("q1", "k1", "q2", "k2")),
        Norm("self_attn.groupnorm", 2 * head, weight=False),
    )
