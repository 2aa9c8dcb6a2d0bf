"""The trace of one rank of many: what it holds, and that the number of ranks costs nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from lmsize.layout.degrees import Layout
from lmsize.tracing.engine import StepOptions, Traced, traced_step
from lmsize.tracing.peaks import in_blocks, peaks
from lmsize.tracing.running import Device
from lmsize.tracing.storages import Storage
from lmsize.workload.training import TrainSpec, with_defaults

SHAPE = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 128,
    "intermediate_size": 256, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16,
    "vocab_size": 512, "max_position_embeddings": 128, "num_hidden_layers": 10,
}  # fmt: skip


@cache
def traced(*, n_layers: int = 10, dp: int = 1, tp: int = 1, zero: int = 3, replicate: bool = True,
           **asked: Any) -> Traced:  # fmt: skip
    spec = replace(
        TrainSpec(precision="bf16", micro_batch=2, seq_len=64), tp=tp, zero=zero, **asked
    )
    filled = with_defaults(spec, max_positions=None)[0]
    return traced_step(
        {**SHAPE, "num_hidden_layers": n_layers}, filled, Device("cuda"), StepOptions(),
        layout=Layout(dp=dp, tp=tp, zero=zero), implementation="foreach", replicate=replicate,
    )  # fmt: skip


def steady(found: Traced) -> dict[str, int]:
    return {p.phase: p.n_bytes for p in peaks(found.log.entries, in_blocks) if p.phase[0] == "2"}


def held(found: Traced, category: str, phase: str = "2.optimizer") -> int:
    peak = next(p for p in peaks(found.log.entries, in_blocks) if p.phase == phase)
    return sum(s.n_bytes for s in peak.live if s.category == category)


@pytest.mark.parametrize(
    "asked",
    [
        {"tp": 2, "zero": 0}, {"dp": 8, "recompute": "full"}, {"dp": 8, "zero": 2, "grad_accum": 3},
        {"dp": 4, "precision": "amp-bf16"}, {"dp": 4, "tp": 2},
        {"dp": 4, "method": "lora", "lora_rank": 4, "lora_targets": "all-linear"},
        {"tp": 2, "zero": 0, "method": "lora", "lora_rank": 4, "lora_targets": "q_proj,up_proj"},
    ],
)  # fmt: skip
def test_repeating_layers_gives_what_all_of_them_give(asked: dict[str, Any]) -> None:
    whole, repeated = traced(replicate=False, **asked), traced(**asked)
    assert repeated.n_units == 10, repeated.why_whole
    assert steady(repeated) == steady(whole)


def test_ranks_share_weights_states_and_gradients_and_gather_a_layer_at_a_time() -> None:
    one, eight = traced(zero=0), traced(dp=8)
    for category in ("weights", "optimizer_states", "gradients"):
        assert held(eight, category) == pytest.approx(held(one, category) / 8, rel=0.01)
    layer = 2 * (128 * 128 * 2 + 128 * 64 * 2 + 3 * 128 * 256 + 2 * 128)
    ends = 2 * (2 * 512 * 128 + 128)
    assert layer < held(eight, "gathers", "2.forward") < 3 * layer + 2 * ends
    assert held(one, "gathers", "2.forward") == 0


def test_stage_2_keeps_weights_gathered_until_the_backward() -> None:
    fewer, more = (
        held(traced(dp=8), "gathers", "2.forward"),
        held(traced(dp=8, zero=2), "gathers", "2.forward"),
    )
    assert more > 3 * fewer


def test_gradients_stay_whole_until_the_last_micro_batch() -> None:
    """As under the Trainer: between micro-batches a rank holds all of them, and then its part."""
    once, thrice = traced(dp=8), traced(dp=8, grad_accum=3)
    weights = held(once, "weights") * 8
    assert between(once) == 0
    assert between(thrice) == pytest.approx(weights, rel=0.01)
    assert held(thrice, "gradients") == held(once, "gradients")


def between(found: Traced) -> int:
    """Bytes of gradients that the second step's last forward finds."""
    live: dict[int, Storage] = {}
    before, kept = "", {}
    for storage, is_alloc, phase, _ in found.log.entries:
        if phase == "2.forward" != before:
            kept = dict(live)
        before = phase
        if is_alloc:
            live[id(storage)] = storage
        else:
            del live[id(storage)]
    return sum(s.n_bytes for s in kept.values() if s.phase == "2.backward")


def test_a_thousand_ranks_cost_what_eight_do() -> None:
    eight, many = traced(dp=8, tp=2), traced(dp=4096, tp=2)
    assert many.log.n_ops == eight.log.n_ops
    assert len(many.log.entries) == len(eight.log.entries)


def test_tensor_parallel_ranks_share_all_but_norms() -> None:
    one, two = traced(zero=0), traced(zero=0, tp=2)
    assert held(two, "weights") == pytest.approx(held(one, "weights") / 2, rel=0.01)
