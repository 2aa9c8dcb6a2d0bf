"""CPM-Ant: a decoder with prompts in its vocabulary and a bias by segment and distance."""

from __future__ import annotations

from lmsize.model.blocks import attention, decoder, gated_mlp, lm_head, rms_norm
from lmsize.model.config import Config
from lmsize.model.encoder_blocks import Shape
from lmsize.model.family import family
from lmsize.model.head_blocks import lm_tasks, task_head
from lmsize.model.parts import Embedding, Plain
from lmsize.model.spec import Block, ModelSpec


def _embedding(config: Config, shape: Shape) -> Block:
    """Tokens and prompts in one table, segments, and the bias that all layers share."""
    n_segments = config.int("segment_types")
    rows = shape.vocab + config.int("prompt_types") * config.int("prompt_length")
    n_distances = config.int("position_bias_num_buckets") + n_segments**2
    bias = "position_bias.relative_attention_bias"
    return Block("embedding", (
        Embedding("input_embedding", rows, shape.width, is_vocabulary=True),
        Embedding("segment_embedding", n_segments, shape.width),
        Plain(bias, (n_distances, shape.n_heads)),
    ), "embedding")  # fmt: skip


@family("cpmant")
def cpmant(config: Config) -> ModelSpec:
    """Pre-norm decoder with gated MLPs and no biases; the head is never tied."""
    width, n_layers, n_heads, vocab = config.require(
        "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"
    )
    shape = Shape(width, n_layers, n_heads, vocab, config.int("dim_ff"))
    inner = "self_att.self_attention"
    layer = Block("layer", (
        rms_norm("self_att.layernorm_before_attention", width),
        *attention(
            width=width, n_heads=n_heads, n_kv_heads=n_heads, head_dim=config.int("dim_head"),
            prefix=inner, names=("project_q", "project_k", "project_v", "attention_out"),
        ),
        rms_norm("ffn.layernorm_before_ffn", width),
        *gated_mlp(
            width=width, ffn=shape.ffn, prefix="ffn.ffn", names=("w_in.w_0", "w_in.w_1", "w_out")
        ),
    ))  # fmt: skip
    heads = {**lm_tasks([lm_head(width=width, vocab=vocab, tied=False)]), "Model": ()}
    return decoder(
        config, width=width, n_layers=n_layers, n_heads=n_heads, vocab=vocab,
        embedding=_embedding(config, shape), layers=[layer] * n_layers,
        head=task_head(
            config, heads, usual="CausalLM", final=[rms_norm("encoder.output_layernorm", width)]
        ),
        max_positions=config.optional_int("position_bias_max_distance", least=1),
    )  # fmt: skip
