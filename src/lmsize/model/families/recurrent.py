"""Recurrent models: RWKV-4, xLSTM, and Griffin as RecurrentGemma."""

from __future__ import annotations

from lmsize.model.blocks import attention, gated_mlp, layer_norm, rms_norm
from lmsize.model.config import LARGEST, Config
from lmsize.model.family import family
from lmsize.model.mixture_blocks import Shape, mixture_decoder, read_shape
from lmsize.model.parts import Conv, Linear, Norm, Part, Plain, Scan
from lmsize.model.spec import Block, ModelSpec


@family("rwkv")
def rwkv(config: Config) -> ModelSpec:
    """RWKV-4 (Peng et al. 2023): time mixing and channel mixing, both shifted by one token."""
    width, n_layers, vocab = config.require("hidden_size", "num_hidden_layers", "vocab_size")
    inner = config.optional_int("attention_hidden_size") or width
    ffn = config.optional_int("intermediate_size") or 4 * width
    parts: tuple[Part, ...] = (
        layer_norm("ln1", width), *_time_mixing(width, inner),
        layer_norm("ln2", width), *_channel_mixing(width, ffn),
    )  # fmt: skip
    first = Block("first layer", (layer_norm("pre_ln", width), *parts))
    layers = [first, *[Block("layer", parts)] * (n_layers - 1)]
    return mixture_decoder(
        config, Shape(width, n_layers, 1, vocab, 1, inner), layers, embedding="embeddings",
        norm=layer_norm("ln_out", width),
    )  # fmt: skip


def _time_mixing(width: int, inner: int) -> tuple[Part, ...]:
    """The WKV recurrence: 12 FLOPs a channel for output and update of its two sums.

    A sequence keeps both sums, their running maximum, and the token before for either mixing.
    """
    mixes = (
        Plain(f"attention.time_mix_{n}", (1, 1, width)) for n in ("key", "value", "receptance")
    )
    inputs = (
        Linear(f"attention.{n}", width, inner, split="column")
        for n in ("key", "value", "receptance")
    )
    return (
        Plain("attention.time_decay", (inner,)),
        Plain("attention.time_first", (inner,)),
        *mixes,
        *inputs,
        Scan(2 * width + 3 * inner, 12 * inner),
        Linear("attention.output", inner, width, split="row"),
    )


def _channel_mixing(width: int, ffn: int) -> tuple[Part, ...]:
    return (
        *(Plain(f"feed_forward.time_mix_{n}", (1, 1, width)) for n in ("key", "receptance")),
        Linear("feed_forward.key", width, ffn, split="column"),
        Linear("feed_forward.receptance", width, width),
        Linear("feed_forward.value", ffn, width, split="row"),
    )


