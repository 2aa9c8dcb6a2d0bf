"""Prefill and decode times of serving."""

from __future__ import annotations

from typing import Any

from lmsize.formula import formula
from lmsize.source import Source

POPE = Source(
    "Efficiently Scaling Transformer Inference", "section 2", "https://arxiv.org/abs/2211.05102"
)
QWEN = Source(
    "Qwen2.5 and Qwen2 speed benchmarks",
    "seconds a token and layer of small models (fitted: see docs/catalogue.md)",
    "github.com/QwenLM/Qwen2.5",
)
MOE = Source("Mixtral of Experts", "section 2.1", "https://arxiv.org/abs/2401.04088")


@formula(source=MOE)
def touched_frac(*, active_frac: Any, n_tokens: Any) -> Any:
    """The share of the routed experts that a batch of tokens reads.

    Assumes: each token picks its experts independently and evenly.
    Valid for: any batch; one token reads `active_frac` of them.
    """
    return 1 - (1 - active_frac) ** n_tokens


@formula(source=QWEN)
def layers_s(*, n_layers: Any, layer_s: Any) -> Any:
    """Seconds that one pass takes for its number of layers alone, whatever they compute.

    Assumes: launched one by one, the host decides; from a recorded graph, the kernels' own latency.
    Valid for: one forward pass; stages of a pipeline follow one another.
    """
    return n_layers * layer_s


@formula(source=POPE)
def served_tokens_per_s(*, n_sequences: Any, decode_s: Any, prefill_s: Any, n_output: Any) -> Any:
    """Output tokens a second over all sequences, each paying for its own prompt.

    Assumes: prompts and outputs follow one another without gaps; prefills do not overlap decoding.
    Valid for: steady load.
    """
    return n_sequences * n_output / (n_sequences * prefill_s + n_output * decode_s)
