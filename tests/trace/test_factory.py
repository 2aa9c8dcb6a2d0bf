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
def asking(width): return nn.Linear(width, 4), torch.randn(2, 4)
def frozen(): return nn.Linear(4, 4), torch.randn(2, 4), lambda model, batch: batch.sum()
def unlike(): return nn.Linear(4, 4), torch.randn(2, 5)
def elsewhere(): return nn.Linear(4, 4), torch.randn(2, 4, device="cpu")
def idle(): return {"model": nn.Linear(4, 4), "step": lambda: None}
def misoptimized(): return {"model": nn.Linear(4, 4), "batch": torch.randn(2, 4), "optimizer": "adamw"}

def compiled():
    model = torch.compile(nn.Linear(64, 32))
    return model, torch.randn(8, 64), lambda model, batch: model(batch).sum()

def scaled():
    model, batch, scaler = nn.Linear(64, 32), torch.randn(8, 64), torch.amp.GradScaler("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    def step():
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(batch).sum()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return {"model": model, "step": step}
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
        ("asking", "without arguments"),
        ("frozen", "no parameter"),
        ("unlike", "reduction dim"),
        ("elsewhere", "without a device"),
        ("idle", "no memory"),
        ("misoptimized", "an optimizer"),
    ],
)
def test_trouble(
    named: str, factory: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    with pytest.raises(LmsizeError) as caught:
        lmsize.trace(f"{named}:{factory}")
    assert said in str(caught.value)
    assert "Traceback" not in str(caught.value) + capfd.readouterr().err


@pytest.mark.parametrize("factory", ["compiled", "scaled"])
def test_what_real_steps_have(named: str, factory: str) -> None:
    found = lmsize.trace(f"{named}:{factory}").memory
    assert found.components["optimizer_states"] == 2 * (64 * 32 * 4 + 512)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_was_compiled_before(named: str) -> None:
    import torch

    doubled = torch.compile(lambda x: x + x)

    def factory() -> object:
        model = torch.nn.Linear(64, 32)
        return model, torch.randn(8, 64), lambda model, batch: doubled(model(batch)).sum()

    assert lmsize.trace(factory).memory.peak_allocated_bytes


@pytest.mark.parametrize("name", ["no_such_module:factory", "no_colon", ":", "json:"])
def test_no_factory(name: str) -> None:
    with pytest.raises(LmsizeError):
        lmsize.trace(name)
