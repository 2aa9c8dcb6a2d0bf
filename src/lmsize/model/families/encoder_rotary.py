"""BERT's frame with rotary attention (Nomic BERT, GTE, Jina v3), and NeoMME."""

from __future__ import annotations

from lmsize.model.blocks import (
    attention,
    gated_mlp,
    layer_norm,
    lm_head,
    mlp,
    token_embedding,
)
from lmsize.model.config import Config
from lmsize.model.encoder_blocks import (
    Shape,
    bert_embedding,
    bert_heads,
    encoder,
    read_shape,
    rotary_attention,
    unused,
)
from lmsize.model.families.encoder_roberta import roberta_heads
from lmsize.model.family import family
from lmsize.model.head_blocks import (
    BERT_LM,
    ROBERTA_LM,
    LmNames,
    lm_tasks,
    lm_transform,
    task_head,
)
from lmsize.model.parts import Embedding, Linear, Part, Plain
from lmsize.model.spec import Block, ModelSpec

KINDS = ("full_attention", "sliding_attention")
LONG_WINDOW = 1024  # of every second NeoMME layer with a window
NOMIC_LM = LmNames(
    BERT_LM.dense, "cls.predictions.transform.layer_norm", BERT_LM.decoder, BERT_LM.bias
)


def _post_norm(
    config: Config, shape: Shape, heads: dict[str, tuple[Part, ...]], *, bias: bool,
    feed_forward: tuple[Part, ...], positions: str = "max_position_embeddings",
) -> ModelSpec:  # fmt: skip
    """Norms after attention and MLP, positions by rotation."""
    layer = Block("layer", (
        *rotary_attention(config, shape, bias=bias),
        layer_norm("post_attention_layernorm", shape.width),
        *feed_forward,
        layer_norm("post_mlp_layernorm", shape.width),
    ))  # fmt: skip
    return encoder(
        config, shape, embedding=bert_embedding(config, shape, n_positions=0),
        layers=[layer] * shape.n_layers, head=task_head(config, heads, usual="MaskedLM"),
        max_positions=config.int(positions), learned_positions=False,
    )  # fmt: skip


@family("nomic_bert")
def nomic_bert(config: Config) -> ModelSpec:
    """Gated MLP without biases; the Hub's configs have GPT-2's names for the sizes."""
    positions = "max_position_embeddings"
    if config.has("n_embd"):
        ffn = "n_inner" if config.has("n_inner") else 4
        shape = read_shape(config, keys=("n_embd", "n_layer", "n_head", "vocab_size"), ffn=ffn)
        positions = "n_positions" if config.has("n_positions") else positions
    else:
        shape = read_shape(config)
    lm = lm_transform(
        NOMIC_LM, width=shape.width, vocab=shape.vocab,
        tied=config.flag("tie_word_embeddings", True),
    )  # fmt: skip
    heads = bert_heads(config, shape, lm) | {"Model": ()}
    gates = gated_mlp(width=shape.width, ffn=shape.ffn)
    return _post_norm(config, shape, heads, bias=False, feed_forward=gates, positions=positions)


@family("gte", "new")
def gte(config: Config) -> ModelSpec:
    """Gated MLP with a bias on its way down; `new` is its name on the Hub."""
    shape = read_shape(config)
    width, tied = shape.width, config.flag("tie_word_embeddings", True)
    lm = (
        Linear(ROBERTA_LM.dense, width, width, True),
        layer_norm(ROBERTA_LM.norm, width),
        lm_head(width=width, vocab=shape.vocab, tied=tied, bias=True, name=ROBERTA_LM.decoder),
    )
    up, gate, _ = gated_mlp(width=width, ffn=shape.ffn)
    down = Linear("mlp.down_proj", shape.ffn, width, True, "row")
    heads = bert_heads(config, shape, lm) | {"Model": ()}
    return _post_norm(config, shape, heads, bias=True, feed_forward=(up, gate, down))


