"""Optimizers of bitsandbytes: their states, where those lie, and what a step takes for a while.

On CUDA a step is one kernel a parameter, in place. On a CPU it is plain arithmetic
(backends/cpu/ops.py), whose temporaries are asked for here in its order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from lmsize.numbers import ceil_div

LEAST_8BIT = 4096  # numbers of a parameter whose states are in 8 bits (min_8bit_size)
LEAST_PAGED = 100_000  # numbers of one whose states are paged (Optimizer8bit.get_state_buffer)
BLOCK = 256  # states that share a scale
N_CODES = 256

ONE_STATE = ("lion", "rmsprop", "sgd")


class Optimizer8bit(torch.optim.Optimizer):  # type: ignore[misc]  # torch is Any to mypy
    """An optimizer of bitsandbytes, by the name of its class.

    Args:
        kind: such as ``PagedAdamW8bit``: paged, AdamW, in 8 bits.
    """

    def __init__(self, params: Iterable[Any], kind: str, *, lr: float) -> None:
        name = kind.lower()
        self.is_paged = name.startswith("paged")
        self.bits = 8 if name.endswith("8bit") else 32
        base = name.removeprefix("paged").removesuffix("8bit").removesuffix("32bit")
        self._rule = {"adamw": "adam", "adam": "adam"}.get(base, base)
        self._maps: dict[str, Any] = {}  # one of each for all parameters
        super().__init__(params, {"lr": lr})

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch is Any to mypy
    def step(self, closure: Any = None) -> None:
        """Steps each parameter that has a gradient, one after the other."""
        del closure
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                if not self.state[param]:
                    self.state[param].update(self._made(param))
                self._update(param, self.state[param])

    def _made(self, param: Any) -> dict[str, Any]:
        small = param.numel() < LEAST_8BIT
        dtype = torch.uint8 if self.bits == 8 and not small else torch.float32
        doubled = self._rule == "ademamix"  # a fast and a slow mean in one tensor
        names = ("1",) if self._rule in ONE_STATE else ("1", "2")
        made: dict[str, Any] = {}
        for name in names:
            count = 2 if doubled and name == "1" else 1
            if not self._is_managed(param):
                shape = (2, *param.shape) if count == 2 else param.shape
                made[f"state{name}"] = param.new_zeros(shape, dtype=dtype)
            if dtype == torch.uint8:
                n_blocks = ceil_div(param.numel(), BLOCK)
                made[f"qmap{name}"] = self._map(name, param)
                made[f"absmax{name}"] = param.new_zeros((count * n_blocks,), dtype=torch.float32)
        if self._rule == "lamb":
            made["unorm_vec"] = param.new_zeros((1,), dtype=torch.float32)
        return made

    def _map(self, name: str, param: Any) -> Any:
        if name not in self._maps:
            self._maps[name] = param.new_empty((N_CODES,), dtype=torch.float32)
        return self._maps[name]

    def _is_managed(self, param: Any) -> bool:
        """Whether its states lie in managed memory, which the device's allocator does not see."""
        return self.is_paged and param.numel() >= LEAST_PAGED and param.device.type != "cpu"

    def _update(self, param: Any, state: dict[str, Any]) -> None:
        is_narrow = "qmap1" in state
        if self._rule == "lamb" and not is_narrow:
            torch.norm(param.data.float())
        if param.device.type == "cpu":
            (_narrow_step if is_narrow else _wide_step)(self._rule, param, state)


def managed_bytes(kind: str, n_numbers: int) -> int:
    """Bytes of managed memory that an optimizer's states of one parameter take on CUDA."""
    name = kind.lower()
    if not name.startswith("paged") or n_numbers < LEAST_PAGED:
        return 0
    n_states = 3 if "ademamix" in name else 1 if "lion" in name else 2
    return n_states * n_numbers * (1 if name.endswith("8bit") else 4)


def _wide_step(rule: str, param: Any, state: dict[str, Any]) -> None:
    """States in fp32."""
    grad = param.grad.float() * 1.0
    value = param.data.float()
    held = _WIDE[rule](value, grad, state)
    param.data.copy_(value)
    del held


