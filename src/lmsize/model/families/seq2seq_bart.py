"""BART and the many models that differ from it in positions and norms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lmsize.model.blocks import attention, layer_norm, lm_head, mlp
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.parts import Embedding, Linear, Part
from lmsize.model.seq2seq_blocks import (
    SEQ2SEQ,
    Stack,
    encoder_decoder,
    head_class,
    head_dim,
    task_head,
    without_encoder,
)
from lmsize.model.spec import Block, ModelSpec

OUTPUT = ("q_proj", "k_proj", "v_proj", "out_proj")
BARE = frozenset({SEQ2SEQ, "Model"})
CAUSAL = BARE | {"CausalLM"}
HEADS = CAUSAL | {"SequenceClassification", "QuestionAnswering"}


@dataclass(frozen=True, slots=True)
class Style:
    """Where a model departs from BART.

    Attributes:
        classes: the heads that transformers has for it.
        embedding_norm: a norm behind the embeddings.
        final_norm: a norm behind the last layer.
        positions: rows of the table beyond the longest sequence; None for no table.
        learned: whether the table is trained (else sinusoids, kept as a frozen parameter).
        causal_ties: whether the decoder alone ties its head.
        norms_first: whether each branch norms its input; else its sum with the stream is normed.
    """

    classes: frozenset[str] = HEADS
    embedding_norm: bool = True
    final_norm: bool = False
    positions: int | None = 2
    learned: bool = True
    causal_ties: bool = True
    norms_first: bool = False


STYLES = {
    "bart": Style(),
    "plbart": Style(classes=CAUSAL | {"SequenceClassification"}),
    "mvp": Style(),
    "mbart": Style(final_norm=True, norms_first=True),
    "blenderbot-small": Style(classes=CAUSAL, positions=0),
    "blenderbot": Style(
        classes=CAUSAL, embedding_norm=False, final_norm=True, positions=0, norms_first=True
    ),
    "pegasus": Style(CAUSAL, False, final_norm=True, positions=0, learned=False, norms_first=True),
    "marian": Style(CAUSAL, False, positions=0, learned=False),
    "m2m_100": Style(BARE, False, final_norm=True, positions=None, norms_first=True),
    "bigbird_pegasus": Style(positions=0, causal_ties=False, norms_first=True),
    "pegasus_x": Style(BARE, False, final_norm=True, positions=None, norms_first=True),
}


@dataclass(frozen=True, slots=True)
class Side:
    """The dimensions of one tower, and where its branches have their norms."""

    width: int
    n_layers: int
    n_heads: int
    head_dim: int
    ffn: int
    norms_first: bool = False

    @classmethod
    def of(cls, config: Config, name: str, width: int, n_layers: int, n_heads: int) -> Side:
        split = head_dim(config, f"{name}_attention_heads", n_heads, width)
        first = STYLES.get(config.model_type, Style()).norms_first
        return cls(width, n_layers, n_heads, split, config.int(f"{name}_ffn_dim"), first)

    def _branch(self, norm: str, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        """A branch and its norm, in the order in which they run."""
        own = layer_norm(norm, self.width)
        return (own, *parts) if self.norms_first else (*parts, own)

    def attention(
        self, *, prefix: str = "self_attn", bias: bool = True, causal: bool = False,
        cross: bool = False, window: int | None = None, kv_width: int | None = None,
        names: tuple[str, str, str, str] = OUTPUT,
    ) -> tuple[Part, ...]:  # fmt: skip
        """Attention and its norm."""
        parts = attention(
            width=self.width, n_heads=self.n_heads, n_kv_heads=self.n_heads, window=window,
            head_dim=self.head_dim, prefix=prefix, names=names, qkv_bias=bias, out_bias=bias,
            causal=causal, cross=cross, kv_width=kv_width,
        )  # fmt: skip
        return self._branch(f"{prefix}_layer_norm", parts)

    def feed_forward(self) -> tuple[Part, ...]:
        return self._branch(
            "final_layer_norm", mlp(width=self.width, ffn=self.ffn, up="fc1", down="fc2")
        )

    def layers(self, *parts: Part) -> tuple[Block, ...]:
        """Layers all of one kind."""
        return (Block("layer", parts),) * self.n_layers


@dataclass(frozen=True, slots=True)
class Towers:
    """Both sides of a config, or the decoder alone where the class has only that."""

    task: str
    vocab: int
    encoder: Side | None
    decoder: Side

    @classmethod
    def of(cls, config: Config, classes: frozenset[str] = HEADS) -> Towers:
        task = head_class(config, classes)
        sides = ("decoder",) if task == "CausalLM" else ("encoder", "decoder")
        core = (f"{side}_{key}" for side in sides for key in ("layers", "attention_heads"))
        width, *numbers, vocab = config.require("d_model", *core, "vocab_size")
        read = [
            Side.of(config, side, width, *numbers[2 * i : 2 * i + 2])
            for i, side in enumerate(sides)
        ]
        return cls(task, vocab, read[0] if len(read) > 1 else None, read[-1])

    def decoder_layer(self, *, bias: bool = True, kv_width: int | None = None) -> tuple[Part, ...]:
        """A decoder's layer; used alone, its cross-attention holds parameters and never runs."""
        cross = self.decoder.attention(
            prefix="encoder_attn", bias=bias, cross=True, kv_width=kv_width
        )
        return (
            *self.decoder.attention(bias=bias, causal=True),
            *(cross if self.encoder else without_encoder(cross)),
            *self.decoder.feed_forward(),
        )


