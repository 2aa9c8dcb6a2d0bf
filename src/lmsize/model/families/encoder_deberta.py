"""DeBERTa: content and relative position attend to each other apart."""

from __future__ import annotations

from lmsize.model.blocks import attention, layer_norm, lm_head, mlp
from lmsize.model.config import Config
from lmsize.model.encoder_blocks import Shape, bert_embedding, bert_heads, encoder, read_shape
from lmsize.model.family import family
from lmsize.model.head_blocks import BERT_LM, label_head, lm_transform, pooler, task_head
from lmsize.model.parts import AttentionCore, Conv, Embedding, Linear, Norm, Part, Plain
from lmsize.model.spec import Block, ModelSpec


def _kinds(config: Config) -> list[str]:
    """Which pairs of content and position attend: a list, or a string with bars between."""
    given = config.given("pos_att_type")
    if given is None:
        return []
    kinds = given.lower().split("|") if isinstance(given, str) else given
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise config.error(
            "pos_att_type", given, "a list of c2p, p2c, or such names with | between"
        )
    return [kind.strip() for kind in kinds]


def _span(config: Config) -> int:
    """Rows of the table of relative positions on one side of a token."""
    span = config.int("max_relative_positions", -1, least=-(2**31))
    span = span if span >= 1 else config.int("max_position_embeddings")
    buckets = config.given("position_buckets") if config.model_type == "deberta-v2" else None
    if buckets is None:
        return span
    return max(config.int("position_buckets", least=-(2**31)), 0) or span


def _embedding(config: Config, shape: Shape, narrow: int) -> Block:
    """Tables; the relative positions that every layer shares; in some a first convolution."""
    extra: list[Part] = []
    width, v2 = shape.width, config.model_type == "deberta-v2"
    if narrow != width:
        extra.append(Linear("embeddings.embed_proj", narrow, width))
    extra.append(layer_norm("embeddings.LayerNorm", width))
    if config.flag("relative_attention"):
        extra.append(Embedding("encoder.rel_embeddings", 2 * _span(config), width))
    norms = config.text("norm_rel_ebd", "none").lower().split("|")
    if v2 and "layer_norm" in (name.strip() for name in norms):
        extra.append(layer_norm("encoder.LayerNorm", width))
    kernel = config.optional_int("conv_kernel_size") if v2 else None
    if kernel:
        n_groups = config.int("conv_groups", 1)
        if width % n_groups:
            raise config.error("conv_groups", n_groups, f"a divisor of {width}")
        extra.append(Conv("encoder.conv.conv", width, width, kernel, n_groups))
        extra.append(layer_norm("encoder.conv.LayerNorm", width))
    absolute = config.flag("position_biased_input", True)
    n_positions = config.int("max_position_embeddings") if absolute else 0
    return bert_embedding(
        config, shape, width=narrow, n_positions=n_positions, norm=False, extra=extra
    )


def _attention_v1(config: Config, shape: Shape) -> list[Part]:
    """One matrix for query, key and value, two of their biases apart."""
    width, heads, inside = shape.width, shape.n_heads, "attention.self"
    parts: list[Part] = [
        Linear(f"{inside}.in_proj", width, 3 * width, split="column", n_units=heads),
        Plain(f"{inside}.q_bias", (width,)),
        Plain(f"{inside}.v_bias", (width,)),
        AttentionCore(heads, heads, shape.head_dim, shape.head_dim, causal=False),
        Linear("attention.output.dense", width, width, True, "row", heads),
    ]
    if config.flag("talking_head"):
        parts += [
            Linear(f"{inside}.{name}", heads, heads)
            for name in ("head_logits_proj", "head_weights_proj")
        ]
    return parts


def _attention_v2(config: Config, shape: Shape) -> list[Part]:
    head_dim = config.optional_int("attention_head_size", least=1) or shape.head_dim
    core = attention(
        width=shape.width, n_heads=shape.n_heads, n_kv_heads=shape.n_heads, head_dim=head_dim,
        prefix="attention", names=("self.query_proj", "self.key_proj", "self.value_proj", ""),
        qkv_bias=True, causal=False,
    )[:-1]  # fmt: skip
    return [*core, Linear("attention.output.dense", shape.width, shape.width, True, "row")]


def _position_projections(config: Config, shape: Shape) -> list[Part]:
    """Keys and queries of positions: once over a table, not for each token."""
    v2 = config.model_type == "deberta-v2"
    if not config.flag("relative_attention") or (v2 and config.flag("share_att_key")):
        return []
    head_dim = config.optional_int("attention_head_size", least=1) if v2 else None
    width, to = shape.width, shape.n_heads * (head_dim or shape.head_dim)
    names = ("pos_key_proj", "pos_query_proj") if v2 else ("pos_proj", "pos_q_proj")
    biases, kinds = (v2, True), _kinds(config)
    return [
        Linear(f"attention.self.{name}", width, to, bias, "column", shape.n_heads, per_token=0.0)
        for kind, name, bias in zip(("c2p", "p2c"), names, biases, strict=True)
        if kind in kinds
    ]


def _lm(config: Config, shape: Shape, narrow: int) -> tuple[Part, ...]:
    tied = config.flag("tie_word_embeddings", True)
    if config.flag("legacy", True):
        return lm_transform(
            BERT_LM, width=shape.width, vocab=shape.vocab, tied=tied, embedding=narrow
        )
    # The head multiplies with the token table itself; transformers names its dense layer as the
    # output embedding, so adapters leave that one alone.
    head = "lm_predictions.lm_head"
    return (
        Linear(f"{head}.dense", shape.width, shape.width, True, adaptable=False),
        layer_norm(f"{head}.LayerNorm", shape.width),
        lm_head(width=shape.width, vocab=shape.vocab, tied=True, name=f"{head}.token_table"),
        Plain(f"{head}.bias", (shape.vocab,)),
    )


@family("deberta", "deberta-v2")
def deberta(config: Config) -> ModelSpec:
    """Post-norm encoder with disentangled attention; its position scores are not counted."""
    shape = read_shape(config)
    narrow = config.optional_int("embedding_size", least=1) or shape.width
    mixing = _attention_v1 if config.model_type == "deberta" else _attention_v2
    norms: list[Norm] = [
        layer_norm(name, shape.width) for name in ("attention.output.LayerNorm", "output.LayerNorm")
    ]
    layer = Block("layer", (
        *mixing(config, shape),
        *_position_projections(config, shape),
        norms[0],
        *mlp(width=shape.width, ffn=shape.ffn, up="intermediate.dense", down="output.dense"),
        norms[1],
    ))  # fmt: skip
    context = pooler(config.optional_int("pooler_hidden_size", least=1) or shape.width)
    heads = bert_heads(config, shape, _lm(config, shape, narrow), first=[context]) | {
        "Model": (),
        "SequenceClassification": (context, label_head(shape.width, config.n_labels)),
    }
    return encoder(
        config, shape, embedding=_embedding(config, shape, narrow),
        layers=[layer] * shape.n_layers, head=task_head(config, heads, usual="MaskedLM"),
        max_positions=config.int("max_position_embeddings"),
        learned_positions=config.flag("position_biased_input", True),
    )  # fmt: skip
