"""HRM-Text: two stacks of layers that run again and again."""

from __future__ import annotations

from dataclasses import replace

from lmsize.model.blocks import decoder_head, gated_mlp, lm_head, token_embedding
from lmsize.model.config import DEEPEST, Config
from lmsize.model.dense_blocks import dense_shape
from lmsize.model.family import family
from lmsize.model.mixture_blocks import HEAD_CLASSES, Shape, grouped_query, int_list
from lmsize.model.parts import Linear, Norm, Part, Plain
from lmsize.model.spec import Block, ModelSpec, Run, Tower


@family("hrm_text")
def hrm_text(config: Config) -> ModelSpec:
    """Each of ``H_cycles`` runs the low stack ``L_cycles`` times, then the high stack once.

    Training sends gradients through the last `L_bp_cycles` of the low stack's runs only: one before
    each of the first high runs, as many as the list says before the last ones.
    """
    shape = dense_shape(config, even=True)
    in_stack = config.optional_int("num_layers_per_stack", least=1) or shape.n_layers
    high, low = config.int("H_cycles"), config.int("L_cycles")
    n_layers = in_stack * high * (low + 1)
    if n_layers > DEEPEST:
        raise config.error("H_cycles", high, f"at most {DEEPEST} layers run in all, not {n_layers}")
    block = Block("layer", _layer(config, shape))
    n_learning = _n_learning(config, high, low)
    runs = [Run(block, in_stack * n_learning, in_stack), Run(block, in_stack * high, in_stack)]
    if n_learning < high * low:
        runs.append(Run(block, in_stack * (high * low - n_learning), 0, learns=False))
    return _model(config, replace(shape, n_layers=n_layers), tuple(runs))


def _n_learning(config: Config, high: int, low: int) -> int:
    """Runs of the low stack that gradients flow through."""
    stated = int_list(config, "L_bp_cycles") or []
    every = [1] * max(0, high - len(stated)) + stated
    return sum(min(low, n) for n in every[:high])


def _layer(config: Config, shape: Shape) -> tuple[Part, ...]:
    """Gated attention with as many key heads as query heads; norms hold no parameters."""
    width, heads = shape.width, shape.n_heads
    bias = config.flag("attention_bias")
    gate = Linear("self_attn.gate_proj", width, heads * shape.head_dim, bias, "column", heads)
    return (
        Norm("input_layernorm", width, weight=False),
        *grouped_query(shape, qkv_bias=bias, out_bias=bias, n_kv_heads=heads), gate,
        Norm("post_attention_layernorm", width, weight=False),
        *gated_mlp(
            width=width, ffn=config.int("intermediate_size"), bias=config.flag("mlp_bias")
        ),
    )  # fmt: skip


def _model(config: Config, shape: Shape, runs: tuple[Run, ...]) -> ModelSpec:
    width, vocab = shape.width, shape.vocab
    if config.task not in HEAD_CLASSES:
        config.assume(
            "unknown-architecture", f"class {config.architecture!r}: counted as the causal model"
        )
    start = Plain("z_L_init", (width,), trainable=False)
    embedding = token_embedding(
        config, vocab=vocab, width=width, name="embed_tokens", extra=[start]
    )
    lm = lm_head(width=width, vocab=vocab, tied=config.flag("tie_word_embeddings"))
    final = Norm("H_module.final_norm", width, weight=False)
    head = decoder_head(config, width=width, lm=[lm], final=[final])
    return ModelSpec(
        name="", model_type=config.model_type, architecture=config.architecture, width=width,
        n_layers=shape.n_layers, n_heads=shape.n_heads, vocab_size=vocab,
        max_positions=config.optional_int("max_position_embeddings"), learned_positions=False,
        towers=(Tower("decoder", (Run(embedding), *runs, Run(head))),),
    )  # fmt: skip