def model(
    config: Config, towers: Towers, style: Style, *, encoder: Stack | None, decoder: Stack,
    shares_table: bool = True, spare: bool = True, head_rows: int | None = None,
    max_positions: int | None = None, lm_name: str = "lm_head",
) -> ModelSpec:  # fmt: skip
    """The towers with what is tied, and the head that the class has."""
    width, vocab = towers.decoder.width, towers.vocab
    tied = config.flag("tie_word_embeddings", True)
    alone = towers.task == "CausalLM"
    lm = lm_head(
        width=width, vocab=head_rows or vocab, name=lm_name,
        tied=tied and (style.causal_ties or not alone),
    )  # fmt: skip
    labels = 3 if config.model_type == "bart" and not _labelled(config) else config.n_labels
    return encoder_decoder(
        config, width=width, n_heads=(towers.encoder or towers.decoder).n_heads,
        encoder=encoder, decoder=decoder, shares_table=shares_table and tied,
        spare_rows=vocab if spare and not tied and not alone else 0,
        head=task_head(towers.task, width=width, lm=lm, n_labels=labels),
        max_positions=max_positions or config.optional_int("max_position_embeddings", least=1),
        learned_positions=style.learned and style.positions is not None,
    )  # fmt: skip


@family(
    "bart", "mbart", "plbart", "mvp", "pegasus", "blenderbot", "blenderbot-small", "m2m_100",
    "bigbird_pegasus", "pegasus_x",
)  # fmt: skip
def bart(config: Config) -> ModelSpec:
    """Encoder and decoder with biases and LayerNorm; the models of `STYLES`."""
    style = STYLES[config.model_type]
    towers = Towers.of(config, style.classes)
    bias = config.flag("use_bias") if config.model_type == "bigbird_pegasus" else True
    bias = bias and config.model_type != "pegasus_x"
    before, after = around(config, style, towers.decoder.width)
    encoder = None
    if towers.encoder is not None:
        first = encoder_extras(config, towers.encoder)
        encoder = Stack(
            towers.vocab, encoder_layers(config, towers.encoder, bias), (*before, *first), after
        )
    extras = _prompts(config, towers) if config.model_type == "mvp" else ()
    layers = towers.decoder.layers(*towers.decoder_layer(bias=bias))
    decoder = Stack(towers.vocab, layers, (*before, *extras), after)
    return model(config, towers, style, encoder=encoder, decoder=decoder)


