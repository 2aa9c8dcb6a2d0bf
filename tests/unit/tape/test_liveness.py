"""Small programs by hand: what is saved, what is live at the fullest instant, what is given back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lmsize.stacks.quantised import dequantised_linear, integer_linear
from lmsize.tape import ops
from lmsize.tape.liveness import forward
from lmsize.tape.pieces import piece
from lmsize.tape.program import Program, Tensor, rounded_bytes
from lmsize.tape.undoing import backward

KIB = 1024


def chain(numel: Any, *, autocast: float | None = None, itemsize: float = 4) -> Program:
    """x -> linear (square, 16 wide) -> silu -> out."""
    program = Program(autocast=autocast)
    x = program.input("x", numel, itemsize, needs_grad=True)
    weight = program.parameter("w", 16 * 16, itemsize, trained=True)
    inner = ops.linear(program, x, weight, n_in=16, n_out=16)
    out = ops.pointwise(program, inner, name="silu", saves="input")
    program.hold(x)
    program.outputs.append(out)
    return program


def test_a_linear_saves_its_input_and_an_activation_its_own() -> None:
    through = forward(chain(KIB))
    assert through.saved == 2 * 4 * KIB
    assert through.peak == 3 * 4 * KIB
    assert through.input_is_saved


def test_without_saving_only_the_ends_remain() -> None:
    through = forward(chain(KIB), saving=False)
    assert through.peak == 3 * 4 * KIB
    assert piece(chain(KIB), checkpointed=True).saved == 4 * KIB


def test_the_backward_counts_gradients_once_and_lets_go() -> None:
    """At the linear: x and its gradient, the gradient of the product, the weight's."""
    undone = backward(chain(KIB))
    assert undone.gradients == KIB
    at_silu = 2 * 4 * KIB + 2 * 4 * KIB
    assert undone.peak == at_silu
    assert backward(chain(KIB), accumulates=True).gradients == 0


def test_a_residual_is_one_gradient_for_both_sides() -> None:
    program = Program()
    x = program.input("x", KIB, 4, needs_grad=True)
    out = ops.add(program, x, ops.pointwise(program, x, name="f"))
    program.outputs.append(out)
    # The gradient of the sum serves both sides; f makes one more, summed into it at the end.
    assert backward(program).peak == 2 * 4 * KIB


def test_autocast_keeps_casts_of_weights() -> None:
    program = chain(KIB, autocast=2)
    through = forward(program)
    assert through.saved == 2 * KIB + 2 * KIB + rounded_bytes(2 * 256)
    assert through.cached == 0
    assert forward(program, saving=False).cached == rounded_bytes(2 * 256)


