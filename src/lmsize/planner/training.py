"""What would still fit, and what it would take: searches over one engine's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lmsize.errors import InputError, LayoutError
from lmsize.estimate.answer import Limits
from lmsize.estimate.question import TrainingQuestion
from lmsize.planner.search import largest, smallest

Peak = Callable[[TrainingQuestion], int]

MOST_MICRO_BATCH = 2**20
MOST_SEQ_LEN = 2**22
MOST_RANKS = 2**17
NODE_TP = (1, 2, 4, 8)


def fits(question: TrainingQuestion, peak: Peak) -> bool:
    """Whether a question's peak is within its accelerator's capacity."""
    return (
        question.accelerator is not None and peak(question) <= question.accelerator.capacity_bytes
    )


def limits(question: TrainingQuestion, peak: Peak) -> Limits:
    """The largest micro-batch and the longest sequence that fit, all else unchanged."""
    if question.accelerator is None:
        return Limits()
    cp = question.setup.layout.cp
    longest = min(question.model.max_positions or MOST_SEQ_LEN, MOST_SEQ_LEN)
    length = largest(lambda n: fits(question.varied(seq_len=n * cp), peak), most=longest // cp)
    batch = largest(lambda n: fits(question.varied(micro_batch=n), peak), most=MOST_MICRO_BATCH)
    return Limits(batch, length * cp if length else None)


@dataclass(frozen=True, slots=True)
class Smallest:
    """The fewest accelerators that a run fits on, and the layout that it fits with."""

    n_accelerators: int
    zero: int
    tp: int


def min_to_fit(question: TrainingQuestion, peak: Peak) -> Smallest | None:
    """The fewest accelerators on which it fits: as asked, else with ZeRO-3, else with tensor
    parallelism inside a node as well; None if even then a rank holds too much.
    """
    if question.accelerator is None:
        return None
    layout = question.setup.layout
    group = layout.tp * layout.pp * layout.cp
    if layout.ep == 1 and fits(question.varied(accelerators=group), peak):
        return Smallest(group, layout.zero, layout.tp)
    found = (_sharded(question, peak, tp) for tp in ((layout.tp,) if layout.tp > 1 else NODE_TP))
    return next((one for one in found if one is not None), None)


def _sharded(question: TrainingQuestion, peak: Peak, tp: int) -> Smallest | None:
    """The fewest accelerators with ZeRO (the stage asked for, else 3) and this tp."""
    layout = question.setup.layout
    zero = layout.zero or 3
    step = tp * layout.pp * layout.cp * max(1, layout.ep * (layout.etp or tp) // (layout.cp * tp))

    def enough(n: int) -> bool:
        return fits(question.varied(accelerators=n * step, zero=zero, tp=tp), peak)

    try:
        found = smallest(enough, most=max(MOST_RANKS // step, 1))
    except LayoutError:
        return None  # this tp does not divide the model's heads
    return None if found is None else Smallest(found * step, zero, tp)


def remedies(question: TrainingQuestion, peak: Peak, *, enough: Smallest | None) -> Iterator[str]:
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
    if enough is not None and enough.n_accelerators > layout.n_accelerators:
        zero = f" --zero {enough.zero}" if enough.zero != layout.zero else ""
        tp = f" --tp {enough.tp}" if enough.tp != layout.tp else ""
        yield f"-n {enough.n_accelerators}{zero}{tp}"
    yield from _methods(question, peak)


def _methods(question: TrainingQuestion, peak: Peak) -> Iterator[str]:
    adapters = {"lora_rank": 16, "lora_targets": "all-linear"}
    for method, changes in (
        ("lora", {"precision": "bf16"}),
        ("qlora", {"precision": "bf16", "quant": "nf4"}),
    ):
        if question.spec.method in {method, "qlora"}:
            continue
        try:
            trial = question.varied(method=method, **(adapters | changes))
        except InputError:
            continue  # nothing in this model takes an adapter
        if fits(trial, peak):
            yield f"--method {method}" + (" --precision bf16" if method == "lora" else "")
