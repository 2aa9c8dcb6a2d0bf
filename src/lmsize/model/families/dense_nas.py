"""Decoders found by architecture search: NVIDIA's Nemotron Super and Ultra (DeciLM)."""

from __future__ import annotations

from lmsize.errors import ModelError
from lmsize.model.blocks import gated_mlp, rms_norm
from lmsize.model.config import Config
from lmsize.model.dense_blocks import divided_head
from lmsize.model.family import family
from lmsize.model.mixture_blocks import USUAL_KEYS, Shape, built, grouped_query, mixture_decoder
from lmsize.model.parts import Linear, Part
from lmsize.model.spec import Block, ModelSpec

LayerKind = tuple[int | str | None, int | str | None, int | None]


@family("nemotron-nas")
def nemotron_nas(config: Config) -> ModelSpec:
    """Llama's layer, but ``block_configs`` may drop a layer's attention or MLP, replace either
    by one matrix, and gives each its own size.

    Not a class of transformers; the counts follow the code that ships with the checkpoints.
    """
    width, n_layers, n_heads, vocab = config.require(*USUAL_KEYS)
    head_dim = config.optional_int("head_dim", least=1) or divided_head(config, width, n_heads)
    shape = Shape(width, n_layers, n_heads, vocab, n_heads, head_dim)
    listed = config.sequence("block_configs")
    if listed is None or len(listed) != n_layers:
        n = None if listed is None else len(listed)
        raise config.error("block_configs", n, f"{n_layers} entries, one a layer")
    kinds = [_kind(config, shape, i, entry) for i, entry in enumerate(listed)]
    bias, mlp_bias = config.flag("attention_bias"), config.flag("mlp_bias")

    def layer(kind: LayerKind) -> Block:
        n_kv_heads, ffn, window = kind
        attn = _attention(shape, n_kv_heads, window, bias)
        return Block("layer", (*attn, *_mlp(width, ffn, mlp_bias)))

    return mixture_decoder(config, shape, built(kinds, layer))


def _attention(
    shape: Shape, n_kv_heads: int | str | None, window: int | None, bias: bool
) -> tuple[Part, ...]:
    if n_kv_heads is None:
        return ()
    norm = rms_norm("input_layernorm", shape.width)
    if isinstance(n_kv_heads, str):
        return (norm, Linear("self_attn.linear_attn", shape.width, shape.width))
    parts = grouped_query(shape, qkv_bias=bias, out_bias=bias, window=window, n_kv_heads=n_kv_heads)
    return (norm, *parts)


def _mlp(width: int, ffn: int | str | None, bias: bool) -> tuple[Part, ...]:
    if ffn is None:
        return ()
    norm = rms_norm("post_attention_layernorm", width)
    if isinstance(ffn, str):
        return (norm, Linear("mlp.linear_mlp", width, width))
    return (norm, *gated_mlp(width=width, ffn=ffn, bias=bias))


def _kind(config: Config, shape: Shape, index: int, entry: object) -> LayerKind:
    """Key-value heads, MLP width and window of a layer; None: it has none, a word: one matrix."""
    path = f"block_configs[{index}]."
    if not isinstance(entry, dict):
        raise ModelError(f"{config.path}{path[:-1]}", entry, "an object")
    block = Config(entry, "", path=f"{config.path}{path}")
    attn, ffn = block.section("attention"), block.section("ffn")
    if attn is None or ffn is None:
        raise ModelError(f"{config.path}{path[:-1]}", entry, "the keys attention and ffn")
    n_kv_heads: int | str | None = _replacement(attn)
    window: int | None = None
    if n_kv_heads == "":
        group = attn.int("n_heads_in_group")
        if group > shape.n_heads or shape.n_heads % group:
            raise attn.error("n_heads_in_group", group, f"a divisor of {shape.n_heads} heads")
        n_kv_heads = shape.n_heads // group
        window = attn.optional_int("window_length") or None
    size: int | str | None = _replacement(ffn)
    if size == "":
        size = _mlp_width(ffn, shape.width)
    return n_kv_heads, size, window


def _replacement(part: Config) -> str | None:
    """None where the part is dropped, ``linear`` where one matrix stands for it, else ""."""
    if part.flag("no_op"):
        return None
    return "linear" if part.flag("replace_with_linear") else ""


def _mlp_width(ffn: Config, width: int) -> int:
    """Two thirds of the multiple of the width, rounded up to a multiple of 256."""
    if ffn.has("intermediate_size"):
        return ffn.int("intermediate_size")
    wanted = int(2 * ffn.number("ffn_mult") * width / 3)
    if wanted < 1:
        raise ffn.error("ffn_mult", ffn.given("ffn_mult"), "a positive number")
    return -(-wanted // 256) * 256
