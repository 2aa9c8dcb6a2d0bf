"""Numbers of Python that autograd keeps.

torch wraps a number that is an operand in a tensor of its own, on the CPU. Of a product or a quotient with a
tensor that needs a gradient the number is saved for the backward, whatever hooks there are for what is
saved (torch/csrc/autograd/saved_variable.cpp); fake tensors never see it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch

from lmsize.tracing.ledger import Ledger
from lmsize.tracing.storages import Storage

aten = torch.ops.aten
SAVED_BY = {
    aten.mul.Tensor, aten.div.Tensor, aten.div.Tensor_mode, aten.mul_.Tensor, aten.div_.Tensor,
}  # fmt: skip
_N_BYTES = {bool: 1, int: 8, float: 8, complex: 16}
_KEY = "lmsize_wrapped"


class WrappedNumbers:
    """Writes down the numbers that a forward saves.

    Args:
        ledger: keeps the log.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._made: tuple[weakref.ref[Any], Storage] | None = None

    def note(self, func: Any, args: Any, out: Any, path: str) -> None:
        """Consider an operation that has just run; autograd gives its result a node only later."""
        if func not in SAVED_BY or not torch.is_grad_enabled() or out._is_view():
            return  # the node of a view that was written into is made under a lock when it is asked for
        for number, beside in (args[1::-1], args[:2]):
            n_bytes = _N_BYTES.get(type(number))
            if n_bytes and isinstance(beside, torch.Tensor) and beside.requires_grad:
                stored = self._ledger.keep(n_bytes, f"{func} number", path)
                self._made = weakref.ref(out), stored

    def settle(self) -> None:
        """Tie the last number to the node that saves it."""
        if self._made is None:
            return
        (hold, stored), self._made = self._made, None
        out = hold()
        node = None if out is None else out.grad_fn
        gone = _Once(self._ledger.drop, stored)
        if node is None:
            gone()
            return
        node.metadata[_KEY] = gone  # goes with the node, if no backward comes to it
        node.register_hook(gone.after_backward)


class _Once:
    """Lets go of a number when its node has run, or goes itself."""

    def __init__(self, drop: Callable[[Storage], None], stored: Storage) -> None:
        self._drop, self._stored = drop, stored
        self._is_there = True

    def __call__(self) -> None:
        if self._is_there:
            self._is_there = False
            self._drop(self._stored)

    def after_backward(self, _inputs: Any, _outputs: Any) -> None:
        self()

    __del__ = __call__
