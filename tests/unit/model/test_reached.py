"""Which parameters gradients reach."""

from __future__ import annotations

import pytest

from lmsize.model.parts import Linear, Norm, Plain
from lmsize.model.read import read_config
from lmsize.stacks.sections import sections


@pytest.mark.parametrize(
    ("part", "learns"),
    [
        (Linear("self_attn.q_proj", 4, 4), True),
        (Linear("wq_b", 4, 4, bias=True, indexer="lightning"), False),
        (Norm("k_norm", 4, bias=True, indexer="blocks"), False),
        (Plain("position_bias", (4, 4), indexer="pooled"), False),
    ],
)
def test_what_only_picks_does_not_learn(part: Linear | Norm | Plain, learns: bool) -> None:
    assert {parameter.learns for parameter in part.parameters()} == {learns}


def test_an_indexer_is_no_branch_of_its_layer() -> None:
    """Traced on fake tensors, MiniMax-M3's saves nothing: its layers keep what full attention does."""
    shape = {
        "hidden_size": 96, "num_hidden_layers": 1, "num_attention_heads": 6, "num_key_value_heads": 6,
        "head_dim": 16, "vocab_size": 211, "num_local_experts": 3, "num_experts_per_tok": 2,
        "intermediate_size": 800, "dense_intermediate_size": 800, "shared_intermediate_size": 800,
        "index_n_heads": 6, "index_head_dim": 128, "mlp_layer_types": ["sparse"],
    }  # fmt: skip

    def branches(kind: str) -> list[tuple[str, list[str], list[str]]]:
        config = {"model_type": "minimax_m3_vl_text", **shape, "layer_types": [kind]}
        runs = read_config(config, name="one").runs()
        layer = next(run.block for _, run in runs if run.block.role == "layer")
        return [
            (found.kind, [p.name for p in found.linears], [p.name for p in found.norms])
            for found in sections(layer)
        ]

    assert branches("minimax_m3_sparse") == branches("full_attention")
