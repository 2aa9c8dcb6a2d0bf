"""What serving would still take, and what it would need: searches over one engine's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from lmsize.errors import InputError, LayoutError
from lmsize.estimate.answer import Serving
from lmsize.estimate.serving import ServingQuestion
from lmsize.planner.search import largest

Peak = Callable[[ServingQuestion], int]

MOST_SEQUENCES = 2**20
MOST_CONTEXT = 2**24
MOST_PER_REPLICA = 1024


def fits(question: ServingQuestion, peak: Peak) -> bool:
    """Whether a question's peak is within its accelerator's capacity."""
    return (
        question.accelerator is not None and peak(question) <= question.accelerator.capacity_bytes
    )


def limits(question: ServingQuestion, peak: Peak) -> tuple[int | None, int | None]:
    """(longest context, most sequences) that fit, all else unchanged."""
    if question.accelerator is None:
        return None, None
    output = question.spec.output or 1
    longest = min(question.model.max_positions or MOST_CONTEXT, MOST_CONTEXT)

    def with_context(n: int) -> bool:
        prompt = min(question.spec.prompt or 1, max(n - output, 1))
        return fits(question.varied(context=n, prompt=prompt), peak)

    return (
        largest(with_context, most=longest),
        largest(lambda n: fits(question.varied(concurrency=n), peak), most=MOST_SEQUENCES),
    )


def with_limits(serving: Serving, question: ServingQuestion, peak: Peak) -> Serving:
    """The serving figures with the limits filled in."""
    context, concurrency = limits(question, peak)
    return replace(serving, max_context_tokens=context, max_concurrency=concurrency)


def min_to_fit(question: ServingQuestion, peak: Peak) -> int | None:
    """The fewest accelerators on which one replica fits, by legal tp first, then stages."""
    if question.accelerator is None:
        return None
    layout = question.setup.layout
    pp = 1
    sequences = question.setup.n_sequences
    while pp <= MOST_PER_REPLICA:
        tp = 1
        while tp <= 8:
            changes = {
                "tp": tp,
                "pp": pp,
                "accelerators": tp * pp * max(1, layout.ep),
                "concurrency": sequences,
            }
            try:
                if fits(question.varied(**changes), peak):
                    return tp * pp
            except (LayoutError, InputError):
                pass
            tp *= 2
        pp *= 2
    return None


def remedies(question: ServingQuestion, peak: Peak, *, n_needed: int | None) -> Iterator[str]:
    """Single changes that make it fit, the least costly first."""
    trials: list[tuple[str, dict[str, object]]] = []
    if question.spec.kv_precision in ("bf16", "fp16", "fp32"):
        trials.append(("--kv-precision fp8", {"kv_precision": "fp8"}))
    if question.spec.quant is None:
        trials += [(f"--quant {kind}", {"quant": kind}) for kind in ("fp8", "int4")]
    for text, change in trials:
        if fits(question.varied(**change), peak):
            yield text
            break
    if n_needed is not None and n_needed > question.setup.layout.tp * question.setup.layout.pp:
        yield f"{n_needed} accelerators a replica (--tp, --pp)"
