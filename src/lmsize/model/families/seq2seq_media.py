"""Decoders of speech and of images: Whisper, TrOCR."""

from __future__ import annotations

from dataclasses import replace

from lmsize.model.blocks import layer_norm, lm_head
from lmsize.model.config import Config
from lmsize.model.families.seq2seq_bart import Side, Style, Towers, model
from lmsize.model.family import family
from lmsize.model.parts import Conv, Embedding, Linear, Part, Plain
from lmsize.model.seq2seq_blocks import (
    SEQ2SEQ,
    Stack,
    encoder_decoder,
    head_class,
    without_encoder,
)
from lmsize.model.spec import Block, ModelSpec


@family("trocr")
def trocr(config: Config) -> ModelSpec:
    """The decoder of TrOCR, which attends to an image encoder that is not part of it."""
    head_class(config, {"CausalLM"})
    width, n_layers, n_heads, vocab = config.require(
        "d_model", "decoder_layers", "decoder_attention_heads", "vocab_size"
    )
    side = Side.of(config, "decoder", width, n_layers, n_heads)
    towers = Towers("CausalLM", vocab, None, side)
    layer = towers.decoder_layer(kv_width=config.optional_int("cross_attention_hidden_size"))
    longest, before = config.int("max_position_embeddings"), list[Part]()
    learned = config.flag("use_learned_position_embeddings")
    if learned:
        before.append(Embedding("embed_positions", longest + 2, width))
    if config.flag("layernorm_embedding"):
        before.append(layer_norm("layernorm_embedding", width))
    return model(
        config, towers, Style(positions=2 if learned else None), encoder=None,
        decoder=Stack(vocab, side.layers(*layer), tuple(before)), lm_name="output_projection",
    )  # fmt: skip


@family("whisper")
def whisper(config: Config) -> ModelSpec:
    """Speech encoder and text decoder; the encoder's tokens are frames after its convolutions."""
    usual = "" if config.has("architectures") else "WhisperForConditionalGeneration"
    heads = {SEQ2SEQ, "Model", "CausalLM", "AudioClassification"}
    task = SEQ2SEQ if usual else head_class(config, heads)
    width, vocab = config.require("d_model", "vocab_size")
    encoder = None if task == "CausalLM" else _whisper_side(config, "encoder", width)
    decoder = None if task == "AudioClassification" else _whisper_side(config, "decoder", width)
    main = encoder or decoder
    assert main is not None
    tied = config.flag("tie_word_embeddings")
    head: tuple[Part, ...] = (lm_head(width=width, vocab=vocab, tied=tied, name="proj_out"),)
    if task in ("Model", "AudioClassification"):
        head = () if task == "Model" else _audio_head(config, main)
    if encoder is not None:
        config.assume("audio-input", "input tokens are audio frames, 50 a second")
    return encoder_decoder(
        config, width=width, n_heads=main.n_heads,
        encoder=_whisper_encoder(config, encoder) if encoder else None,
        decoder=_whisper_decoder(config, decoder, vocab, alone=encoder is None) if decoder else None,
        head=head, shares_table=False, max_positions=config.int("max_target_positions"),
        learned_positions=True, architecture=usual,
    )  # fmt: skip


def _whisper_side(config: Config, name: str, width: int) -> Side:
    n_layers, n_heads = config.require(f"{name}_layers", f"{name}_attention_heads")
    return Side.of(config, name, width, n_layers, n_heads)


def _whisper_encoder(config: Config, side: Side) -> Stack:
    width = side.width
    before = (
        Conv("conv1", config.int("num_mel_bins"), width, 3),
        Conv("conv2", width, width, 3),
        Embedding("embed_positions", config.int("max_source_positions"), width, trainable=False),
    )
    layers = side.layers(*_keys_unbiased(side.attention()), *side.feed_forward())
    return Stack(0, layers, before, (layer_norm("layer_norm", width),))


def _whisper_decoder(config: Config, side: Side, vocab: int, *, alone: bool) -> Stack:
    cross = _keys_unbiased(side.attention(prefix="encoder_attn", cross=True))
    layers: tuple[Block, ...] = side.layers(
        *_keys_unbiased(side.attention(causal=True)),
        *(without_encoder(cross) if alone else cross),
        *side.feed_forward(),
    )
    positions = Embedding("embed_positions", config.int("max_target_positions"), side.width)
    return Stack(vocab, layers, (positions,), (layer_norm("layer_norm", side.width),))


def _keys_unbiased(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Whisper's keys have no bias."""
    return tuple(
        replace(part, bias=False)
        if isinstance(part, Linear) and part.name.endswith("k_proj")
        else part
        for part in parts
    )


def _audio_head(config: Config, encoder: Side) -> tuple[Part, ...]:
    n_inner = config.int("classifier_proj_size")
    parts: list[Part] = []
    if config.flag("use_weighted_layer_sum"):
        parts.append(Plain("layer_weights", (encoder.n_layers + 1,)))
    parts.append(Linear("projector", encoder.width, n_inner, True))
    parts.append(Linear("classifier", n_inner, config.n_labels, True, adaptable=False))
    return tuple(parts)
