"""Bytes moved by operations, by hand."""

from __future__ import annotations

import torch

from lmsize.tracing.moved import moved_by

aten = torch.ops.aten


def test_a_product_reads_both_sides_and_writes_its_result() -> None:
    a, b = torch.empty(3, 4), torch.empty(4, 5)
    out = a @ b
    assert moved_by(aten.mm.default, (a, b), {}, out) == 4 * (12 + 20 + 15)


def test_a_grouped_product_reads_every_expert() -> None:
    tokens = torch.empty(6, 16, dtype=torch.bfloat16)
    experts = torch.empty(3, 16, 24, dtype=torch.bfloat16)
    offsets = torch.empty(3, dtype=torch.int32)
    out = torch.empty(6, 24, dtype=torch.bfloat16)
    moved = moved_by(aten._grouped_mm.default, (tokens, experts, offsets), {}, out)
    assert moved == 2 * (6 * 16 + 3 * 16 * 24 + 6 * 24) + 3 * 4


def test_fused_attention_moves_no_scores_but_its_mask() -> None:
    q = torch.empty(1, 2, 64, 8)
    mask = torch.empty(1, 1, 64, 64).expand(1, 2, 64, 64)  # one for both heads
    sums = torch.empty(1, 2, 64)
    call = aten._scaled_dot_product_efficient_attention.default
    each = 4 * 2 * 64 * 8
    plain = moved_by(call, (q, q, q, None, True), {}, (q, sums))
    assert plain == 4 * each + 4 * 2 * 64
    assert moved_by(call, (q, q, q, mask, True), {}, (q, sums)) == plain + 4 * 64 * 64


def test_views_and_empty_tensors_move_nothing() -> None:
    x = torch.empty(4, 4)
    assert moved_by(aten.view.default, (x, [16]), {}, x.view(16)) == 0
    assert moved_by(aten.t.default, (x,), {}, x.t()) == 0
    assert moved_by(aten.empty_like.default, (x,), {}, x) == 0


def test_a_lookup_reads_the_rows_that_it_looks_up() -> None:
    table, ids = torch.empty(1000, 8), torch.zeros(5, dtype=torch.int64)
    assert moved_by(aten.embedding.default, (table, ids), {}, table[ids]) == 2 * 4 * 5 * 8 + 8 * 5


def test_in_place_and_on_lists() -> None:
    x, y = torch.empty(10), torch.empty(10)
    assert moved_by(aten.add_.Tensor, (x, y), {}, x) == 3 * 40
    assert moved_by(aten.copy_.default, (x, y), {}, x) == 2 * 40
    assert moved_by(aten.zero_.default, (x,), {}, x) == 40
    assert moved_by(aten._foreach_add_.List, ([x, y], [y, x]), {}, None) == 6 * 40
