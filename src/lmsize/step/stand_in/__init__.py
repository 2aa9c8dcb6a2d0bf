"""bitsandbytes, as memory sees it, for tensors that have no data.

Its quantisation reads values, its parameters are a subclass that fake tensors cannot be, and its
kernels are opaque. The modules and optimizers here hold the same tensors and ask for the same
temporaries in the same order, each from the line of bitsandbytes 0.50 that it names; nothing is
computed that a value depends on. bitsandbytes need not be installed. Where it is, tests run it on the
CPU and compare.
"""

from __future__ import annotations

from typing import Any


def is_fake(tensor: Any) -> bool:
    """Whether a tensor has a shape and a type, and no data."""
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)
