"""T5 and its relatives: relative positions, RMSNorm, no biases.

T5 v1.1, Flan-T5, mT5 and umT5 say ``tie_word_embeddings: false`` and their checkpoints hold a
head of their own; transformers 5 builds them tied all the same. lmsize follows the config.
LongT5's checkpoints say the same and hold no such head, as transformers notes: always tied.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lmsize.model.blocks import attention, gated_mlp, lm_head, mlp, rms_norm
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.parts import Embedding, Linear, Part
from lmsize.model.seq2seq_blocks import SEQ2SEQ, Stack, encoder_decoder, head_class, task_head
from lmsize.model.spec import Block, ModelSpec

BARE = frozenset({SEQ2SEQ, "Model", "Encoder"})
HEADS = BARE | {"SequenceClassification", "TokenClassification", "QuestionAnswering"}


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions that every layer of a T5 has."""

    width: int
    n_heads: int
    d_kv: int
    d_ff: int
    n_buckets: int

    @classmethod
    def of(cls, config: Config, width: int, n_heads: int) -> Shape:
        buckets = config.int("relative_attention_num_buckets")
        return cls(width, n_heads, config.int("d_kv"), config.int("d_ff"), buckets)

    def self_attention(
        self, name: str = "SelfAttention", *, causal: bool, biased: bool, window: int | None = None
    ) -> tuple[Part, ...]:
        """Attention under ``layer.0``; `biased` with a table of relative positions of its own."""
        prefix = f"layer.0.{name}"
        table = Embedding(f"{prefix}.relative_attention_bias", self.n_buckets, self.n_heads)
        return (
            rms_norm("layer.0.layer_norm", self.width),
            *attention(
                width=self.width, n_heads=self.n_heads, n_kv_heads=self.n_heads, window=window,
                head_dim=self.d_kv, prefix=prefix, names=("q", "k", "v", "o"), causal=causal,
            ),
            *((table,) if biased else ()),
        )  # fmt: skip

    def cross_attention(self) -> tuple[Part, ...]:
        return (
            rms_norm("layer.1.layer_norm", self.width),
            *attention(
                width=self.width, n_heads=self.n_heads, n_kv_heads=self.n_heads,
                head_dim=self.d_kv, prefix="layer.1.EncDecAttention", names=("q", "k", "v", "o"),
                causal=False, cross=True,
            ),
        )  # fmt: skip


@family("t5", "mt5", "umt5")
def t5(config: Config) -> ModelSpec:
    """T5: the first layer of each tower holds the relative positions; in umT5, every layer."""
    width, n_layers, n_heads, vocab = _core(config)
    shape, gated = Shape.of(config, width, n_heads), _is_gated(config)
    every = config.model_type == "umt5"

    def layers(n: int, *, causal: bool) -> tuple[Block, ...]:
        cross = shape.cross_attention() if causal else ()
        first, rest = (
            (*shape.self_attention(causal=causal, biased=biased), *cross)
            for biased in (True, every)
        )
        feed = _feed_forward(shape, gated, f"layer.{2 if causal else 1}")
        return _layers(n, first, rest, _last_in_fp32(feed))

    task = head_class(config, HEADS)
    lone = task in ("Encoder", "TokenClassification")
    norm = (rms_norm("final_layer_norm", width),)
    n_decoder = config.optional_int("num_decoder_layers", least=1) or n_layers
    tied = config.flag("tie_word_embeddings", True)
    lm = lm_head(width=width, vocab=vocab, tied=tied)
    labels = config.n_labels
    return encoder_decoder(
        config, width=width, n_heads=n_heads,
        encoder=Stack(vocab, layers(n_layers, causal=False), after=norm),
        decoder=None if lone else Stack(vocab, layers(n_decoder, causal=True), after=norm),
        head=task_head(task, width=width, lm=lm, n_labels=labels, n_answers=labels),
        max_positions=config.optional_int("n_positions", least=1),
    )  # fmt: skip


@family("longt5")
def longt5(config: Config) -> ModelSpec:
    """T5 whose encoder looks at a neighbourhood, with or without a summary of each block.

    The scores against the summaries (one for `global_block_size` tokens) are not counted.
    """
    width, n_layers, n_heads, vocab = _core(config)
    shape, gated = Shape.of(config, width, n_heads), _is_gated(config)
    window = 2 * config.int("local_radius") + 1
    kind = config.text("encoder_attention_type")
    names = {"local": "LocalSelfAttention", "transient-global": "TransientGlobalSelfAttention"}
    if kind not in names:
        raise config.error("encoder_attention_type", kind, " or ".join(names))
    first, rest = (
        (*shape.self_attention(causal=True, biased=biased), *shape.cross_attention())
        for biased in (True, False)
    )
    task = head_class(config, BARE)
    norm = (rms_norm("final_layer_norm", width),)
    n_decoder = config.optional_int("num_decoder_layers", least=1) or n_layers
    encoder_ff, decoder_ff = (_feed_forward(shape, gated, f"layer.{n}") for n in (1, 2))
    near, far = (_longt5_encoder(shape, names[kind], window, biased) for biased in (True, False))
    encoder = _layers(n_layers, near, far, encoder_ff)
    decoder = _layers(n_decoder, first, rest, decoder_ff)
    lm = lm_head(width=width, vocab=vocab, tied=True)
    return encoder_decoder(
        config, width=width, n_heads=n_heads,
        encoder=Stack(vocab, encoder, after=norm),
        decoder=None if task == "Encoder" else Stack(vocab, decoder, after=norm),
        head=task_head(task, width=width, lm=lm, n_labels=0),
        max_positions=config.optional_int("n_positions", least=1),
    )  # fmt: skip


