"""What the analytic engine's memory is judged by: each set of measurements, its aim, and how it did.

``refresh_accuracy.py`` keeps the figures in ``docs/accuracy.json``; ``accuracy_tables.py`` shows them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import megatron_core
import sharded_tape_vs_trace
import tape_families
import traced_catalogue
from lmsize.validation.result import Answer
from tape_rows import recorded
from tape_vs_trace import error_of

DIGITS = 5
SURE = 0.95  # a verdict of more confidence than this should not be wrong
GITHUB = "https://github.com/"
FINE_TUNING = tuple(
    GITHUB + name
    for name in (
        "Lightning-AI/litgpt", "huggingface/peft", "QwenLM/Qwen", "modelscope/ms-swift",
        "unslothai/unsloth", "kvcache-ai/ktransformers",
    )
)  # fmt: skip
MEGATRON, TORCHTITAN = GITHUB + "NVIDIA/Megatron-LM", GITHUB + "pytorch/torchtitan"


@dataclass(frozen=True, slots=True)
class Judge:
    """A set of measurements and what its errors should be.

    Attributes:
        aims: the largest fraction that each figure of the absolute errors may be: ``median``, ``p90``,
            ``p99``, ``worst``.
        picks: whether an answer about memory is one of the set.
    """

    name: str
    aims: dict[str, float]
    picks: Callable[[Answer], bool]


def _is_good(answer: Answer) -> bool:
    return answer.group["quality"] in ("A", "B")


def _tunes(answer: Answer) -> bool:
    return _is_good(answer) and answer.group["source"] in FINE_TUNING


def _pretrains(answer: Answer) -> bool:
    others = (*FINE_TUNING, MEGATRON, TORCHTITAN)
    return _is_good(answer) and answer.group["source"] not in others


MEASURED = (
    Judge("Megatron-LM's rows of grades A and B", {"median": 0.01, "p90": 0.03},
          lambda a: _is_good(a) and a.group["source"] == MEGATRON),
    Judge("torchtitan's rows", {"median": 0.04}, lambda a: a.group["source"] == TORCHTITAN),
    Judge("fine-tuning, A and B, allocated or reserved", {"median": 0.05},
          lambda a: _tunes(a) and a.group["metric"] != "driver"),
    Judge("fine-tuning, A and B, the driver's figure", {"median": 0.08},
          lambda a: _tunes(a) and a.group["metric"] == "driver"),
    Judge("other pre-training, A and B", {"median": 0.06}, _pretrains),
)  # fmt: skip
TOYS = Judge("Megatron-LM's toy layouts", {"median": 0.01, "p90": 0.03}, lambda _: True)
VERDICTS = "verdicts on what fits, A and B"
RIGHT = 0.95


def figures(errors: Iterable[float]) -> dict[str, Any]:
    """Figures of the sizes of some errors, as fractions."""
    sizes = np.abs(np.fromiter(errors, float))
    found = {
        "median": np.median(sizes), "mean": sizes.mean(), "p90": np.quantile(sizes, 0.9),
        "p99": np.quantile(sizes, 0.99), "worst": sizes.max(),
    }  # fmt: skip
    return {"n": int(sizes.size), **{k: round(float(v), DIGITS) for k, v in found.items()}}


def judged(name: str, aims: dict[str, float], errors: Iterable[float]) -> dict[str, Any]:
    """A line of the table: the set, its aims, the figures, and whether all aims are met."""
    found = figures(errors)
    return {"name": name, "aims": aims, **found, "met": all(found[k] <= v for k, v in aims.items())}


def _verdicts(answers: Iterable[Answer]) -> dict[str, Any]:
    mine = [a for a in answers if a.quantity == "fits" and _is_good(a)]
    wrong = [a for a in mine if not a.right]
    right = 1 - len(wrong) / len(mine)
    sure = [a.id for a in wrong if max(a.predicted, 1 - a.predicted) > SURE]
    return {
        "name": VERDICTS, "aims": {"right": RIGHT}, "n": len(mine), "right": round(right, DIGITS),
        "wrong": [a.id for a in wrong], "wrong_and_sure": sure, "met": right >= RIGHT and not sure,
    }  # fmt: skip


def measured(answers: Iterable[Answer], toys: Iterable[Answer]) -> list[dict[str, Any]]:
    """The lines that published measurements give."""
    answers = list(answers)
    memory = [a for a in answers if a.quantity == "memory"]
    found = []
    for judge, among in [(TOYS, list(toys)), *((one, memory) for one in MEASURED)]:
        mine = [a for a in among if judge.picks(a)]
        line = judged(judge.name, judge.aims, [a.relative_error or 0.0 for a in mine])
        test = [a.relative_error or 0.0 for a in mine if a.group.get("split") == "test"]
        found.append(line | {"median_of_test_rows": figures(test)["median"] if test else None})
    return [*found, _verdicts(answers)]


def traced() -> list[dict[str, Any]]:
    """The lines that recorded traces give: the tape is asked anew, the traces are not made again."""
    cases = (case for case in recorded() if "peaks" in case)
    random = [error_of(case)[0] for case in cases]
    each = [error_of(case)[0] for case in tape_families.recorded() if "peaks" in case]
    real = [traced_catalogue.compared(row)["error"] for row in traced_catalogue.traced_rows()]
    ranks = list(sharded_tape_vs_trace.recorded_errors())
    return [
        judged("random models, traced", {"median": 0.001, "p99": 0.02, "worst": 0.05}, random),
        judged("every family of transformers, traced", {"median": 0.001, "worst": 0.05}, each),
        judged("catalogue models at their real shape, traced", {"worst": 0.02}, real),
        judged("one rank of FSDP2, tensor parallelism or both, traced", {"worst": 0.02}, ranks),
        judged(
            "Megatron core's own layers, traced", {"worst": 0.02}, megatron_core.recorded_errors()
        ),
    ]
