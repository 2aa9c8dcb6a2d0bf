"""Where a class reads its own keys, whatever stands beside them."""

from __future__ import annotations

from typing import Any

import pytest

from lmsize.model.conduct import Conduct
from lmsize.model.parts import Buffer, Linear
from lmsize.model.read import read_config
from lmsize.stacks.derived import has_derived_linears, with_derived_linears

USUAL = {
    "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512,
    "ffn_dim": 512, "vocab_size": 100,
}  # fmt: skip
GPT = {"n_embd": 256, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 100}


def conduct(model_type: str, **more: Any) -> Conduct:
    return read_config({"model_type": model_type, **more}, name="one").conduct


def test_mpt_drops_out_by_its_section_alone() -> None:
    mpt = {"d_model": 256, "n_layers": 2, "n_heads": 4, "vocab_size": 100}
    assert conduct("mpt", **mpt, attention_dropout=0.3).attention_dropout == 0.0
    own = conduct("mpt", **mpt, attn_config={"model_type": "mpt", "attn_pdrop": 0.2})
    assert (own.attention_dropout, own.hidden_dropout, own.embedding_dropout) == (0.2, 0.2, 0.0)
    assert own.activation == "gelu"


@pytest.mark.parametrize(
    ("model_type", "key", "rate"), [("opt", "dropout", 0.0), ("gpt_neox", "hidden_dropout", 0.1)]
)
def test_embeddings_are_dropped_out_by_the_key_of_the_class(
    model_type: str, key: str, rate: float
) -> None:
    found = conduct(model_type, **USUAL, **{key: 0.1})
    assert (found.hidden_dropout, found.embedding_dropout) == (0.1, rate)


def test_gptj_turns_a_part_of_each_head_and_keeps_a_table_of_it() -> None:
    spec = read_config({"model_type": "gptj", **GPT, "rotary_dim": 16}, name="one")
    assert spec.conduct.rotary_frac == 16 / 64
    tables = [p for _, run in spec.runs() for p in run.block.parts if isinstance(p, Buffer)]
    assert {(table.shape, table.itemsize) for table in tables} == {((128, 16), 4)}


def test_falcons_linears_are_not_quantised_but_its_head_is_torchs() -> None:
    spec = read_config({"model_type": "falcon", **USUAL}, name="one")
    assert not has_derived_linears(spec)
    built = with_derived_linears(spec)
    by_role = {
        (run.block.role, part.quantisable)
        for _, run in built.runs() for part in run.block.parts if isinstance(part, Linear)
    }  # fmt: skip
    assert ("layer", False) in by_role
    assert ("layer", True) not in by_role
    other = read_config({"model_type": "gptj", **GPT}, name="two")
    assert with_derived_linears(other) is other