def _longt5_encoder(shape: Shape, name: str, window: int, biased: bool) -> tuple[Part, ...]:
    parts = shape.self_attention(name, causal=False, biased=biased, window=window)
    if name == "LocalSelfAttention":
        return parts
    prefix = f"layer.0.{name}.global"
    table = Embedding(f"{prefix}_relative_attention_bias", shape.n_buckets, shape.n_heads)
    norm = rms_norm(f"{prefix}_input_layer_norm", shape.width)
    return (*parts, *((table,) if biased else ()), norm)


@family("switch_transformers")
def switch_transformers(config: Config) -> ModelSpec:
    """T5 with some layers of experts, of which each token takes one."""
    width, n_layers, n_heads, vocab = _core(config)
    shape = Shape.of(config, width, n_heads)
    n_decoder = n_layers
    if config.has("num_decoder_layers") or "num_decoder_layers" not in config.raw:
        n_decoder = config.int("num_decoder_layers")

    def layers(n: int, side: str, *, causal: bool) -> tuple[Block, ...]:
        step = _sparse_step(config, side, n)
        cross = shape.cross_attention() if causal else ()
        prefix = f"layer.{2 if causal else 1}"
        feed = {
            sparse: _switch_feed_forward(config, shape, prefix, sparse) for sparse in (False, True)
        }
        first, rest = (
            (*shape.self_attention(causal=causal, biased=biased), *cross)
            for biased in (True, False)
        )
        dense = _layers(n, first, rest, feed[False])
        moe = _layers(n, first, rest, feed[True], name="moe layer")
        return tuple(moe[i] if _is_sparse(i, step) else dense[i] for i in range(n))

    task = head_class(config, BARE)
    norm = (rms_norm("final_layer_norm", width),)
    tied = config.flag("tie_word_embeddings")
    decoder = Stack(vocab, layers(n_decoder, "decoder", causal=True), after=norm)
    lm = lm_head(width=width, vocab=vocab, tied=tied)
    return encoder_decoder(
        config, width=width, n_heads=n_heads,
        encoder=Stack(vocab, layers(n_layers, "encoder", causal=False), after=norm),
        decoder=None if task == "Encoder" else decoder,
        head=task_head(task, width=width, lm=lm, n_labels=0),
        shares_table=tied, spare_rows=0 if tied else vocab,
        max_positions=config.optional_int("n_positions", least=1),
    )  # fmt: skip


def _core(config: Config) -> tuple[int, ...]:
    return config.require("d_model", "num_layers", "num_heads", "vocab_size")


def _is_gated(config: Config) -> bool:
    value = config.text("feed_forward_proj")
    words = value.split("-")
    if len(words) > 2 or (len(words) == 2 and words[0] != "gated"):
        raise config.error("feed_forward_proj", value, "ACTIVATION or gated-ACTIVATION")
    return words[0] == "gated"


def _feed_forward(shape: Shape, gated: bool, prefix: str) -> tuple[Part, ...]:
    norm = rms_norm(f"{prefix}.layer_norm", shape.width)
    dense, names = f"{prefix}.DenseReluDense", ("wi_0", "wi_1", "wo")
    if gated:
        return (norm, *gated_mlp(width=shape.width, ffn=shape.d_ff, prefix=dense, names=names))
    up, down = f"{dense}.wi", f"{dense}.wo"
    return (norm, *mlp(width=shape.width, ffn=shape.d_ff, up=up, down=down, bias=False))


def _last_in_fp32(feed: tuple[Part, ...]) -> tuple[Part, ...]:
    """The projection back (``wo``) stays in fp32 where the rest is quantised."""
    *others, down = feed
    return (*others, replace(down, stays_fp32=True) if isinstance(down, Linear) else down)


def _switch_feed_forward(
    config: Config, shape: Shape, prefix: str, sparse: bool
) -> tuple[Part, ...]:
    """Two matrices; or a router and as many pairs as there are experts, one of them at work."""
    width, ffn = shape.width, shape.d_ff
    norm = rms_norm(f"{prefix}.layer_norm", width)
    if not sparse:
        up, down = f"{prefix}.mlp.wi", f"{prefix}.mlp.wo"
        return (norm, *mlp(width=width, ffn=ffn, up=up, down=down, bias=False))
    n = config.int("num_experts")
    router, biased = f"{prefix}.mlp.router.classifier", config.flag("router_bias")
    expert = f"{prefix}.mlp.experts.expert_*"
    return (
        norm,
        Linear(router, width, n, biased, adaptable=False),
        Linear(f"{expert}.wi", width, ffn, split="column", n_modules=n, per_token=1 / n),
        Linear(f"{expert}.wo", ffn, width, split="row", n_modules=n, per_token=1 / n),
    )


def _sparse_step(config: Config, side: str, n_layers: int) -> int:
    """Every how many layers experts stand; 0 for never."""
    given = config.optional_int(f"{side}_sparse_step")
    if given is not None:
        return given
    n_sparse = config.int(f"num_sparse_{side}_layers", least=0)
    return n_layers // n_sparse if n_sparse else n_layers


def _is_sparse(i: int, step: int) -> bool:
    return step > 0 and (step == 1 or i % step == 1)


def _layers(
    n: int, first: Iterable[Part], rest: Iterable[Part], feed: tuple[Part, ...],
    name: str = "layer",
) -> tuple[Block, ...]:  # fmt: skip
    """`n` layers of which the first differs."""
    head, tail = Block(name, (*first, *feed)), Block(name, (*rest, *feed))
    return (head, *[tail] * (n - 1))
