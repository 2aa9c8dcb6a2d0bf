"""BARTs with sparse parts: LED's windowed encoder, NLLB's experts."""

from __future__ import annotations

from dataclasses import replace

from lmsize.model.blocks import layer_norm, mlp
from lmsize.model.config import Config
from lmsize.model.families.seq2seq_bart import BARE, Side, Style, Towers, model
from lmsize.model.family import family
from lmsize.model.parts import Embedding, Linear, Part
from lmsize.model.seq2seq_blocks import SEQ2SEQ, Stack
from lmsize.model.spec import Block, ModelSpec


@family("led")
def led(config: Config) -> ModelSpec:
    """BART whose encoder looks at a window, and from a few global tokens at everything."""
    classes = frozenset({SEQ2SEQ, "Model", "QuestionAnswering"})
    towers = Towers.of(config, classes)
    side = towers.encoder
    assert side is not None  # LED has no decoder-only class
    width, vocab = side.width, towers.vocab
    source = config.int("max_encoder_position_embeddings")
    target = config.int("max_decoder_position_embeddings")
    norm = layer_norm("layernorm_embedding", width)
    encoder = tuple(_led_layer(side, window) for window in _windows(config, side.n_layers))
    decoder = towers.decoder.layers(*towers.decoder_layer())
    return model(
        config, towers, Style(classes),
        encoder=Stack(vocab, encoder, (Embedding("embed_positions", source, width), norm)),
        decoder=Stack(vocab, decoder, (Embedding("embed_positions", target, width), norm)),
        max_positions=source,
    )  # fmt: skip


def _windows(config: Config, n_layers: int) -> list[int]:
    """The even window of each layer: one number for all, or a list."""
    value = config.given("attention_window")
    given = value if isinstance(value, list) else [config.int("attention_window")] * n_layers
    wrong = any(isinstance(w, bool) or not isinstance(w, int) or w < 2 or w % 2 for w in given)
    if wrong or len(given) != n_layers:
        raise config.error("attention_window", given, f"{n_layers} even numbers, one a layer")
    return given


def _led_layer(side: Side, window: int) -> Block:
    """Longformer attention: a second set of projections serves the global tokens.

    Keys and values for them are computed of every token, queries of the few alone.
    """
    prefix, width, n_heads = "self_attn.longformer_self_attn", side.width, side.n_heads
    query, key, value = (f"longformer_self_attn.{name}" for name in ("query", "key", "value"))
    parts = side.attention(names=(query, key, value, "output"), window=window + 1)
    extra: list[Part] = [
        Linear(f"{prefix}.{name}_global", width, width, True, "column", n_heads, per_token=runs)
        for name, runs in (("query", 0.0), ("key", 1.0), ("value", 1.0))
    ]
    return Block("layer", (*extra, *parts, *side.feed_forward()))


@family("nllb-moe")
def nllb_moe(config: Config) -> ModelSpec:
    """M2M-100 with experts in every few layers, two of them for each token."""
    towers = Towers.of(config, BARE)
    encoder, decoder = towers.encoder, towers.decoder
    assert encoder is not None  # NLLB-MoE has no decoder-only class
    own = encoder.attention()
    cross = decoder.attention(prefix="cross_attention", cross=True)
    both = (*decoder.attention(causal=True), *cross)
    after = (layer_norm("layer_norm", encoder.width),)
    return model(
        config, towers, Style(BARE, positions=None),
        encoder=Stack(towers.vocab, _nllb_layers(config, "encoder", encoder, own), after=after),
        decoder=Stack(towers.vocab, _nllb_layers(config, "decoder", decoder, both), after=after),
    )  # fmt: skip


def _nllb_layers(
    config: Config, name: str, side: Side, attention: tuple[Part, ...]
) -> tuple[Block, ...]:
    step = config.int(f"{name}_sparse_step", least=0)
    norm = layer_norm("ff_layer_norm", side.width)
    feed = mlp(width=side.width, ffn=side.ffn, up="ffn.fc1", down="ffn.fc2")
    dense = Block("layer", (*attention, *feed, norm))
    if not 0 < step <= side.n_layers:
        return (dense,) * side.n_layers
    n, biased = config.int("num_experts"), config.flag("router_bias")
    router = Linear("ffn.router.classifier", side.width, n, biased, adaptable=False)
    pair = mlp(
        width=side.width, ffn=side.ffn, up="ffn.experts.expert_*.fc1",
        down="ffn.experts.expert_*.fc2",
    )  # fmt: skip
    experts = (
        replace(part, n_modules=n, per_token=min(2, n) / n)
        for part in pair
        if isinstance(part, Linear)
    )
    sparse = Block("moe layer", (*attention, router, *experts, norm))
    return tuple(sparse if (i + 1) % step == 0 else dense for i in range(side.n_layers))
