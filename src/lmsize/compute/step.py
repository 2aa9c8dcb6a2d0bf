"""FLOPs of one training step: what the model needs, and what the hardware executes."""

from __future__ import annotations

from dataclasses import dataclass

from lmsize.compute.work import FROZEN_BASE, FULL_TRAINING, Passes, Tokens, work
from lmsize.formula import Term, total
from lmsize.model.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class StepWork:
    """Both counts of a step, over all accelerators.

    Attributes:
        model: the arithmetic that the mathematics asks for; MFU divides this.
        hardware: what runs: recomputation, masked pairs that eager attention still computes,
            and the scores that flash attention computes once more in backward; HFU divides this.
    """

    model: Term
    hardware: Term


def step_work(
    model: ModelSpec, *, n_sequences: int, seq_len: int, recompute: str, attention: str,
    adapters: ModelSpec | None = None,
) -> StepWork:  # fmt: skip
    """FLOPs of one optimizer step.

    Args:
        n_sequences: sequences of the global batch; labels are as long as inputs.
        recompute: ``none``, ``selective`` (attention alone) or ``full`` (every layer).
        attention: ``eager`` computes the masked half too; ``sdpa`` and ``flash`` skip it and
            compute scores again in backward.
        adapters: the adapters of a frozen base.
    """
    passes = FULL_TRAINING if adapters is None else FROZEN_BASE
    needed = Tokens(n_sequences, seq_len, seq_len)
    eager = attention == "eager"
    run = Tokens(n_sequences, seq_len, seq_len, masked_skipped=not eager)
    # FlashAttention-2, section 4.1: backward is 2.5 x forward, against 2 when scores are kept.
    executed = Passes(passes.weights, passes.adapters, 3 if eager else 3.5)
    parts = [work("step", model, run, executed, adapters=adapters)]
    if recompute != "none":
        again = Passes(1, 1, 1) if recompute == "full" else Passes(0, 0, 1)
        parts.append(
            work(f"{recompute} recompute", model, run, again, adapters=adapters, only="layer")
        )
    return StepWork(
        work("model FLOPs", model, needed, passes, adapters=adapters),
        total("hardware FLOPs", parts, unit="FLOP"),
    )