@family("jina_embeddings_v3")
def jina_embeddings_v3(config: Config) -> ModelSpec:
    """RoBERTa's heads and biases over rotary layers; its adapters are not part of the class."""
    shape = read_shape(config)
    feed_forward = mlp(width=shape.width, ffn=shape.ffn, up="mlp.fc1", down="mlp.fc2")
    heads = roberta_heads(config, shape)
    return _post_norm(config, shape, heads, bias=True, feed_forward=feed_forward)


def _neomme_windows(config: Config, n_layers: int) -> list[int | None]:
    """Keys that each layer's tokens see; short and long windows take turns."""
    kinds = config.per_layer("layer_types", n_layers, KINDS) or [
        KINDS[(i + 1) % 6 != 0 and i < n_layers - 1] for i in range(n_layers)
    ]
    short = config.optional_int("sliding_window", least=1) or LONG_WINDOW
    windows: list[int | None] = []
    for kind in kinds:
        n_before = len(windows) - windows.count(None)
        reach = LONG_WINDOW if n_before % 2 else short
        windows.append(2 * reach + 1 if kind == KINDS[1] else None)
    return windows


def _neomme_layer(
    config: Config, shape: Shape, *, n_kv_heads: int, head_dim: int, window: int | None
) -> Block:
    """Attention with a gate on its output; the norms have no parameters."""
    bias, gated = config.flag("attention_bias"), "self_attn.output_projection"
    parts = attention(
        width=shape.width, n_heads=shape.n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim,
        names=("q_proj", "k_proj", "v_proj", "output_projection.o_proj"), qkv_bias=bias,
        out_bias=bias, window=window, causal=False,
    )  # fmt: skip
    to = shape.n_heads * head_dim
    return Block("layer", (
        Plain("lambdas", (2,)),
        *parts,
        Plain("self_attn.exclusive_self_attention.alpha", (shape.n_heads,)),
        Linear(f"{gated}.gate_proj", shape.width, to, split="column", n_units=shape.n_heads),
        *mlp(
            width=shape.width, ffn=shape.ffn, up="mlp.up_proj", down="mlp.down_proj",
            bias=config.flag("mlp_bias"),
        ),
    ))  # fmt: skip


@family("neomme")
def neomme(config: Config) -> ModelSpec:
    """Encoder of text and image patches with a factorised embedding and a table of values."""
    width, n_layers, n_heads, vocab = config.require(
        "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"
    )
    shape = Shape(width, n_layers, n_heads, vocab, config.int("intermediate_size"))
    head_dim, n_kv = config.int("head_dim"), config.int("num_key_value_heads")
    rank, patch = config.int("embedding_rank"), 3 * config.int("patch_size") ** 2
    tied = config.flag("tie_word_embeddings", True)
    stem: list[Part] = [
        Linear("embed_tokens.embedding_projection", rank, width),
        Embedding("value_embeddings", vocab, n_kv * head_dim),
    ]
    patches = unused(
        layer_norm("patch_embeddings.norm", patch),
        Linear("patch_embeddings.up_proj", patch, 2 * width, per_token=0.0),
        Linear("patch_embeddings.down_proj", 2 * width, width, True, per_token=0.0),
        name="patches",
    )  # fmt: skip
    embedding = token_embedding(
        config, vocab=vocab, width=rank, name="embed_tokens.word_embeddings", extra=stem
    )
    heads: dict[str, tuple[Part, ...]] = {
        **lm_tasks((
            Linear("unembedding_projection", rank, width, tied=tied),
            lm_head(width=rank, vocab=vocab, tied=tied),
        )),
        "Model": (),
        "Retrieval": (Linear("multi_vector_head.proj", width, config.int("embedding_dim")),),
    }  # fmt: skip
    windows = _neomme_windows(config, n_layers)
    return encoder(
        config, shape, embedding=embedding,
        layers=[
            _neomme_layer(config, shape, n_kv_heads=n_kv, head_dim=head_dim, window=window)
            for window in windows
        ],
        head=task_head(config, heads, usual="MaskedLM"),
        max_positions=config.int("max_position_embeddings"), learned_positions=False,
        extra_towers=(patches,),
    )  # fmt: skip
