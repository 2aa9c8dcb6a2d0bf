"""Activations kept for the backward pass, by the published formulas."""

from __future__ import annotations

from typing import Any

from lmsize.formula import Term, formula, total
from lmsize.layout.degrees import Layout
from lmsize.layout.shares import Stage
from lmsize.model.parts import AttentionCore, Linear, Part
from lmsize.model.spec import Block, ModelSpec, Tower
from lmsize.numbers import ceil_div
from lmsize.source import Source

KORTHIKANTI = Source(
    "Reducing Activation Recomputation in Large Transformer Models",
    "equations 1 to 6 and section 4.3",
    "https://arxiv.org/abs/2205.05198",
)


@formula(source=KORTHIKANTI)
def layer_activation_bytes(
    *, n_tokens: Any, width: Any, n_score_heads: Any, n_keys: Any, bytes_per_number: Any,
    tp: Any, sequence_shards: Any,
) -> Any:  # fmt: skip
    """Bytes that one layer keeps: ``sbh (10 + 24 / t + 5 a s / (h t))`` at two bytes a number.

    Assumes: a GELU MLP of four times the width, dropout, one mask byte for two of activation;
    other widths and gates are not seen.
    Valid for: standard transformer layers; ``n_score_heads`` is 0 where scores are not kept
    (flash and fused attention, selective recomputation), ``sequence_shards`` is tp with sequence
    parallelism, else 1.
    """
    linear = n_tokens * width * (10 / sequence_shards + 24 / tp)
    scores = 5 * n_score_heads * n_keys * n_tokens / tp
    return (linear + scores) * bytes_per_number / 2


@formula(source=KORTHIKANTI)
def checkpoint_bytes(
    *, n_tokens: Any, width: Any, bytes_per_number: Any, sequence_shards: Any
) -> Any:
    """Bytes that one fully recomputed layer keeps: its input, ``2 s b h`` at two bytes.

    Assumes: the working set of the layer under recomputation is not counted, as in the paper.
    Valid for: full recomputation, layer by layer.
    """
    return n_tokens * width * bytes_per_number / sequence_shards


@formula(source=KORTHIKANTI)
def head_activation_bytes(
    *, n_tokens: Any, width: Any, vocab_size: Any, bytes_per_number: Any, tp: Any
) -> Any:
    """Bytes kept around the output layer: ``4 s b h (1 + v / h) / t``.

    Assumes: logits in fp32 for the loss; two inputs of the width in the compute type.
    Valid for: one loss over every token.
    """
    return n_tokens * (2 * width * bytes_per_number + 4 * vocab_size) / tp


def layer_widths(block: Block) -> tuple[int, AttentionCore | None]:
    """The width of a layer's stream and its first attention core."""
    core = next((p for p in block.parts if isinstance(p, AttentionCore)), None)
    width = next((p.n_in for p in block.parts if isinstance(p, Linear)), 0)
    return width, core


def _has_head(parts: tuple[Part, ...]) -> bool:
    return any(isinstance(p, Linear) and p.per_token >= 1 for p in parts)


def stage_activations(
    label: str, model: ModelSpec, stage: Stage, layout: Layout, *, micro_batch: Any, seq_len: Any,
    n_micro: int, recompute: str, attention: str, bytes_per_number: float,
) -> Term:  # fmt: skip
    """Activations of one rank of a stage, for every micro-batch that it has in flight."""
    in_flight = stage.n_in_flight(n_micro)
    n_tokens = ceil_div(micro_batch * seq_len, layout.cp)
    shards = layout.tp if layout.sequence_parallel else 1
    terms: list[Term] = []

    def of(tower: Tower, block: Block, n_layers: int) -> Term:
        width, core = layer_widths(block)
        one = {
            "n_tokens": n_tokens * in_flight * n_layers,
            "width": width,
            "bytes_per_number": bytes_per_number,
            "sequence_shards": shards,
        }
        name = f"{n_layers} x {block.name} ({tower.name})"
        if recompute == "full":
            return checkpoint_bytes.term(name, **one)
        keeps_scores = core is not None and attention == "eager" and recompute == "none"
        n_heads = core.n_heads if core is not None and keeps_scores else 0
        return layer_activation_bytes.term(
            name, **one, n_score_heads=n_heads, n_keys=seq_len, tp=layout.tp
        )

    for tower, run in stage.runs:
        if tower.stream == "idle":
            continue
        if run.block.role == "layer":
            terms.append(of(tower, run.block, run.n_layers))
        elif run.block.role == "head" and _has_head(run.block.parts) and tower == model.towers[-1]:
            terms.append(
                head_activation_bytes.term(
                    "output layer and loss",
                    n_tokens=n_tokens,
                    width=model.width,
                    vocab_size=model.vocab_size,
                    bytes_per_number=bytes_per_number,
                    tp=layout.tp,
                )
            )
    return total(label, terms)
