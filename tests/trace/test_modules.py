"""Hand-written modules on fake tensors against real steps on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

import lmsize


def attention_and_patches() -> Any:
    """A vision transformer: a convolution, parameters that are expanded, fused attention."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.first = nn.Conv2d(3, 48, 4, 4), nn.Parameter(torch.zeros(1, 1, 48))
            self.mix, self.head = nn.Linear(48, 144), nn.Linear(48, 10)

        def forward(self, image: Any, label: Any) -> Any:
            x = self.cut(image).flatten(2).transpose(1, 2)
            x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
            q, k, v = self.mix(x).reshape(len(x), -1, 3, 4, 12).permute(2, 0, 3, 1, 4)
            x = x + functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            return functional.cross_entropy(self.head(x[:, 0]), label)

    return Patches(), (torch.randn(5, 3, 32, 32), torch.randint(0, 10, (5,)))


def recurrent() -> Any:
    """oneDNN's recurrent layer, whose workspace no fake kernel knows."""
    import torch

    layer = torch.nn.LSTM(16, 24, bidirectional=True)
    return layer, torch.randn(11, 3, 16), lambda layer, x: layer(x)[0].sum()


def convolved_under_autocast() -> Any:
    """Norms over 16 bits with weights in fp32; something in place; pooling."""
    import torch
    from torch import nn

    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, 2, 1), nn.GroupNorm(4, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip

    def loss(model: Any, image: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(image).float().square().mean()

    return layers, torch.randn(5, 3, 32, 32), loss


def copied_layers() -> Any:
    """Layers that are copies of one, and a mask of padding."""
    import torch
    from torch import nn

    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    model = nn.ModuleList(copy.deepcopy(layer) for _ in range(2))
    mask = torch.zeros(3, 13, dtype=torch.bool)
    mask[:, 9:] = True

    def loss(model: Any, x: Any) -> Any:
        for one in model:
            x = one(x, src_key_padding_mask=mask)
        return x.square().mean()

    return model, torch.randn(3, 13, 32), loss


def tied() -> Any:
    """A gradient through a view meets another: their sum is a third tensor."""
    import torch
    from torch import nn
    from torch.nn import functional

    def loss(table: Any, ids: Any) -> Any:
        hidden = table(ids) * 3.0  # the number is saved
        return functional.cross_entropy(functional.linear(hidden, table.weight), ids)

    return nn.Embedding(307, 24), torch.randint(0, 307, (9,)), loss


def in_place_and_views() -> Any:
    """Writing into what was made, halves that meet again, gradients that lie apart."""
    import torch
    from torch import nn

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.across = nn.Linear(64, 256), nn.Parameter(torch.randn(48, 64).t())

        def forward(self, x: Any) -> Any:
            y = self.inner(x)
            y.mul_(2.0)
            a, b, c, d = y.chunk(4, -1)
            z = (a * b).cumsum(0) * torch.sigmoid(d) + c.flip(0)
            z[:, :10] = 0
            return (z @ self.across).square().mean() + self.across.sum()

    return Mixed(), torch.randn(33, 64)


def own_function() -> Any:
    """A function with a backward of its own, and gradients of gradients."""
    import torch

    class Gate(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any) -> Any:
            y = x @ weight
            ctx.save_for_backward(x, weight, y)
            return y * torch.sigmoid(y)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            x, weight, y = ctx.saved_tensors
            gate = torch.sigmoid(y)
            inner = grad * gate * (1 + y * (1 - gate))
            return inner @ weight.t(), x.t() @ inner

    class Gated(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(40, 40))

        def forward(self, x: Any) -> Any:
            per_row = torch.func.vmap(torch.func.grad(lambda v: torch.tanh(v @ self.weight).sum()))
            return (Gate.apply(x, self.weight) - per_row(x)).square().mean()

    return Gated(), torch.randn(33, 40)


def own_step() -> Any:
    """A step that does all by itself."""
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(40, 80), torch.nn.GELU(), torch.nn.Linear(80, 40))
    optimizer, x = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), torch.randn(33, 40)

    def step() -> None:
        for _ in range(2):
            (model(x) - x).square().mean().div(2).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return {"model": model, "step": step, "batch": x}


def in_sixteen_bits() -> Any:
    """oneDNN reorders operands of 16-bit products in memory of its own, where the processor has them."""
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(96, 52), nn.SiLU(), nn.Linear(52, 307)).to(torch.bfloat16)
    return (
        model,
        torch.randn(51, 96, dtype=torch.bfloat16),
        lambda m, x: m(x).float().logsumexp(0).sum(),
    )


FACTORIES = (
    attention_and_patches, recurrent, convolved_under_autocast, copied_layers, tied, in_place_and_views,
    own_function, own_step, in_sixteen_bits,
)  # fmt: skip


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda f: f.__name__)
def test_traced_peak_is_real(
    factory: Callable[[], Any], real_peak: Callable[[Callable[[], Any]], int]
) -> None:
    from lmsize.tracing.factory import UserStep

    found = lmsize.trace(factory, trace_device="cpu").memory.peak_allocated_bytes
    assert found == pytest.approx(real_peak(lambda: UserStep(factory(), foreach=False)), rel=2e-4)


def test_a_batch_that_only_the_step_knows_is_counted() -> None:
    def factory() -> Any:
        made = own_step()
        del made["batch"]
        return made

    found, told = (lmsize.trace(one, trace_device="cpu").memory for one in (factory, own_step))
    assert found.peak_allocated_bytes == told.peak_allocated_bytes
    assert found.components["inputs"] == 33 * 40 * 4


def test_layers_left_out_at_random_are_all_run() -> None:
    import torch

    class Dropped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(40, 40) for _ in range(3))

        def forward(self, x: Any) -> Any:
            for layer in self.layers:
                if torch.rand([]) >= 0.1:
                    x = x + layer(x)
            return x.square().mean()

    found = lmsize.trace(lambda: (Dropped(), torch.randn(8, 40)), trace_device="cpu")
    assert "trace-nothing-left-out" in {one.code for one in found.assumptions}
    per_layer = (40 * 40 + 40) * 4
    assert found.memory.components["gradients"] == 3 * per_layer


def test_sparse_gradients_are_refused() -> None:
    import torch

    def factory() -> Any:
        table = torch.nn.Embedding(301, 24, sparse=True)
        optimizer = torch.optim.SparseAdam(table.parameters())
        ids = torch.randint(0, 301, (9,))
        loss = lambda table, ids: table(ids).sum()  # noqa: E731
        return {"model": table, "batch": ids, "loss": loss, "optimizer": optimizer}

    with pytest.raises(lmsize.LmsizeError, match="sparse=False"):
        lmsize.trace(factory, trace_device="cpu")
