"""The gradients of a table and of the head that is tied to it."""

from __future__ import annotations

from typing import Any

import pytest

import lmsize

VOCAB, WIDTH, LAYERS = 32000, 512, 2
CONFIG: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS, "num_attention_heads": 8, "num_key_value_heads": 8,
    "intermediate_size": 1024, "vocab_size": VOCAB, "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}  # fmt: skip
RUN: dict[str, Any] = {
    "micro_batch": 1, "seq_len": 32, "optimizer": "sgd", "attention": "eager", "calibration": False,
}  # fmt: skip
TABLE = VOCAB * WIDTH


def end_of_backward(precision: str, *, tied: bool = True, **options: Any) -> float:
    config = CONFIG | {"tie_word_embeddings": tied}
    tree = lmsize.train(config, precision=precision, **RUN | options).memory.tree
    return float(max(t.value for t in tree.children if t.label == "end_of_backward"))


@pytest.mark.parametrize(("precision", "itemsize"), [("fp32", 4), ("bf16", 2)])
def test_two_gradients_meet_in_a_third_tensor(precision: str, itemsize: int) -> None:
    """Weights, gradients of the layers, and the table's: the head's, its own and their sum."""
    layers = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * 1024 + 2 * WIDTH) + WIDTH
    expected = (TABLE + layers + layers + 3 * TABLE) * itemsize
    found = end_of_backward(precision)
    assert expected <= found < 1.01 * expected


def test_a_cast_makes_the_heads_anew_which_is_added_to() -> None:
    """Under autocast it comes out of a cast: the two are all there is."""
    more = end_of_backward("fp32") - end_of_backward("amp-bf16")
    assert abs(more - TABLE * 4) < 0.01 * TABLE * 4


def test_tables_of_their_own_do_not_meet() -> None:
    """A second table and no third gradient: as much as one table whose gradients meet."""
    apart = end_of_backward("fp32", tied=False)
    assert abs(apart - end_of_backward("fp32")) < 0.01 * TABLE * 4
