"""The table of docs/tape.md: the tape beside every recorded trace."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from article_tables import table
from tape_cases import Case
from tape_rows import recorded
from tape_vs_trace import error_of, quantile

GROUPS: dict[str, Callable[[Case], bool]] = {
    "all": lambda _case: True,
    "full fine-tuning": lambda case: case["options"]["method"] == "full",
    "LoRA": lambda case: case["options"]["method"] == "lora",
    "QLoRA": lambda case: case["options"]["method"] == "qlora",
    "autocast": lambda case: case["options"]["precision"].startswith("amp"),
    "checkpointing": lambda case: case["options"]["recompute"] == "full",
    "eager attention": lambda case: case["options"]["attention"] == "eager",
}


def against_traces() -> list[str]:
    """By group: cases, and quantiles of their error."""
    cases = [case for case in recorded() if "peaks" in case]
    errors = {case["id"]: abs(error_of(case)[0]) for case in cases}
    seeds = sorted({int(case["id"].partition("-")[0]) for case in cases})
    groups = dict(GROUPS)
    for seed in seeds:
        groups[f"seed {seed}"] = lambda case, seed=seed: case["id"].startswith(f"{seed}-")  # type: ignore[misc]

    def rows() -> Iterator[tuple[str, ...]]:
        for label, belongs in groups.items():
            found = [errors[case["id"]] for case in cases if belongs(case)]
            if found:
                shares = (quantile(found, share) for share in (0.5, 0.9, 0.99, 1.0))
                yield label, str(len(found)), *(f"{share:.2%}" for share in shares)

    return table(("cases", "n", "median", "90th percentile", "99th", "worst"), rows(), n_text=1)


TABLES: dict[str, Callable[[], list[str]]] = {"tape-against-traces": against_traces}