@family("xlstm")
def xlstm(config: Config) -> ModelSpec:
    """xLSTM-7B (Beck et al. 2025): mLSTM layers and a gated MLP."""
    width_key = "hidden_size" if config.has("hidden_size") else "embedding_dim"
    depth_key = "num_blocks" if config.has("num_blocks") else "num_hidden_layers"
    width, n_layers, n_heads, vocab = config.require(
        width_key, depth_key, "num_heads", "vocab_size"
    )
    embedded = config.optional_int("embedding_dim") or width
    if embedded != width:
        raise config.error("embedding_dim", embedded, f"hidden_size, which is {width}")
    biased = config.flag("use_bias")
    layer = Block("layer", (
        Norm("norm_mlstm", width, biased), *_mlstm(config, width, n_heads, biased),
        Norm("norm_ffn", width, biased), *_xlstm_mlp(config, width, biased),
    ))  # fmt: skip
    return mixture_decoder(
        config, Shape(width, n_layers, n_heads, vocab, n_heads, width // n_heads),
        [layer] * n_layers, embedding="embeddings", norm=rms_norm("out_norm", width), can_tie=False,
    )  # fmt: skip


def _scaled(config: Config, key: str, width: int, fallback: float) -> int:
    scaled = int(config.number(key, fallback) * width)
    if not 1 <= scaled <= LARGEST:
        raise config.error(key, config.given(key), f"a factor that leaves 1 to {LARGEST} features")
    return scaled


def _mlstm(config: Config, width: int, n_heads: int, biased: bool) -> tuple[Part, ...]:
    """Matrix memory ``C = f C + i v k'; n = f n + i k; h = C q``: 5 FLOPs per number of state."""
    qk = _scaled(config, "qk_dim_factor", width, 0.5)
    v = _scaled(config, "v_dim_factor", width, 1.0)
    pre = "mlstm_layer"
    if config.text("weight_mode", "single") == "fused":
        matrices = [("qkv_opreact", 2 * qk + 2 * v, biased), ("ifgate_preact", 2 * n_heads, True)]
    else:
        sizes = {"q": qk, "k": qk, "v": v, "ogate_preact": v}
        matrices = [(name, size, biased) for name, size in sizes.items()]
        matrices += [(f"{gate}gate_preact", n_heads, True) for gate in "if"]
    state = (qk // n_heads) * (v // n_heads) + qk // n_heads + 1
    return (
        *(Linear(f"{pre}.{n}", width, size, bias, "column", n_heads) for n, size, bias in matrices),
        Scan(n_heads * state, 5 * n_heads * state),
        Norm(f"{pre}.multihead_norm", v // n_heads * n_heads, biased),
        Linear(f"{pre}.out_proj", v, width, biased, "row", n_heads),
    )


def _xlstm_mlp(config: Config, width: int, biased: bool) -> tuple[Part, ...]:
    unit = config.int("ffn_round_up_to_multiple_of")
    # Floating point as in the class, for it decides which way a product rounds.
    ffn = int((width * config.number("ffn_proj_factor", 2.667) + unit - 1) // unit * unit)
    if not 1 <= ffn <= LARGEST:
        raise config.error("ffn_proj_factor", ffn, f"a factor that leaves 1 to {LARGEST} features")
    if config.text("weight_mode", "single") == "fused":
        ups: tuple[Part, ...] = (Linear("ffn.proj_up_gate_z", width, 2 * ffn, biased, "column"),)
    else:
        names = ("ffn.proj_up_gate", "ffn.proj_up")
        ups = tuple(Linear(name, width, ffn, biased, "column") for name in names)
    return (*ups, Linear("ffn.proj_down", ffn, width, biased, "row"))


@family("recurrent_gemma")
def recurrent_gemma(config: Config) -> ModelSpec:
    """Griffin (De et al. 2024): gated linear recurrences and local attention by turns."""
    shape = read_shape(config)
    pattern = config.sequence("block_types") or []
    if not pattern or any(kind not in ("recurrent", "attention") for kind in pattern):
        raise config.error("block_types", pattern, "a list of 'recurrent' and 'attention'")
    if config.int("intermediate_size") < 2:
        raise config.error("intermediate_size", config.int("intermediate_size"), "2 or more")
    mlp = gated_mlp(
        width=shape.width, ffn=config.int("intermediate_size") // 2, prefix="mlp_block", bias=True
    )
    blocks = {
        kind: Block(f"{kind} layer", (
            rms_norm("temporal_pre_norm", shape.width), *mixer,
            rms_norm("channel_pre_norm", shape.width), *mlp,
        ))
        for kind, mixer in (
            ("recurrent", _gated_recurrence(config, shape)),
            ("attention", _local_attention(config, shape)),
        )
    }  # fmt: skip
    layers = [blocks[pattern[i % len(pattern)]] for i in range(shape.n_layers)]
    return mixture_decoder(config, shape, layers, norm=rms_norm("final_norm", shape.width))


def _local_attention(config: Config, shape: Shape) -> tuple[Part, ...]:
    return attention(
        width=shape.width, n_heads=shape.n_heads, n_kv_heads=shape.n_kv_heads,
        head_dim=shape.width // shape.n_heads, prefix="temporal_block",
        qkv_bias=config.flag("attention_bias"), out_bias=True,
        window=config.int("attention_window_size"),
    )  # fmt: skip


def _gated_recurrence(config: Config, shape: Shape) -> tuple[Part, ...]:
    """RG-LRU: ``h = a h + sqrt(1 - a a) (i x)``, 9 FLOPs a channel beside its two gates.

    The gates' matrices are block-diagonal, one block a head, and raw parameters.
    """
    width, heads = shape.width, shape.n_heads
    inner, kernel = config.optional_int("lru_width") or width, config.int("conv1d_width")
    if inner < heads:
        raise config.error("lru_width", inner, f"at least the {heads} heads")
    block, pre = inner // heads, "temporal_block"
    gates = (
        Linear(f"{pre}.rg_lru.{n}_gate", block, block, True, adaptable=False, n_modules=heads)
        for n in ("input", "recurrent")
    )
    return (
        Linear(f"{pre}.linear_y", width, inner, True, "column", heads),
        Linear(f"{pre}.linear_x", width, inner, True, "column", heads),
        Conv(f"{pre}.conv_1d", inner, inner, kernel, inner),
        Plain(f"{pre}.rg_lru.recurrent_param", (inner,)),
        *gates,
        Scan(inner * (1 + kernel), 9 * inner),
        Linear(f"{pre}.linear_out", inner, width, True, "row", heads),
    )
