"""Where fake CUDA tensors cannot be had, that is said before anything is touched."""

from __future__ import annotations

import platform
import sys

import pytest
import torch

from lmsize.tracing import shim


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (platform, "machine", lambda: "riscv64"),
        (sys, "platform", "win32"),
        (torch, "__version__", "2.4.1"),
    ],
)
def test_elsewhere_it_is_refused(
    module: object, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, value)
    with pytest.raises(shim.PlatformError, match="--trace-device cpu"):
        shim._check_platform()


def test_autograd_on_fake_cuda() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    shim.ensure_cuda_autograd()
    shim.ensure_cuda_autograd()  # once more changes nothing
    with torch.autograd.set_multithreading_enabled(False), FakeTensorMode():
        x = torch.ones(4, 4, device="cuda", requires_grad=True)
        (x @ x).sum().backward()
    assert x.grad is not None
    assert x.grad.device.type == "cuda"
