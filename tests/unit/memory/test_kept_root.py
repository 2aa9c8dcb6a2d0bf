"""Megatron's FSDP: layers are gathered as they run, what is outside of them for good."""

from __future__ import annotations

from typing import Any

import lmsize

H, FFN, VOCAB, N_LAYERS, N_RANKS = 1024, 4096, 50304, 4, 8
LLAMA = {
    "model_type": "llama", "hidden_size": H, "intermediate_size": FFN, "num_attention_heads": 8,
    "num_key_value_heads": 8, "num_hidden_layers": N_LAYERS, "vocab_size": VOCAB,
    "tie_word_embeddings": False,
}  # fmt: skip
LAYER = 4 * H * H + 3 * H * FFN + 2 * H


def moments(**more: Any) -> dict[str, dict[str, dict[str, int]]]:
    """Components of the moments by name, leaf by leaf; the last of those of one name."""
    tree = lmsize.train(
        LLAMA, stack="megatron", accelerator="h100", search=False, calibration=False, seq_len=512,
        zero=3, accelerators=N_RANKS, **more,
    ).memory.tree  # fmt: skip
    while tree.children[0].label.startswith("peak"):
        tree = tree.children[0]
    return {
        moment.label: {
            part.label: {leaf.label: leaf.value for leaf in leaves(part)}
            for part in moment.children
        }
        for moment in tree.children
    }


def leaves(term: Any) -> list[Any]:
    found = [leaf for child in term.children for leaf in leaves(child)]
    return found if term.children else [term]


def test_what_is_outside_of_the_layers_stays_gathered() -> None:
    root = 2 * (2 * VOCAB * H + H)
    for name, moment in moments().items():
        assert sum(moment["gathered_weights"].values()) == root, name


def test_a_layer_is_gathered_while_one_runs() -> None:
    found = {name: parts.get("temporaries", {}) for name, parts in moments().items()}
    assert found["layer_backward"]["widest layer gathered"] == 2 * LAYER
    assert found["layer_backward"]["its gradients before they are scattered"] >= 2 * LAYER
    for name in ("loss_backward", "end_of_backward", "optimizer_step"):
        assert "widest layer gathered" not in found[name]


def test_below_stage_3_nothing_is_gathered() -> None:
    memory = lmsize.train(
        LLAMA, stack="megatron", accelerator="h100", search=False, calibration=False, seq_len=512,
        zero=1, accelerators=N_RANKS,
    ).memory  # fmt: skip
    assert "gathered_weights" not in memory.components
