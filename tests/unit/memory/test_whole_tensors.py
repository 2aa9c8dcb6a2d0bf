"""Muon's states where ranks own whole tensors, dealt out by size."""

from __future__ import annotations

from typing import Any

import pytest

import lmsize

LLAMA = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8,
    "num_key_value_heads": 8, "num_hidden_layers": 2, "vocab_size": 50304, "tie_word_embeddings": True,
}  # fmt: skip
H, FFN, VOCAB, N_RANKS = 512, 2048, 50304, 4


def held(**more: Any) -> dict[str, int]:
    memory = lmsize.train(
        LLAMA, stack="megatron", accelerator="h100", search=False, calibration=False, seq_len=512,
        optimizer="muon", zero=1, accelerators=N_RANKS, **more,
    ).memory  # fmt: skip
    return memory.components


def by_rank() -> list[tuple[int, int]]:
    """(numbers, numbers that Adam steps) of each rank, dealt out one by one: there and back again."""
    norms = [(H, True)] * 5
    matrices = [(H * H, False)] * 8 + [(FFN * H, False)] * 6
    order = sorted([*norms, *matrices, (VOCAB * H, True)])
    turns = [*range(N_RANKS), *reversed(range(N_RANKS))]
    ranks = [[0, 0] for _ in range(N_RANKS)]
    for at, (n, is_adams) in enumerate(order):
        own = ranks[turns[at % len(turns)]]
        own[0] += n
        own[1] += n * is_adams
    return [(n, of_adam) for n, of_adam in ranks]


@pytest.mark.parametrize(("stage", "pick"), [("worst", max), ("last", lambda ranks: ranks[-1])])
def test_a_rank_owns_whole_tensors(stage: str, pick: Any) -> None:
    n, of_adam = pick(by_rank())
    found = held(stack_options="whole-tensors", pipeline_stage=stage)
    assert found["main_weights"] == 4 * n
    assert found["optimizer_states"] == 4 * (n - of_adam) + 8 * of_adam


def test_laid_out_buffers_are_shared_evenly() -> None:
    n = sum(n for n, _ in by_rank())
    of_adam = sum(of_adam for _, of_adam in by_rank())
    found = held()
    assert found["main_weights"] == pytest.approx(4 * n / N_RANKS, rel=1e-4)
    assert found["optimizer_states"] == pytest.approx(4 * (n + of_adam) / N_RANKS, rel=1e-4)
