"""FLOPs of operations, by hand; and where torch's own counter is wrong."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from lmsize.tracing.attention import Request, kernel
from lmsize.tracing.flops import flops_of

aten = torch.ops.aten


def test_products() -> None:
    a, b = torch.empty(3, 4), torch.empty(4, 5)
    assert flops_of(aten.mm.default, (a, b), {}, None) == 2 * 3 * 4 * 5
    bias = torch.empty(5)
    assert flops_of(aten.addmm.default, (bias, a, b), {}, None) == 2 * 3 * 4 * 5
    batch = (torch.empty(2, 3, 4), torch.empty(2, 4, 5))
    assert flops_of(aten.bmm.default, batch, {}, None) == 2 * 2 * 3 * 4 * 5
    assert flops_of(aten.add.Tensor, (a, a), {}, None) == 0


def test_grouped_product_is_counted_once_a_token() -> None:
    """Each of 6 tokens meets one expert's 4 x 5 matrix; torch's counter knows no such product."""
    with FakeTensorMode():
        tokens = torch.empty(6, 16, dtype=torch.bfloat16)
        experts = torch.empty(3, 16, 24, dtype=torch.bfloat16)
        offsets = torch.tensor([2, 4, 6], dtype=torch.int32)
        with FlopCounterMode(display=False) as theirs:
            aten._grouped_mm(tokens, experts, offsets)
    ours = flops_of(aten._grouped_mm.default, (tokens, experts, offsets), {}, None)
    assert ours == 2 * 6 * 16 * 24
    assert theirs.get_total_flops() != ours
    # The gradient of the weights: (16, 6) by (6, 24), into three matrices.
    gradient = (tokens.t(), torch.empty(6, 24, dtype=torch.bfloat16), offsets)
    assert flops_of(aten._grouped_mm.default, gradient, {}, None) == ours


@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_counts_the_mask(is_causal: bool) -> None:
    """Of 8 x 8 scores a causal mask leaves 36; torch's counter counts 64 either way."""
    q = torch.empty(2, 4, 8, 16)
    kv = torch.empty(2, 2, 8, 16)  # grouped heads: the queries' heads compute
    args = (q, kv, kv, 0.0, is_causal)
    pairs = 2 * 4 * (36 if is_causal else 64)
    ours = flops_of(aten._scaled_dot_product_flash_attention.default, args, {}, None)
    assert ours == 2 * pairs * (16 + 16)
    backward = (q, q, kv, kv, q, None, None, None, 8, 8, 0.0, is_causal)
    ours = flops_of(aten._scaled_dot_product_flash_attention_backward.default, backward, {}, None)
    assert ours == 2.5 * 2 * pairs * (16 + 16)


def asked(**changes: object) -> Request:
    q = torch.empty(1, 4, 64, 64, dtype=torch.bfloat16)
    usual = {
        "query": q, "key": q, "value": q, "mask": None, "dropout": 0.0, "is_causal": True,
        "scale": None, "enable_gqa": False,
    }  # fmt: skip
    return Request(**{**usual, **changes})  # type: ignore[arg-type]


def test_kernels_of_attention() -> None:
    full = torch.empty(1, 4, 64, 64)
    wide = torch.empty(1, 4, 64, 320, dtype=torch.bfloat16)
    few = torch.empty(1, 2, 64, 64)
    mask = torch.empty(1, 1, 64, 64, dtype=torch.bool)
    assert kernel(asked(), (8, 0)) == "flash"
    assert kernel(asked(), (9, 0)) == "cudnn"
    assert kernel(asked(dropout=0.1), (9, 0)) == "flash"  # not a multiple of 1/16
    assert kernel(asked(), (7, 0)) == "math"  # no bfloat16
    assert kernel(asked(mask=mask, is_causal=False), (8, 0)) == "efficient"
    assert kernel(asked(query=full, key=full, value=full), (8, 0)) == "efficient"
    assert kernel(asked(query=full, key=few, value=few, enable_gqa=True), (8, 0)) == "math"
    assert kernel(asked(query=wide, key=wide, value=wide), (8, 0)) == "efficient"
