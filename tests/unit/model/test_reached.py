"""Which parameters gradients reach, and what recurrences keep beside them."""

from __future__ import annotations

import pytest

from lmsize.model.parts import Linear, Norm, Scan


@pytest.mark.parametrize(
    ("part", "learns"),
    [
        (Linear("self_attn.q_proj", 4, 4), True),
        (Linear("self_attn.indexer.wq_b", 4, 4), False),
        (Norm("self_attn.indexer.k_norm", 4, bias=True), False),
    ],
)
def test_what_only_picks_does_not_learn(part: Linear | Norm, learns: bool) -> None:
    assert {parameter.learns for parameter in part.parameters()} == {learns}


def test_lightning_attention_keeps_tables_of_a_block() -> None:
    scan = Scan(1, 1, "lightning", n_heads=3, chunk=2)
    assert scan.n_table == 3 * (2 * 2 + 2 * 2 + 1)
    assert Scan(1, 1, "delta", n_heads=3).n_table == 0