@family("marian")
def marian(config: Config) -> ModelSpec:
    """BART with frozen sinusoids; the towers may have vocabularies of their own."""
    style = STYLES["marian"]
    towers = Towers.of(config, style.classes)
    shared = config.flag("share_encoder_decoder_embeddings")
    rows = config.optional_int("decoder_vocab_size") or towers.vocab
    before, after = around(config, style, towers.decoder.width)
    encoder = None
    if towers.encoder is not None:
        layers = encoder_layers(config, towers.encoder, True)
        encoder = Stack(towers.vocab, layers, before, after)
    layers = towers.decoder.layers(*towers.decoder_layer())
    own = encoder is not None and not shared
    return model(
        config, towers, style, encoder=encoder, decoder=Stack(rows, layers, before, after),
        shares_table=shared, spare=shared, head_rows=rows if own else towers.vocab,
    )  # fmt: skip


def around(config: Config, style: Style, width: int) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """What stands before the first layer of a tower, and behind the last."""
    before: list[Part] = []
    if style.positions is not None:
        rows = config.int("max_position_embeddings") + style.positions
        before.append(Embedding("embed_positions", rows, width, trainable=style.learned))
    if style.embedding_norm:
        before.append(layer_norm("layernorm_embedding", width))
    return tuple(before), (layer_norm("layer_norm", width),) if style.final_norm else ()


def encoder_layers(config: Config, side: Side, bias: bool) -> tuple[Block, ...]:
    """The encoder's layers; BigBird and Pegasus-X look at blocks."""
    if config.model_type == "bigbird_pegasus":
        return _big_bird_layers(config, side, bias)
    if config.model_type == "pegasus_x":
        window = config.int("block_size") + config.int("num_global_tokens")
        extra = layer_norm("global_self_attn_layer_norm", side.width)
        return side.layers(*side.attention(bias=False, window=window), extra, *side.feed_forward())
    return side.layers(*side.attention(bias=bias), *side.feed_forward())


def encoder_extras(config: Config, side: Side) -> Iterable[Part]:
    """Pegasus-X starts its encoder with global tokens."""
    if config.model_type != "pegasus_x":
        return ()
    return (Embedding("embed_global", config.int("num_global_tokens"), side.width),)


def _big_bird_layers(config: Config, side: Side, bias: bool) -> tuple[Block, ...]:
    """Each block sees itself, its neighbours, the first and last block and a few at random."""
    kind = config.text("attention_type")
    if kind not in ("original_full", "block_sparse"):
        raise config.error("attention_type", kind, "original_full or block_sparse")
    window = None
    if kind == "block_sparse":
        window = (5 + config.int("num_random_blocks", least=0)) * config.int("block_size")
    names = ("self.query", "self.key", "self.value", "output")
    return side.layers(*side.attention(bias=bias, window=window, names=names), *side.feed_forward())


def _prompts(config: Config, towers: Towers) -> tuple[Part, ...]:
    """MVP's prompts before the keys of each layer; transformers builds the decoder's only."""
    if not config.flag("use_prompt") or towers.encoder is None:
        return ()
    side = towers.decoder
    length, mid = config.int("prompt_length"), config.int("prompt_mid_dim")
    n_out = side.n_layers * 2 * side.width
    parts: list[Part] = []
    for name in ("self_attn_prompt", "cross_attn_prompt"):
        parts.append(Embedding(f"{name}.prompt_embedding", length, side.width))
        parts.append(Linear(f"{name}.prompt_trans.0", side.width, mid, True, per_token=0.0))
        parts.append(Linear(f"{name}.prompt_trans.2", mid, n_out, True, per_token=0.0))
    return tuple(parts)


def _labelled(config: Config) -> bool:
    return bool(config.raw.get("id2label")) or config.raw.get("num_labels") is not None
