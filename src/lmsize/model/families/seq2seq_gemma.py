"""T5Gemma and T5Gemma 2: Gemma's layers in two towers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lmsize.model.blocks import attention, gated_mlp, layer_norm, lm_head, mlp, rms_norm
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.parts import AttentionCore, Conv, Embedding, Linear, Part, Plain
from lmsize.model.seq2seq_blocks import SEQ2SEQ, Stack, encoder_decoder, head_class, head_dim
from lmsize.model.spec import Block, ModelSpec, Run, Tower, stacked

KINDS = ("sliding_attention", "full_attention")
CLASSIFIERS = ("SequenceClassification", "TokenClassification")
HEADS = frozenset({SEQ2SEQ, "Model", "Encoder", *CLASSIFIERS})


@dataclass(frozen=True, slots=True)
class Side:
    """The dimensions of one tower; `windows` holds one entry a layer."""

    width: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    bias: bool
    windows: tuple[int | None, ...]
    longest: int | None

    @classmethod
    def of(cls, config: Config, pattern: int) -> Side:
        """Every `pattern`-th layer looks at everything, where the config does not list them."""
        width, n_layers, n_heads, vocab = config.require(
            "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"
        )
        head_dim(config, "num_attention_heads", n_heads, width)  # as transformers demands
        kinds = config.per_layer("layer_types", n_layers, KINDS)
        if kinds is None:
            kinds = [KINDS[(i + 1) % pattern == 0] for i in range(n_layers)]
        window = config.optional_int("sliding_window", least=1)
        return cls(
            width, n_heads, config.int("num_key_value_heads"), config.int("head_dim"),
            config.int("intermediate_size"), vocab, config.flag("attention_bias"),
            tuple(window if kind == "sliding_attention" else None for kind in kinds),
            config.optional_int("max_position_embeddings", least=1),
        )  # fmt: skip

    def attention(
        self, *, prefix: str = "self_attn", window: int | None = None, causal: bool = False,
        cross: bool = False, source: int | None = None,
    ) -> tuple[Part, ...]:  # fmt: skip
        return attention(
            width=self.width, n_heads=self.n_heads, n_kv_heads=self.n_kv_heads,
            head_dim=self.head_dim, prefix=prefix, qkv_bias=self.bias, out_bias=self.bias,
            window=window, causal=causal, cross=cross, kv_width=source,
        )  # fmt: skip

    def between(self, name: str, *parts: Part) -> tuple[Part, ...]:
        """Parts with a norm before and one behind."""
        before, after = f"pre_{name}_layernorm", f"post_{name}_layernorm"
        return (rms_norm(before, self.width), *parts, rms_norm(after, self.width))

    def feed_forward(self) -> tuple[Part, ...]:
        return self.between("feedforward", *gated_mlp(width=self.width, ffn=self.ffn))


@family("t5gemma")
def t5gemma(config: Config) -> ModelSpec:
    """Gemma 2's layers; the towers may differ in size, and each has its own token table."""
    task = head_class(config, HEADS)
    paired = task != "Encoder"
    if task in CLASSIFIERS:
        paired = config.flag("is_encoder_decoder", True)
    encoder = Side.of(_section(config, "encoder"), 2)
    decoder = Side.of(_section(config, "decoder"), 2) if paired else None
    main = decoder or encoder
    # A token of the encoder sees `sliding_window` others on either side.
    layers = tuple(
        _layer(encoder, encoder.attention(window=window and 2 * window + 1))
        for window in encoder.windows
    )
    return encoder_decoder(
        config, width=main.width, n_heads=encoder.n_heads,
        encoder=Stack(
            encoder.vocab, layers, after=(rms_norm("norm", encoder.width),), width=encoder.width
        ),
        decoder=_t5gemma_decoder(decoder, encoder.width) if decoder else None,
        head=_head(config, task, main.width, main.vocab), shares_table=False,
        max_positions=main.longest,
    )  # fmt: skip


def _t5gemma_decoder(side: Side, source: int) -> Stack:
    cross = side.attention(prefix="cross_attn", cross=True, source=source)
    layers = tuple(
        _layer(side, side.attention(window=window, causal=True), cross) for window in side.windows
    )
    return Stack(side.vocab, layers, after=(rms_norm("norm", side.width),), width=side.width)


def _layer(side: Side, own: tuple[Part, ...], cross: tuple[Part, ...] = ()) -> Block:
    across = side.between("cross_attn", *cross) if cross else ()
    return Block("layer", (*side.between("self_attn", *own), *across, *side.feed_forward()))


