"""What would still fit, and what it would take: searches over one engine's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lmsize.errors import InputError
from lmsize.estimate.answer import Limits
from lmsize.estimate.question import TrainingQuestion
from lmsize.planner.search import largest, smallest

Peak = Callable[[TrainingQuestion], int]

MOST_MICRO_BATCH = 2**20
MOST_SEQ_LEN = 2**22
MOST_RANKS = 2**17


def fits(question: TrainingQuestion, peak: Peak) -> bool:
    """Whether a question's peak is within its accelerator's capacity."""
    return question.accelerator is not None and peak(question) <= question.accelerator.capacity_bytes


def limits(question: TrainingQuestion, peak: Peak) -> Limits:
    """The largest micro-batch and the longest sequence that fit, all else unchanged."""
    if question.accelerator is None:
        return Limits()
    cp = question.setup.layout.cp
    longest = min(question.model.max_positions or MOST_SEQ_LEN, MOST_SEQ_LEN)
    length = largest(lambda n: fits(question.varied(seq_len=n * cp), peak), most=longest // cp)
    batch = largest(lambda n: fits(question.varied(micro_batch=n), peak), most=MOST_MICRO_BATCH)
    return Limits(batch, length * cp if length else None)


def min_to_fit(question: TrainingQuestion, peak: Peak) -> int | None:
    """The smallest number of accelerators on which it fits with ZeRO-3 (or the stage asked for);
    None if the rest of a rank alone is too much."""
    if question.accelerator is None:
        return None
    layout = question.setup.layout
    group = layout.tp * layout.pp * layout.cp
    step = max(1, layout.ep // layout.cp)
    zero = layout.zero or 3

    def enough(n: int) -> bool:
        return fits(question.varied(accelerators=n * step * group, zero=zero), peak)

    if step == 1 and fits(question.varied(accelerators=group, zero=layout.zero), peak):
        return group
    found = smallest(enough, most=MOST_RANKS // (step * group) or 1)
    return None if found is None else found * step * group


def remedies(question: TrainingQuestion, peak: Peak, *, n_needed: int | None) -> Iterator[str]:
    """Single changes that make it fit, the least costly first."""
    spec, layout = question.spec, question.setup.layout
    trials: list[tuple[str, dict[str, object]]] = []
    if spec.recompute != "full":
        trials.append(("--recompute full", {"recompute": "full"}))
    if spec.attention == "eager":
        trials.append(("--attention sdpa", {"attention": "sdpa"}))
    if layout.dp > 1 and layout.zero < 3:
        trials.append(("--zero 3", {"zero": 3}))
    for text, change in trials:
        if fits(question.varied(**change), peak):
            yield text
    if n_needed is not None and n_needed > layout.n_accelerators:
        zero = "" if layout.zero else " and --zero 3"
        yield f"{n_needed} accelerators{zero}"
    yield from _methods(question, peak)


def _methods(question: TrainingQuestion, peak: Peak) -> Iterator[str]:
    adapters = {"lora_rank": 16, "lora_targets": "all-linear"}
    for method, changes in (
        ("lora", {"precision": "bf16"}),
        ("qlora", {"precision": "bf16", "quant": "nf4"}),
    ):
        if method == question.spec.method or question.spec.method == "qlora":
            continue
        try:
            trial = question.varied(method=method, **(adapters | changes))
        except InputError:
            continue  # nothing in this model takes an adapter
        if fits(trial, peak):
            yield f"--method {method}" + (" --precision bf16" if method == "lora" else "")
