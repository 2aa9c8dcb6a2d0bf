"""How fast one replica serves: prefill bound by FLOPs, decoding by bytes or FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmsize.assumption import Assumption
from lmsize.compute.work import FORWARD, Tokens, work
from lmsize.estimate.running import peak_rate
from lmsize.formula import Term, maximum, total
from lmsize.memory.serving import ServingSetup
from lmsize.model.parts import Experts
from lmsize.timing.durations import streamed_s, utilised_s
from lmsize.timing.serving import layers_s, served_tokens_per_s, touched_frac

if TYPE_CHECKING:
    from lmsize.estimate.serving import ServingQuestion

PREFILL_MFU = 0.5
DECODE_MFU = 0.5
# Agarwal et al., "LLM Inference Performance Engineering: Best Practices" (Databricks, 2023):
# 55 to 60 % of the memory bandwidth at batch 1 on A100 and H100.
BANDWIDTH_FRAC = 0.6


@dataclass(frozen=True, slots=True)
class Speed:
    """Times of one replica; None without an accelerator or a rate."""

    prefill_s: float | None = None
    decode_s: float | None = None
    tokens_per_s: float | None = None
    trees: tuple[Term, ...] = ()
    stated: tuple[Assumption, ...] = ()


def speed_of(question: ServingQuestion, moment: Term, prefill: Term) -> Speed:
    """Prefill and decode of one replica.

    Args:
        moment: the components of the worst rank's memory, whose weights and cache are read.
        prefill: FLOPs of one prompt.
    """
    row, setup = question.accelerator, question.setup
    if row is None:
        return Speed()
    peak, stated = peak_rate(row, setup.weights.compute or setup.weights.name)
    if peak is None:
        return Speed(stated=stated)
    ranks = setup.layout.tp * setup.layout.pp
    mfu = question.spec.mfu or PREFILL_MFU
    work_of_prompt = utilised_s.term(
        "arithmetic", n_flops=prefill.value, n_accelerators=ranks, peak_flops_per_s=peak,
        mfu_frac=mfu,
    )  # fmt: skip
    eager = question.spec.eager
    layer = question.catalogue.overhead("host_layer" if eager else "graph_layer").typical
    layers = layers_s.term("layers", n_layers=_n_layers(setup), layer_s=layer)
    first = _passed("prefill", work_of_prompt, layers, eager=eager)
    n_held = (
        setup.prompt + (question.spec.output or 1) / 2
    )  # a sequence's mean length while it decodes
    token = _decode(setup, moment, peak, row.memory_bandwidth_bytes_per_s, n_held=n_held)
    each = _passed("a token", token, layers, eager=eager)
    rate = served_tokens_per_s(
        n_sequences=setup.n_sequences, decode_s=each.value, prefill_s=first.value,
        n_output=question.spec.output,
    )  # fmt: skip
    text = (
        f"prefill at {mfu:.0%} of the peak; decoding at {DECODE_MFU:.0%} of the peak or "
        f"{BANDWIDTH_FRAC:.0%} of the memory bandwidth, whichever is slower (Databricks 2023: 55 to 60 %)"
    )
    how = "launched one by one" if eager else "launched from recorded graphs"
    text += f"; kernels {how} take {layer * 1e3:.1f} ms a layer"
    return Speed(
        first.value, each.value, rate, (first, each), (*stated, Assumption("serving-typical", text))
    )


def _n_layers(setup: ServingSetup) -> int:
    return sum(
        run.n_layers
        for tower, run in setup.model.runs()
        if run.block.role == "layer" and tower.stream != "idle"
    )


def _passed(label: str, work_: Term, layers: Term, *, eager: bool) -> Term:
    """A pass over the layers. The host launches ahead of an accelerator at work, so the slower of
    the two decides; a graph's kernels wait for one another, so their latency comes on top.
    """
    if eager:
        return maximum(label, [work_, layers])
    return total(label, [work_, layers], unit="s")


def _decode(
    setup: ServingSetup, moment: Term, peak: float, bandwidth: float, *, n_held: float
) -> Term:
    """One token for every sequence: stages follow one another, tensor ranks share each."""
    tokens = Tokens(setup.n_sequences, 1, 1, n_cached=round(n_held))
    cache = _cache(moment) * min(n_held / setup.context, 1.0)
    done = work("decode", setup.model, tokens, FORWARD)
    ranks = setup.layout.tp * setup.layout.pp
    arithmetic = utilised_s.term(
        "arithmetic",
        n_flops=done.value,
        n_accelerators=ranks,
        peak_flops_per_s=peak,
        mfu_frac=DECODE_MFU,
    )
    read = total("memory", [
        streamed_s.term(
            f"{name} of the worst stage", n_bytes=n_bytes * setup.layout.pp,
            bandwidth_bytes_per_s=bandwidth, efficiency_frac=BANDWIDTH_FRAC,
        )
        for name, n_bytes in (("weights", _weights_read(setup, moment)), ("cache", cache))
    ], unit="s")  # fmt: skip
    return maximum("work", [arithmetic, read])


def _cache(moment: Term) -> float:
    cache = moment.child("kv_cache")
    return float(cache.value) if cache else 0.0


def _weights_read(setup: ServingSetup, moment: Term) -> float:
    """Bytes of weights that a decoding step reads: no embeddings, and only the experts in use."""
    weights = moment.child("weights")
    if weights is None:
        return 0.0
    experts = [p for _, r in setup.model.runs() for p in r.block.parts if isinstance(p, Experts)]
    share = max((p.top_k / p.n_experts for p in experts), default=1.0)
    used = touched_frac(active_frac=share, n_tokens=setup.n_sequences)
    read = 0.0
    for child in weights.children:
        if child.label.startswith("embeddings"):
            continue
        read += child.value * (used if child.label.startswith("experts") else 1)
    return read
