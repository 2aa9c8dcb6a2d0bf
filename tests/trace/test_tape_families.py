"""The tape against the trace, on one recorded case of every family of transformers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
AIM_FRAC = 0.02
# Families that the tape misses by more than that in some case, and what is known of them.
KNOWN_MISSES = {
    "beam": "by parts",
    "big_bird": "of adapters, forward and recomputed: not found yet",
    "cpmant": "by parts",
    "diffllama": "two halves of heads whose scores are subtracted",
    "doge": "by parts: a mask that gradients flow to",
    "dots3_note_text": "by parts",
    "funnel": "by parts: tokens that are pooled",
    "hrm_text": "layers of several weights, each shared by some runs",
    "inkling2_text": "by parts",
    "inkling_text": "by parts",
    "longcat_flash": "by parts: experts one after the other",
    "mobilebert": "two tables that are joined for the head",
    "modernbert-decoder": "of adapters, recomputed: not found yet",
    "mpnet": "of adapters, the forward of its head: not found yet",
    "mra": "by parts",
    "mvp": "of adapters, recomputed: not found yet",
    "neomme": "by parts",
    "nystromformer": "its own code is not followed yet",
    "pegasus_x": "its own code is not followed yet: global tokens beside the blocks",
    "prophetnet": "by parts",
    "recurrent_gemma": "recomputed layers keep their last state by name, and with it the graph before it",
    "xlstm": "by parts",
}


@pytest.fixture(scope="module")
def judges() -> Any:
    """``benchmarks/tape_families.py`` and ``benchmarks/tape_vs_trace.py``."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import tape_families
        import tape_vs_trace
    finally:
        sys.path.remove(str(BENCHMARKS))
    return tape_families, tape_vs_trace


def test_the_tape_is_within_its_bounds_on_every_recorded_family(judges: Any) -> None:
    families, judge = judges
    cases = [case for case in families.recorded() if "peaks" in case]
    errors = {case["id"]: abs(judge.error_of(case)[0]) for case in cases}
    assert len(errors) > 150
    missed = {name.partition("-")[2] for name, error in errors.items() if error > AIM_FRAC}
    assert missed == set(KNOWN_MISSES)
    assert judge.quantile(errors.values(), 0.5) <= 0.002


def test_a_recorded_row_names_its_family_and_says_what_became_of_it(judges: Any) -> None:
    families, _ = judges
    for row in families.TABLE.rows().values():
        seed, _, family = row["case"].partition("-")
        assert seed.isdigit()
        assert family
        assert bool(row["said"]) != bool(row["backward_bytes"])