def _narrow_step(rule: str, param: Any, state: dict[str, Any]) -> None:
    """States in 8 bits, raised to fp32 for the step and lowered again."""
    raised: dict[str, Any] = {
        name: torch.empty_like(state[name], dtype=torch.float32)
        for name in ("state1", "state2") if name in state
    }  # fmt: skip
    if rule == "ademamix":  # the two means are raised apart and put together
        apart = [torch.empty_like(mean, dtype=torch.float32) for mean in state["state1"]]
        raised["state1"] = torch.stack(apart)
    grad = param.grad.float() * 1.0
    value = param.data.float()
    held = _NARROW[rule](value, grad, raised)
    param.data.copy_(value)
    for name, wide in raised.items():
        for one in wide if rule == "ademamix" and name == "state1" else (wide,):
            _lowered(one)
    del held


def _lowered(wide: Any) -> None:
    """Numbers in 8 bits and their scales, before they are copied to where they stay."""
    scales = wide.new_empty((ceil_div(wide.numel(), BLOCK),))
    numbers = torch.empty_like(wide, dtype=torch.uint8)
    del scales, numbers


def _adam(value: Any, _grad: Any, states: dict[str, Any]) -> Any:
    update = states["state1"] / (states["state2"].sqrt() + 1.0)
    value.add_(update)
    return update


def _lamb(value: Any, grad: Any, states: dict[str, Any]) -> Any:
    update = _adam(value, grad, states)
    torch.norm(update)
    return update


def _ademamix(value: Any, _grad: Any, states: dict[str, Any]) -> Any:
    fast, slow = states["state1"]
    mixed = (fast / 1.0) + (1.0 * slow)
    spread = (states["state2"].sqrt() / 1.0) + 1.0
    value.add_(mixed / spread)
    return mixed, spread


def _momentum(value: Any, _grad: Any, states: dict[str, Any]) -> Any:
    value.add_(states["state1"])


def _lion(value: Any, grad: Any, states: dict[str, Any]) -> Any:
    update = states["state1"].mul(1.0).add(grad)
    value.add_(update.sign())
    return update


def _rmsprop(value: Any, grad: Any, states: dict[str, Any]) -> Any:
    update = grad / (states["state1"].sqrt() + 1.0)
    value.add_(update)
    return update


def _narrow_adam(value: Any, _grad: Any, states: dict[str, Any]) -> Any:
    spread = (states["state2"].sqrt() / 1.0).add_(1.0)
    value.addcdiv_(states["state1"], spread)
    return spread


def _narrow_ademamix(value: Any, _grad: Any, states: dict[str, Any]) -> Any:
    fast, slow = states["state1"]
    update = (fast / 1.0 + 1.0 * slow) / (states["state2"].sqrt() / 1.0 + 1.0)
    value.add_(update)
    states["state1"] = torch.stack([fast, slow])
    return update, fast, slow


def _narrow_lion(value: Any, grad: Any, states: dict[str, Any]) -> Any:
    update = torch.sign(states["state1"].mul(1.0) + grad.mul(1.0))
    value.add_(update)
    return update


def _narrow_rmsprop(value: Any, grad: Any, states: dict[str, Any]) -> Any:
    value.addcdiv_(grad, states["state1"].sqrt().add_(1.0))


_Rule = Callable[[Any, Any, dict[str, Any]], Any]  # gives what its names hold until the step ends
_WIDE: dict[str, _Rule] = {
    "adam": _adam, "lamb": _lamb, "ademamix": _ademamix, "sgd": _momentum, "lion": _lion,
    "rmsprop": _rmsprop,
}  # fmt: skip
_NARROW: dict[str, _Rule] = {
    "adam": _narrow_adam, "lamb": _narrow_adam, "ademamix": _narrow_ademamix, "sgd": _momentum,
    "lion": _narrow_lion, "rmsprop": _narrow_rmsprop,
}  # fmt: skip