def test_views_share_their_storage_and_a_split_gathers_its_gradients() -> None:
    program = Program()
    x = program.input("x", KIB, 4, needs_grad=True)
    first, second = ops.split(program, x, (KIB // 2, KIB // 2))
    out = ops.mul(program, first, second)
    program.outputs.append(out)
    assert forward(program).saved == 4 * KIB
    # Saved x, the gradient of the product, one of each half, then the whole.
    assert backward(program).peak == 4 * KIB + 3 * 2 * KIB


def test_a_frozen_weight_saves_nothing_of_the_input() -> None:
    program = Program()
    x = program.input("x", KIB, 4, needs_grad=True)
    weight = program.parameter("w", 256, 4, trained=False)
    program.outputs.append(ops.linear(program, x, weight, n_in=16, n_out=16))
    assert forward(program).saved == 0
    assert backward(program).gradients == 0


@pytest.mark.parametrize("autocast", [None, 2])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_one_program_serves_numbers_and_arrays(autocast: float | None, checkpointed: bool) -> None:
    sizes = [64, 1000, 4096, 70_000]
    whole = piece(chain(np.array(sizes), autocast=autocast), checkpointed=checkpointed)
    for at, size in enumerate(sizes):
        single = piece(chain(size, autocast=autocast), checkpointed=checkpointed)
        for name in ("saved", "forward_peak", "backward_peak", "peak_gradients", "gradients"):
            assert np.broadcast_to(getattr(whole, name), 4)[at] == getattr(single, name)


def test_storages_are_whole_blocks() -> None:
    assert Tensor("x", 1, 4).n_bytes == 512
    assert Tensor("x", 129, 4).n_bytes == 1024


def test_what_a_node_holds_on_to_outlives_its_backward() -> None:
    program = Program()
    x = program.input("x", KIB, 2, needs_grad=True)
    inner = ops.pointwise(program, x, name="f")
    out = dequantised_linear(program, inner, n_weights=256, n_in=16, n_out=16, keeps_input=True)
    program.outputs.append(out)
    made = piece(program)
    assert made.saved == made.clinging == 2 * KIB
    # At the product: its input, the gradients of both its ends, the weight in full.
    assert made.backward_peak == 3 * 2 * KIB + 2 * 256
    assert piece(program, checkpointed=True).clinging == 2 * KIB  # the first run's node


def test_a_recomputation_finds_the_gradients_that_are_there() -> None:
    program = Program()
    x = program.input("x", KIB, 4, needs_grad=True)
    inner = ops.pointwise(program, x, name="silu", saves="input")
    shorter = ops.total(program, inner, numel=KIB // 4)
    program.outputs.append(ops.cast(program, shorter, 2))
    # The cast's gradient is made before anything saved is asked for; the 16-bit one is gone then.
    assert backward(program).held_before == KIB
    assert piece(program, checkpointed=True, reentrant=True).backward_peak == (
        forward(program).peak + program.outputs[0].n_bytes
    )


def test_a_recomputation_stops_once_all_is_saved() -> None:
    program = Program()
    x = program.input("x", KIB, 4, needs_grad=True)
    first = ops.pointwise(program, x, name="tanh", saves="output")
    wide = ops.copy(program, first, numel=4 * KIB)
    short = ops.total(program, wide, numel=KIB)
    second = ops.pointwise(program, short, name="silu", saves="input")
    wider = ops.copy(program, second, numel=8 * KIB)
    program.outputs.append(ops.total(program, wider, numel=KIB // 4))
    # The last that is saved is what silu reads: neither its output nor what follows is made again.
    assert forward(program).again_peak == (4 + 16 + 4) * KIB
    assert forward(program).peak == (4 + 4 + 4 + 32) * KIB
    assert backward(program).held_before == 4 * KIB
    assert piece(program, checkpointed=True).backward_peak == (24 + 4) * KIB


def test_an_integer_product_saves_its_input_and_sums_in_int32() -> None:
    program = Program()
    x = program.input("x", KIB, 2, needs_grad=True)
    made = integer_linear(program, x, n_weights=16 * 64, n_in=16, n_out=64)
    program.outputs.append(made)
    through, undone = forward(program), backward(program)
    assert through.saved == 2 * KIB
    assert through.input_clings
    rows = KIB + 512  # in int8, and a scale each
    sums = 4 * KIB * (4 + 2)  # int32, then fp16
    assert through.peak == 2 * KIB + made.n_bytes + rows + sums
    whole = 2 * 16 * 64
    assert undone.peak == 2 * KIB + made.n_bytes + whole + x.n_bytes
    assert piece(program, checkpointed=True).saved == 2 * KIB


def test_what_a_node_holds_outlives_its_backward_and_a_checkpoint() -> None:
    program = Program()
    x = program.input("x", KIB, 2, needs_grad=True)
    inner = ops.pointwise(program, x, name="f")
    made = integer_linear(program, inner, n_weights=16 * 16, n_in=16, n_out=16)
    program.outputs.append(ops.pointwise(program, made, name="silu", saves="input"))
    plain, again = piece(program), piece(program, checkpointed=True)
    assert plain.clinging == again.clinging == inner.n_bytes
    assert plain.saved == inner.n_bytes + made.n_bytes
    assert again.saved == x.n_bytes + inner.n_bytes


def test_a_four_bit_product_saves_nothing_and_holds_its_weight_whole() -> None:
    program = Program()
    x = program.input("x", KIB, 2, needs_grad=True)
    made = dequantised_linear(program, x, n_weights=16 * 64, n_in=16, n_out=64)
    program.outputs.append(made)
    assert forward(program).saved == 0
    assert forward(program).peak == x.n_bytes + made.n_bytes + 2 * 16 * 64


def test_a_reentrant_checkpoint_runs_again_before_any_gradient_moves() -> None:
    program = Program()
    x = program.input("x", KIB, 4, needs_grad=True)
    inner = ops.pointwise(program, x, name="silu", saves="input")
    program.outputs.append(ops.cast(program, ops.total(program, inner, numel=KIB // 4), 2))
    again = piece(program, checkpointed=True, reentrant=True)
    assert again.backward_peak == forward(program).peak + program.outputs[0].n_bytes
