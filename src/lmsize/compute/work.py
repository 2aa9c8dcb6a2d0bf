"""The arithmetic of a model over given tokens, from its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lmsize.compute.arithmetic import attention_flops, attention_pairs, matmul_flops, scan_flops
from lmsize.formula import Term, total
from lmsize.model.adapted import SAVED
from lmsize.model.parts import AttentionCore, Conv, Experts, Linear, Part, Scan
from lmsize.model.spec import Block, ModelSpec, Run, Tower, merged


@dataclass(frozen=True, slots=True)
class Passes:
    """How often each kind of arithmetic runs, in units of one forward pass.

    Attributes:
        weights: base matrices: 3 when trained (forward, both gradients), 2 when frozen, 1 to infer.
        adapters: LoRA matrices.
        attention: scores and values.
    """

    weights: float
    adapters: float
    attention: float


FULL_TRAINING = Passes(3, 3, 3)
FROZEN_BASE = Passes(2, 3, 3)
FORWARD = Passes(1, 1, 1)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What goes through the model: sequences, their length, and the labels' length.

    Attributes:
        n_cached: tokens already in the cache before these (decoding).
        masked_skipped: whether the kernel skips pairs that the causal mask hides.
    """

    n_sequences: float
    seq_len: int
    label_len: int
    masked_skipped: bool = True
    n_cached: int = 0

    def length(self, tower: Tower) -> int:
        return {"input": self.seq_len, "labels": self.label_len, "idle": 0}[tower.stream]


def matmul_weights(part: Part) -> float:
    """Weights of a part that one token is multiplied with."""
    if isinstance(part, Linear):
        return part.n_in * part.n_out * part.n_modules * part.per_token
    if isinstance(part, Experts):
        return part.top_k * sum(n_in * n_out for _, n_in, n_out in part.matrices)
    return 0


def _scan_flops_per_token(part: Part) -> float:
    if isinstance(part, Scan):
        return part.flops_per_token
    if isinstance(part, Conv):
        return 2 * part.kernel * part.n_out * (part.n_in // part.n_groups)
    return 0


def _named(tower: Tower, run: Run) -> str:
    return f"{run.n_layers} x {run.block.name} ({tower.name})"


def _core_term(
    core: AttentionCore, run: Run, label: str, tokens: Tokens, *, length: int, n_passes: float
) -> Term:
    n_keys = (tokens.seq_len if core.cross else length) + tokens.n_cached
    causal = core.causal and not core.cross
    pairs = attention_pairs(
        n_queries=length,
        n_keys=n_keys,
        window=core.window or n_keys,
        causal=int(causal and tokens.masked_skipped and not tokens.n_cached),
    )
    return attention_flops.term(
        f"attention of {label}", n_pairs=pairs, n_heads=core.n_heads,
        head_dim=core.head_dim, v_head_dim=core.v_head_dim,
        n_sequences=tokens.n_sequences * run.n_layers, n_passes=n_passes,
    )  # fmt: skip


def _run_terms(
    tower: Tower, run: Run, tokens: Tokens, passes: Passes, *, adapter: bool
) -> Iterator[Term]:
    length = tokens.length(tower)
    n_tokens = length * tokens.n_sequences
    parts = [p for p in run.block.parts if not (isinstance(p, Linear) and p.name.endswith(SAVED))]
    n_weights = sum(matmul_weights(p) for p in parts) * run.n_layers
    n_saved = sum(matmul_weights(p) for p in run.block.parts) * run.n_layers - n_weights
    label = f"{'adapters' if adapter else 'matrices'} of {_named(tower, run)}"
    n_passes = passes.adapters if adapter else passes.weights
    if n_weights and n_passes:
        yield matmul_flops.term(label, n_weights=n_weights, n_tokens=n_tokens, n_passes=n_passes)
    if n_saved and passes.adapters > passes.weights:
        yield matmul_flops.term(  # the base counts their other passes
            f"modules trained whole of {_named(tower, run)}", n_weights=n_saved,
            n_tokens=n_tokens, n_passes=passes.adapters - passes.weights,
        )  # fmt: skip
    if not passes.attention:
        return
    for part in run.block.parts:
        if isinstance(part, AttentionCore):
            named = _named(tower, run)
            yield _core_term(part, run, named, tokens, length=length, n_passes=passes.attention)
    scanned = sum(_scan_flops_per_token(p) for p in run.block.parts) * run.n_layers
    if scanned:
        yield scan_flops.term(
            f"scans of {_named(tower, run)}",
            flops_per_token=scanned, n_tokens=n_tokens, n_passes=passes.attention,
        )  # fmt: skip


def work(
    label: str, model: ModelSpec, tokens: Tokens, passes: Passes, *,
    adapters: ModelSpec | None = None, only: Block | str | None = None,
) -> Term:  # fmt: skip
    """FLOPs of all towers for `tokens`, as a sum of leaves.

    Args:
        adapters: the model of its adapters, if any.
        only: count blocks of this role alone (``layer``: what recompute repeats).
    """
    terms: list[Term] = []
    for source, is_adapter in ((model, False), (adapters, True)):
        if source is None:
            continue
        for tower, run in merged(source.runs()):
            if tower.stream != "idle" and only in (None, run.block.role):
                terms += _run_terms(tower, run, tokens, passes, adapter=is_adapter)
    return total(label, terms, unit="FLOP")
