"""Layers for further tokens: what they hold and keep, by hand."""

from __future__ import annotations

from typing import Any

import pytest

import lmsize

MODEL = "llama-3.1-8b"
WIDTH, FFN, VOCAB, TOKENS, LAYERS = 4096, 14336, 128256, 4096, 32
LAYER = 2 * WIDTH**2 + 2 * WIDTH * 1024 + 3 * WIDTH * FFN + 2 * WIDTH
JOINED = 2 * WIDTH * WIDTH + 3 * WIDTH


def memory(n_further: int, **options: Any) -> Any:
    run: dict[str, Any] = {
        "stack": "megatron", "accelerators": 8, "zero": 0, "seq_len": TOKENS, "search": False,
        "calibration": False, "accelerator": "h200",
    }  # fmt: skip
    switches = {"stack_options": f"mtp-layers={n_further}"} if n_further else {}
    return lmsize.train(MODEL, **run | options | switches).memory


@pytest.mark.parametrize("n_further", [1, 2])
def test_each_has_a_layer_a_projection_and_three_norms(n_further: int) -> None:
    more = memory(n_further).components["weights"] - memory(0).components["weights"]
    assert more == 2 * n_further * (LAYER + JOINED)


def test_the_last_stage_has_a_table_of_its_own() -> None:
    run = {"pp": 4, "pipeline_stage": "last"}
    more = memory(1, **run).components["weights"] - memory(0, **run).components["weights"]
    assert more == 2 * (LAYER + JOINED + VOCAB * WIDTH)
    first = {"pp": 4, "pipeline_stage": "first"}
    assert memory(1, **first).components["weights"] == memory(0, **first).components["weights"]


def kept(n_further: int, **options: Any) -> float:
    """Activations where the loss is taken."""
    tree = memory(n_further, **options).tree
    return max(
        term.value
        for moment in tree.children if moment.label == "forward"
        for term in moment.children if term.label == "activations"
    )  # fmt: skip


def test_each_keeps_a_layer_and_its_streams() -> None:
    layers = kept(1) - kept(0)
    one_layer = kept(0) / LAYERS  # the embedding keeps next to nothing
    h = TOKENS * WIDTH * 2
    # the stream that comes, the embedding's rows, what both norms make, the final norm's input
    streams = 5 * h
    assert layers == pytest.approx(one_layer + streams, rel=1e-3)


def test_losses_of_further_tokens_are_kept_until_the_backward() -> None:
    more = memory(1).peak_allocated_bytes - memory(0).peak_allocated_bytes
    states = (LAYER + JOINED) * 18  # 2 + 4 + 4 + 8 bytes
    softmax = TOKENS * VOCAB * 4
    assert more > states + softmax
    assert more == pytest.approx(states + softmax + kept(1) - kept(0), rel=0.06)


def test_full_recomputation_takes_them_in() -> None:
    run = {"recompute": "full"}
    assert kept(1, **run) - kept(0, **run) < 3 * TOKENS * WIDTH * 2
