"""Which parameters gradients reach."""

from __future__ import annotations

import pytest

from lmsize.model.parts import Linear, Norm


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