@family("t5gemma2")
def t5gemma2(config: Config) -> ModelSpec:
    """Gemma 3's layers and image tower; one attention sees both the labels and the input."""
    task = head_class(config, HEADS - {"Encoder"})
    outer = _section(config, "encoder")
    text, picture = _section(outer, "text_config"), _section(outer, "vision_config")
    encoder, decoder = (
        Side.of(part, part.optional_int("sliding_window_pattern", least=1) or 6)
        for part in (text, _section(config, "decoder"))
    )
    if (encoder.width, encoder.vocab) != (decoder.width, decoder.vocab):
        raise config.error(
            "decoder", [decoder.width, decoder.vocab], "the encoder's hidden_size and vocab_size"
        )
    tied = config.flag("tie_word_embeddings")
    mark = (Plain("embed_tokens.eoi_embedding", (encoder.width,)),)
    after = (rms_norm("norm", encoder.width),)
    layers = tuple(_layer(encoder, _normed(encoder, window)) for window in encoder.windows)
    both = tuple(_layer(decoder, _merged(decoder, window)) for window in decoder.windows)
    spec = encoder_decoder(
        config, width=encoder.width, n_heads=encoder.n_heads,
        encoder=Stack(encoder.vocab, layers, mark, after),
        decoder=Stack(decoder.vocab, both, () if tied else mark, after),
        head=_head(config, task, decoder.width, decoder.vocab), shares_table=tied,
        max_positions=decoder.longest,
    )  # fmt: skip
    return replace(spec, towers=(_vision(picture, encoder.width), *spec.towers))


def _normed(side: Side, window: int | None, *, causal: bool = False) -> tuple[Part, ...]:
    """Attention with normed queries and keys."""
    norms = (rms_norm(f"self_attn.{name}_norm", side.head_dim) for name in "qk")
    return (*norms, *side.attention(window=window, causal=causal))


def _merged(side: Side, window: int | None) -> tuple[Part, ...]:
    """The same projections serve the labels and the encoder's output."""
    n_kv, split = side.n_kv_heads, side.head_dim
    cross = AttentionCore(side.n_heads, n_kv, split, split, causal=False, cross=True)
    return (*_normed(side, window, causal=True), cross)


def _vision(config: Config, text_width: int) -> Tower:
    """SigLIP and the projection of its patches, which text alone does not run."""
    width, ffn = config.int("hidden_size", 768), config.int("intermediate_size", 3072)
    n_layers, n_heads = config.int("num_hidden_layers", 12), config.int("num_attention_heads", 12)
    split = head_dim(config, "num_attention_heads", n_heads, width)
    patch = config.int("patch_size", 16)
    n_patches = (config.int("image_size", 224) // patch) ** 2
    feed = mlp(width=width, ffn=ffn, up="mlp.fc1", down="mlp.fc2")
    layer = Block("vision layer", (
        *attention(
            width=width, n_heads=n_heads, n_kv_heads=n_heads, head_dim=split, causal=False,
            names=("q_proj", "k_proj", "v_proj", "out_proj"), qkv_bias=True, out_bias=True,
        ),
        layer_norm("layer_norm1", width), *feed, layer_norm("layer_norm2", width),
    ))  # fmt: skip
    embedding = (
        Conv("patch_embedding", config.int("num_channels", 3), width, patch * patch),
        Embedding("position_embedding", n_patches, width),
    )
    tail: list[Part] = [layer_norm("post_layernorm", width)]
    if config.flag("vision_use_head", True):
        tail += _pooling(width, ffn)
    tail.append(Plain("multi_modal_projector.mm_input_projection_weight", (width, text_width)))
    tail.append(rms_norm("multi_modal_projector.mm_soft_emb_norm", width))
    runs = (
        Run(Block("patches", embedding, "embedding")),
        *stacked([layer] * n_layers),
        Run(Block("vision head", tuple(tail), "head")),
    )
    return Tower("vision", runs, "idle")


def _pooling(width: int, ffn: int) -> tuple[Part, ...]:
    """SigLIP's attention pooling; its first projection is a raw parameter."""
    return (
        Plain("head.probe", (1, 1, width)),
        Linear("head.attention.in_proj", width, 3 * width, True, adaptable=False),
        Linear("head.attention.out_proj", width, width, True),
        layer_norm("head.layernorm", width),
        *mlp(width=width, ffn=ffn, up="head.mlp.fc1", down="head.mlp.fc2"),
    )


def _head(config: Config, task: str, width: int, vocab: int) -> tuple[Part, ...]:
    if task in CLASSIFIERS:
        runs = float(task == "TokenClassification")
        return (Linear("score.out_proj", width, config.n_labels, True, per_token=runs),)
    tied = config.flag("tie_word_embeddings")
    lm = lm_head(width=width, vocab=vocab, tied=tied, name="lm_head.out_proj")
    return () if task in ("Model", "Encoder") else (lm,)


def _section(config: Config, key: str) -> Config:
    section = config.section(key)
    if section is None:
        raise config.error(key, None, "an object")
    return section
