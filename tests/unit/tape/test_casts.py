"""Products in few bits: which casts are kept, which pass."""

from __future__ import annotations

import pytest

from lmsize.tape import ops
from lmsize.tape.casts import Casts, operands
from lmsize.tape.liveness import forward
from lmsize.tape.program import Program, Tensor
from lmsize.tape.undoing import backward

ROWS, WIDTH, INNER = 4096, 1024, 2048


def one_linear(casts: Casts | None) -> Program:
    program = Program(fuses_weight_gradients=True)
    x = program.input("x", ROWS * WIDTH, 2, needs_grad=True)
    weight = program.parameter("w", WIDTH * INNER, 2, trained=True)
    program.outputs.append(ops.linear(program, x, weight, n_in=WIDTH, n_out=INNER, casts=casts))
    return program


@pytest.mark.parametrize(
    ("casts", "saved", "passing"),
    [
        (None, 2, 0),
        (Casts(1.0), 1, 1),  # saved by columns, beside the cast by rows
        (Casts(1.0, n_copies=1), 1, 0),
        (Casts(1.0, keeps_cast=False), 2, 1),
    ],
)
def test_a_layer_saves_its_input_or_a_cast(casts: Casts | None, saved: int, passing: int) -> None:
    through = forward(one_linear(casts))
    assert through.saved == saved * ROWS * WIDTH
    own_cast = 0 if saved == 2 else 1
    held = ROWS * (2 * WIDTH + 2 * INNER) + (own_cast + passing) * ROWS * WIDTH
    assert through.peak == held


def test_the_gradient_is_cast_both_ways_for_the_backward() -> None:
    plain, cast = (backward(one_linear(casts)).peak for casts in (None, Casts(1.0)))
    # the saved input is smaller by a byte a number; the gradient's casts are two
    assert cast - plain == 2 * ROWS * INNER - ROWS * WIDTH


def test_ranks_gather_casts_by_rows_and_turn_them() -> None:
    x = Tensor("x", ROWS * WIDTH, 2)
    by_rows = operands(Casts(1.0, gathers_rows=True), x, ROWS * INNER, n_ranks=4)
    by_blocks = operands(Casts(1.0), x, ROWS * INNER, n_ranks=4)
    whole = 4 * ROWS * WIDTH
    assert by_rows.forward_bytes == whole
    assert by_blocks.forward_bytes == whole + ROWS * WIDTH
    assert by_rows.backward_bytes - by_blocks.backward_bytes == whole


def test_scales_are_part_of_a_number() -> None:
    assert Casts(1 + 1 / 32).n_bytes(32 * 512) == 33 * 512
