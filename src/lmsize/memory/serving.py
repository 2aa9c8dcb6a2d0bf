"""The memory of serving: weights, caches and working space, on the worst rank."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lmsize.catalogue import Precision
from lmsize.formula import Term, formula, maximum, total
from lmsize.layout.degrees import Layout
from lmsize.layout.shares import Stage, stages, stored_parts
from lmsize.memory.storage import storage
from lmsize.model.parts import AttentionCore, Experts, Linear, Scan
from lmsize.model.spec import ModelSpec
from lmsize.numbers import ceil_div, smaller
from lmsize.source import Source

POPE = Source(
    "Efficiently Scaling Transformer Inference", "section 3", "https://arxiv.org/abs/2211.05102"
)
LOGITS = Source(
    "transformers",
    "v4.44 modeling_llama.py, LlamaForCausalLM.forward: logits.float()",
    "https://github.com/huggingface/transformers",
)
MISTRAL = Source(
    "Mistral 7B", "section 2, rolling buffer cache", "https://arxiv.org/abs/2310.06825"
)
FP32_BYTES = 4


@formula(source=POPE)
def kv_cache_bytes(
    *, n_layers: Any, numbers_per_token: Any, n_cached_tokens: Any, n_sequences: Any,
    bits_per_number: Any,
) -> Any:  # fmt: skip
    """Bytes of cached keys and values, or of latents, of attention layers.

    Assumes: every sequence is at its full length; no pages left half empty.
    Valid for: `n_cached_tokens` the context, or the window where that is shorter.
    """
    return ceil_div(
        n_layers * numbers_per_token * n_cached_tokens * n_sequences * bits_per_number, 8
    )


@formula(source=MISTRAL)
def cached_tokens(*, context: Any, window: Any) -> Any:
    """Tokens that a layer keeps of one sequence: all, or a rolling window.

    Assumes: the server frees what has left the window.
    Valid for: sliding and chunked attention.
    """
    return smaller(context, window)


@formula(source=Source("Mamba", "section 3", "https://arxiv.org/abs/2312.00752"))
def state_cache_bytes(
    *, n_layers: Any, state_size: Any, n_sequences: Any, bits_per_number: Any
) -> Any:
    """Bytes of recurrent states, which do not grow with the context.

    Assumes: kept in the type of the cache.
    Valid for: state-space and linear-attention layers.
    """
    return ceil_div(n_layers * state_size * n_sequences * bits_per_number, 8)


@formula(source=POPE)
def working_bytes(*, n_tokens: Any, width: Any, widest: Any, bytes_per_number: Any) -> Any:
    """Bytes of the tensors alive inside one layer of a forward pass.

    Assumes: the stream, its norm and two tensors of the widest linear live at once.
    Valid for: fused attention, which keeps no scores.
    """
    return n_tokens * (2 * width + 2 * widest) * bytes_per_number


@formula(source=LOGITS)
def prompt_logits_bytes(*, n_tokens: Any, vocab_size: Any, bytes_per_number: Any) -> Any:
    """Bytes of the logits of every token of a prompt.

    Assumes: `bytes_per_number` counts the head's output and the fp32 copy made of it, both alive.
    Valid for: log-probabilities of prompts; transformers before 4.45, which always made them.
    """
    return n_tokens * vocab_size * bytes_per_number


@dataclass(frozen=True, slots=True)
class ServingSetup:
    """Everything that the memory of serving depends on; sequences are those of one replica.

    Attributes:
        prefill_chunk: tokens prefilled at once, of all prompts together.
        prompt_logits: whether logits are kept for every one of those.
    """

    model: ModelSpec
    layout: Layout
    weights: Precision
    quant: Precision | None
    cache: Precision
    context: int
    prompt: int
    n_sequences: int
    prefill_chunk: int
    prompt_logits: bool


def serving_peak(setup: ServingSetup) -> Term:
    """Weights, cache and working space of the worst stage, all held at once."""
    peaks = []
    for stage in stages(setup.model, setup.layout.pp):
        held = [weights(setup, stage), kv_cache(setup, stage), _working(setup, stage)]
        peaks.append(maximum("peak", [total("prefill", held)]))
    return max(peaks, key=lambda peak: float(peak.value))


def weights(setup: ServingSetup, stage: Stage) -> Term:
    """The weights of a stage on one rank."""
    sums: dict[tuple[str, bool], int] = defaultdict(int)
    for stored in stored_parts(stage, setup.layout, trainable=False):
        key = stored.group, setup.quant is not None and stored.is_linear
        sums[key] = sums[key] + stored.n_params
    parts = []
    for (group, quantised), n in sums.items():
        kind = setup.quant if quantised and setup.quant else setup.weights
        parts.append(storage(f"{group} ({kind.name})", n, kind))
    return total("weights", parts)


def kv_cache(setup: ServingSetup, stage: Stage) -> Term:
    """Caches and states of a stage on one rank."""
    return total("kv_cache", [
        _cache_term(part, n_layers, stream, setup)
        for part, n_layers, stream in _caching(stage)
    ])  # fmt: skip


def _caching(stage: Stage) -> Iterator[tuple[AttentionCore | Scan, int, str]]:
    for tower, run in stage.runs:
        for part in run.block.parts:
            cached = isinstance(part, Scan) or (isinstance(part, AttentionCore) and caches(part))
            if tower.stream != "idle" and cached:
                assert isinstance(part, AttentionCore | Scan)
                yield part, run.n_layers, run.block.name


def caches(core: AttentionCore) -> bool:
    """Whether a core keeps anything between tokens: decoders do, encoders do not."""
    return (core.causal or core.cross) and core.cached_per_token > 0


def _cache_term(part: AttentionCore | Scan, n_layers: int, name: str, setup: ServingSetup) -> Term:
    bits = setup.cache.bits_per_value
    label = f"{n_layers} x {name}"
    if isinstance(part, Scan):
        return state_cache_bytes.term(
            f"states of {label}", n_layers=n_layers, n_sequences=setup.n_sequences,
            state_size=ceil_div(part.state_size, setup.layout.tp), bits_per_number=bits,
        )  # fmt: skip
    numbers = part.cached_per_token
    if part.cache_width is None:
        numbers = ceil_div(part.n_kv_heads, setup.layout.tp) * (part.head_dim + part.v_head_dim)
    n_tokens = setup.prompt if part.cross else setup.context
    kept = cached_tokens(context=n_tokens, window=part.window or n_tokens)
    return kv_cache_bytes.term(
        label, n_layers=n_layers, numbers_per_token=numbers, n_cached_tokens=kept,
        n_sequences=setup.n_sequences, bits_per_number=bits,
    )  # fmt: skip


def cache_bytes_per_token(model: ModelSpec, cache: Precision) -> float:
    """What one more token of one sequence adds over all layers, windows not yet full (bytes)."""
    numbers = sum(
        part.cached_per_token * run.n_layers
        for tower, run in model.runs()
        for part in run.block.parts
        if tower.stream != "idle"
        and isinstance(part, AttentionCore)
        and caches(part)
        and not part.cross
    )
    return numbers * cache.bits_per_value / 8


def _working(setup: ServingSetup, stage: Stage) -> Term:
    widest = max(
        (_widest(run.block.parts) for _, run in stage.runs if run.block.role == "layer"), default=0
    )
    n_tokens = min(setup.prompt * setup.n_sequences, setup.prefill_chunk)
    term = working_bytes.term(
        "one layer of a prefill", n_tokens=n_tokens, width=setup.model.width,
        widest=ceil_div(widest, setup.layout.tp), bytes_per_number=setup.weights.bits / 8,
    )  # fmt: skip
    return total("temporaries", [term, _logits(setup, stage, n_tokens)])


def _logits(setup: ServingSetup, stage: Stage, n_tokens: int) -> Term:
    """Logits of the next tokens; of a whole chunk with their copy in fp32, on the head's stage."""
    if setup.prompt_logits and any(run.block.role == "head" for _, run in stage.runs):
        return prompt_logits_bytes.term(
            "logits", n_tokens=n_tokens, vocab_size=setup.model.vocab_size,
            bytes_per_number=setup.weights.bits / 8 + FP32_BYTES,
        )  # fmt: skip
    return storage("logits", setup.n_sequences * setup.model.vocab_size, setup.weights)


def _widest(parts: tuple[Any, ...]) -> int:
    sizes = [p.n_out for p in parts if isinstance(p, Linear)]
    sizes += [
        n_out * p.top_k for p in parts if isinstance(p, Experts) for _, _, n_out in p.matrices
    ]
    return max(sizes, default=0)
