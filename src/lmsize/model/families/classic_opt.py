"""Decoders of fairseq's line, OPT, XGLM, BioGPT; and CTRL."""

from __future__ import annotations

from lmsize.model.blocks import attention, decoder, layer_norm, lm_head, mlp, token_embedding
from lmsize.model.config import Config
from lmsize.model.encoder_blocks import Shape, read_shape
from lmsize.model.family import family
from lmsize.model.head_blocks import generic_heads, label_head, lm_tasks, task_head
from lmsize.model.parts import Buffer, Embedding, Linear, Norm, Part
from lmsize.model.spec import Block, ModelSpec

NAMES = ("q_proj", "k_proj", "v_proj", "out_proj")
PADDING_ROWS = 2  # that fairseq's position tables begin with


def _layer(
    shape: Shape, *, bias: bool = True, affine: bool = True, cross: bool = False,
    norm_first: bool = True,
) -> Block:  # fmt: skip
    """Attention and MLP with their norms, with attention to an encoder between if `cross`."""
    width, heads = shape.width, shape.n_heads

    def normed(branch: tuple[Part, ...], name: str) -> tuple[Part, ...]:
        norm = Norm(name, width, affine, affine)
        return (norm, *branch) if norm_first else (*branch, norm)

    def attend(prefix: str, *, across: bool) -> tuple[Part, ...]:
        parts = attention(
            width=width, n_heads=heads, n_kv_heads=heads, head_dim=shape.head_dim,
            prefix=prefix, names=NAMES, qkv_bias=bias, out_bias=bias, causal=not across,
            cross=across,
        )  # fmt: skip
        return normed(parts, f"{prefix}_layer_norm")

    up_and_down = mlp(width=width, ffn=shape.ffn, up="fc1", down="fc2", bias=bias)
    return Block("layer", (
        *attend("self_attn", across=False),
        *(attend("encoder_attn", across=True) if cross else ()),
        *normed(up_and_down, "final_layer_norm"),
    ))  # fmt: skip


@family("opt")
def opt(config: Config) -> ModelSpec:
    """GPT-3's shape.

    The 350M model projects to and from a narrower embedding, and has no final norm because it
    normalises after each sum.
    """
    shape = read_shape(config, ffn="ffn_dim")
    width, positions = shape.width, config.int("max_position_embeddings")
    narrow = config.optional_int("word_embed_proj_dim", least=1) or width
    affine = config.flag("layer_norm_elementwise_affine", True)
    extra: list[Part] = [Embedding("embed_positions", positions + PADDING_ROWS, width)]
    final: list[Part] = []
    if config.flag("do_layer_norm_before") and not config.flag("_remove_final_layer_norm"):
        final.append(Norm("final_layer_norm", width, affine, affine))
    if narrow != width:
        extra.append(Linear("project_in", narrow, width))
        final.append(Linear("project_out", width, narrow))
    tied = config.flag("tie_word_embeddings", True)
    lm = lm_head(width=narrow, vocab=shape.vocab, tied=tied)
    return decoder(
        config, width=width, n_layers=shape.n_layers, n_heads=shape.n_heads, vocab=shape.vocab,
        embedding=token_embedding(
            config, vocab=shape.vocab, width=narrow, name="embed_tokens", extra=extra
        ),
        layers=[
            _layer(
                shape, bias=config.flag("enable_bias", True), affine=affine,
                norm_first=config.flag("do_layer_norm_before"),
            )
        ]
        * shape.n_layers,
        head=task_head(
            config, generic_heads(config, narrow, [lm]), usual="CausalLM", final=final
        ),
        max_positions=positions, learned_positions=True,
    )  # fmt: skip


@family("xglm")
def xglm(config: Config) -> ModelSpec:
    """Sinusoidal positions, which are no parameters."""
    shape = read_shape(
        config, keys=("d_model", "num_layers", "attention_heads", "vocab_size"), ffn="ffn_dim"
    )
    layer = _layer(shape, cross=config.flag("add_cross_attention"))
    tied = config.flag("tie_word_embeddings", True)
    lm = lm_head(width=shape.width, vocab=shape.vocab, tied=tied)
    rows = config.int("max_position_embeddings") + PADDING_ROWS
    table = Buffer("embed_positions.weights", (rows, shape.width))
    return decoder(
        config, width=shape.width, n_layers=shape.n_layers, n_heads=shape.n_heads,
        vocab=shape.vocab,
        embedding=token_embedding(
            config, vocab=shape.vocab, width=shape.width, name="embed_tokens", extra=[table]
        ),
        layers=[layer] * shape.n_layers,
        head=task_head(
            config, {**lm_tasks([lm]), "Model": ()}, usual="CausalLM",
            final=[layer_norm("layer_norm", shape.width)],
        ),
        max_positions=config.int("max_position_embeddings"),
    )  # fmt: skip


@family("biogpt")
def biogpt(config: Config) -> ModelSpec:
    """Learned positions; the head is named `output_projection`."""
    shape = read_shape(config)
    positions = config.int("max_position_embeddings")
    tied = config.flag("tie_word_embeddings", True)
    lm = lm_head(width=shape.width, vocab=shape.vocab, tied=tied, name="output_projection")
    table = Embedding("embed_positions", positions + PADDING_ROWS, shape.width)
    return decoder(
        config, width=shape.width, n_layers=shape.n_layers, n_heads=shape.n_heads,
        vocab=shape.vocab,
        embedding=token_embedding(
            config, vocab=shape.vocab, width=shape.width, name="embed_tokens", extra=[table]
        ),
        layers=[_layer(shape)] * shape.n_layers,
        head=task_head(
            config, generic_heads(config, shape.width, [lm]), usual="CausalLM",
            final=[layer_norm("layer_norm", shape.width)],
        ),
        max_positions=positions, learned_positions=True,
    )  # fmt: skip


@family("ctrl")
def ctrl(config: Config) -> ModelSpec:
    """Control codes before the text; sinusoidal positions, a tied head with a bias."""
    shape = read_shape(config, keys=("n_embd", "n_layer", "n_head", "vocab_size"), ffn="dff")
    width, inside = shape.width, "multi_head_attention"
    layer = Block("layer", (
        layer_norm("layernorm1", width),
        *attention(
            width=width, n_heads=shape.n_heads, n_kv_heads=shape.n_heads,
            head_dim=shape.head_dim, prefix=inside, names=("Wq", "Wk", "Wv", "dense"),
            qkv_bias=True, out_bias=True,
        ),
        layer_norm("layernorm2", width),
        *mlp(width=width, ffn=shape.ffn, up="ffn.0", down="ffn.2"),
    ))  # fmt: skip
    tied = config.flag("tie_word_embeddings", True)
    heads = {
        **lm_tasks([lm_head(width=width, vocab=shape.vocab, tied=tied, bias=True)]),
        "Model": (),
        "SequenceClassification": (label_head(width, config.n_labels, bias=False),),
    }
    return decoder(
        config, width=width, n_layers=shape.n_layers, n_heads=shape.n_heads, vocab=shape.vocab,
        embedding=token_embedding(
            config, vocab=shape.vocab, width=width, name="w",
            extra=[Buffer("pos_encoding", (config.int("n_positions"), width))],
        ),
        layers=[layer] * shape.n_layers,
        head=task_head(config, heads, usual="LMHead", final=[layer_norm("layernorm", width)]),
        max_positions=config.int("n_positions"),
    )  # fmt: skip
