"""The tape against the trace, on one recorded case of every family of transformers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
AIM_FRAC = 0.02
# Families that the tape misses by more than that, and what is known of them.
KNOWN_MISSES = {
    "1-beam": "by parts",
    "1-convbert": "by parts",
    "1-cpmant": "by parts",
    "1-deepseek_v4": "by parts",
    "1-doge": "by parts",
    "1-dots3_note_text": "by parts",
    "1-hrm_text": "by parts",
    "1-hy_v4": "by parts",
    "1-inkling2_text": "by parts",
    "1-inkling_text": "by parts",
    "1-led": "by parts",
    "1-longcat_flash": "by parts",
    "1-longt5": "its own code is not followed yet",
    "1-luke": "by parts",
    "1-mra": "by parts",
    "1-neomme": "by parts",
    "1-phi4_multimodal": "read without its towers of images and sound",
    "1-recurrent_gemma": "by parts",
    "1-rwkv": "by parts",
    "1-squeezebert": "by parts",
    "1-t5gemma": "its own code is not followed yet",
    "1-trocr": "by parts",
    "1-xlstm": "by parts",
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
    assert {name for name, error in errors.items() if error > AIM_FRAC} == set(KNOWN_MISSES)
    assert judge.quantile(errors.values(), 0.5) <= 0.002


def test_a_recorded_row_names_its_family_and_says_what_became_of_it(judges: Any) -> None:
    families, _ = judges
    for row in families.TABLE.rows().values():
        seed, _, family = row["case"].partition("-")
        assert seed.isdigit()
        assert family
        assert bool(row["said"]) != bool(row["backward_bytes"])
