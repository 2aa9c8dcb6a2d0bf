"""Rows of tokens on their way to Megatron's experts: what lies beside what, by dispatcher."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lmsize.api.locate import located
from lmsize.catalogue import built_in
from lmsize.layout.degrees import Layout
from lmsize.memory.blocks import Placed
from lmsize.memory.moments import leaves
from lmsize.stacks import megatron
from lmsize.stacks.layer import layer_program
from lmsize.stacks.megatron_switches import MegatronSwitches
from lmsize.stacks.setting import Setting
from lmsize.tape.liveness import forward
from lmsize.tape.pieces import Piece, piece
from lmsize.tape.program import Program

TOKENS, H, TOP, RANKS, EXPERTS = 4096, 2048, 8, 8, 128
STREAM = 2 * TOKENS * H
ROWS = TOP * STREAM
MODEL = located("qwen3-30b-a3b", built_in())
LAYER = next(run.block for _, run in reversed(list(MODEL.runs())) if run.block.role == "layer")
SETTING = Setting(
    micro_batch=1, seq_len=TOKENS, weight_itemsize=2, conduct=MODEL.conduct, head_dim=128,
    layout=Layout(ep=RANKS), switches=MegatronSwitches(attention_backend="fused", permute_fusion=True),
)  # fmt: skip


def program(setting: Setting = SETTING, **switches: str | bool | tuple[str, ...]) -> Program:
    own = replace(setting, switches=replace(setting.switches, **switches))
    return layer_program(LAYER, own, megatron.STYLE, width=H, itemsize=2, needs_grad=True)


def passing(dispatcher: str) -> float:
    """Rows of one copy of all that a forward holds beyond what it saves, at its fullest."""
    found = forward(program(dispatcher=dispatcher))
    return float((found.peak - found.saved) / ROWS)


def test_rows_sent_and_received_are_named_until_the_layer_returns() -> None:
    # sent, received, what experts made of them, and the same in the order in which they came
    assert passing("alltoall") == pytest.approx(4, abs=0.02)


def test_kernels_that_send_and_sort_at_once_leave_what_experts_made() -> None:
    assert passing("hybridep") == pytest.approx(1 + 1 / TOP, abs=0.02)  # and tokens in order


def test_a_rank_receives_a_token_once() -> None:
    reached = RANKS * (1 - (1 - 1 / RANKS) ** TOP) / TOP  # of as many tokens as rows
    # received, what experts made, tokens in order before they are combined
    assert passing("flex") == pytest.approx(1 + 2 * reached, abs=0.02)


def test_tokens_of_all_ranks_lie_in_a_buffer_and_are_put_in_order_once() -> None:
    # what experts made, and as many tokens as all ranks have
    assert passing("allgather") == pytest.approx(1 + RANKS / TOP, abs=0.02)


def run_again(**switches: tuple[str, ...]) -> tuple[Piece, Piece]:
    plain = piece(program(), accumulates=True, reentrant=True)
    setting = replace(SETTING, recompute="selective")
    return plain, piece(program(setting, **switches), accumulates=True, reentrant=True)


def test_a_mixture_that_runs_again_leaves_its_input_and_the_inputs_gradient() -> None:
    plain, again = run_again(recompute_modules=("moe",))
    # The dispatcher names the weights of the second run, and with them where that began.
    assert again.clinging - plain.clinging == 2 * STREAM


def test_what_runs_again_for_others_lies_there_twice() -> None:
    plain, again = run_again(recompute_modules=("layernorm",))
    assert plain.saved - again.saved == STREAM + 4 * TOKENS  # and a deviation a row
    assert again.backward_peak - plain.backward_peak == STREAM


def test_layers_that_run_again_leave_inputs_and_gradients_one_of_which_is_passed_on() -> None:
    whole = piece(program(), checkpointed=True, accumulates=True, reentrant=True)
    assert (whole.stays, whole.leaf) == (True, STREAM)
    placed = Placed("layers", "layer", 4, whole, True, 0)
    kept = sum(n * each for _, n, each in leaves([(placed, 3)]))
    assert kept == (3 + 2) * STREAM
    after = sum(n * each for _, n, each in leaves([(placed, 3)], passed_on=False))
    assert after == (3 + 3) * STREAM
