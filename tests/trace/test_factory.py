"""A user's own module: what is traced, and what each kind of trouble says."""

from __future__ import annotations

from pathlib import Path

import pytest

import lmsize
from lmsize.errors import LmsizeError

MODULE = """
import torch
from torch import nn

def plain():
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
    return model, torch.randn(8, 64), lambda model, batch: model(batch).pow(2).mean()

def whole_step():
    model, batch = nn.Linear(64, 32), torch.randn(8, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9)
    def step():
        model(batch).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"model": model, "step": step}

class Branching(nn.Linear):
    def forward(self, x):
        y = super().forward(x).sum()
        return y if y > 0 else -y

class Selecting(nn.Linear):
    def forward(self, x):
        return super().forward(x)[x[:, 0] > 0].sum()

torch.library.define("lmsize_test::copy", "(Tensor x) -> Tensor")
torch.library.impl("lmsize_test::copy", "CPU")(lambda x: x.clone())

class Custom(nn.Linear):
    def forward(self, x):
        return torch.ops.lmsize_test.copy(super().forward(x)).sum()

def branching(): return Branching(4, 4), torch.randn(2, 4)
def selecting(): return Selecting(4, 4), torch.randn(2, 4)
def custom(): return Custom(4, 4), torch.randn(2, 4)
def raising(): raise ValueError("no data here")
def starving(): raise MemoryError
def number(): return 3
def misnamed(): return {"modle": nn.Linear(4, 4)}
def not_scalar(): return nn.Linear(4, 4), torch.randn(2, 4)
"""


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_{tmp_path.name.replace('-', '_')}"
    text = MODULE.replace("lmsize_test", name)
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_plain(named: str) -> None:
    found = lmsize.trace(f"{named}:plain", trace_device="cpu").memory
    n_params = 64 * 128 + 128 + 128 * 64 + 64
    assert found.components["weights"] == 4 * n_params
    assert found.components["gradients"] == 4 * n_params
    assert found.peak_allocated_bytes == sum(v or 0 for v in found.components.values())


def test_whole_step(named: str) -> None:
    found = lmsize.trace(f"{named}:whole_step", accelerator="a100-80gb")
    n_bytes = {"weights": 64 * 32 * 4 + 512, "optimizer_states": 64 * 32 * 4 + 512}
    assert {k: found.memory.components[k] for k in n_bytes} == n_bytes
    assert found.verdict.fits
    assert (found.memory.peak_reserved_bytes or 0) >= (found.memory.peak_allocated_bytes or 0)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("branching", "depends on data"),
        ("selecting", "static shapes"),
        ("custom", "register_fake"),
        ("raising", "no data here"),
        ("starving", "too little memory"),
        ("number", "(model, batch)"),
        ("misnamed", "did you mean model"),
        ("not_scalar", "one number"),
        ("nothing", "a callable of"),
    ],
)
def test_trouble(named: str, factory: str, said: str) -> None:
    with pytest.raises(LmsizeError) as caught:
        lmsize.trace(f"{named}:{factory}")
    assert said in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("name", ["no_such_module:factory", "no_colon", ":", "json:"])
def test_no_factory(name: str) -> None:
    with pytest.raises(LmsizeError):
        lmsize.trace(name)
