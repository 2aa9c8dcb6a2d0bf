"""Finding the like layers of a model, and leaving most of them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

LONGEST_PERIOD = 8
_NUMBERS = ("idx", "index", "layer_id", "layer_number", "layer_num")


@dataclass(frozen=True, slots=True)
class Stack:
    """A list of layers in which one unit, of one or several layers, comes again and again.

    Attributes:
        path: of the list in the model; its layers' paths are the path and a number.
        n_before: layers before the first unit; `period` layers make a unit; `n_units` of them.
    """

    path: str
    n_before: int
    period: int
    n_units: int

    def unit(self, number: int) -> int:
        """The unit that a layer of that number lies in, from 1; 0 before, n_units + 1 after."""
        if number < self.n_before:
            return 0
        return min((number - self.n_before) // self.period, self.n_units) + 1


def stacks(model: Any, *, n_at_least: int) -> list[Stack]:
    """The outermost lists of layers that hold at least so many like units."""
    found: list[Stack] = []
    config = getattr(model, "config", None)
    for path, module in model.named_modules():
        if any(path.startswith(f"{stack.path}.") for stack in found):
            continue
        if isinstance(module, torch.nn.ModuleList) and len(module) >= n_at_least:
            stack = _stack(path, module, config)
            if stack is not None and stack.n_units >= n_at_least:
                found.append(stack)
    return found


def shortened(model: Any, stack: Stack, *, n_units: int) -> None:
    """Leave units out of the model until so many are left."""
    layers = model.get_submodule(stack.path)
    n_kept = stack.n_before + n_units * stack.period
    end = stack.n_before + stack.n_units * stack.period
    kept = [layer for at, layer in enumerate(layers) if at < n_kept or at >= end]
    del layers[len(kept) :]
    for at, layer in enumerate(kept):
        layers[at] = layer


def _stack(path: str, layers: Any, config: Any) -> Stack | None:
    """The smallest period that most layers of a list come again with."""
    traits = [_traits(layer) + _listed(config, at, len(layers)) for at, layer in enumerate(layers)]
    best: Stack | None = None
    for period in range(1, LONGEST_PERIOD + 1):
        start, length = _longest_repeat(traits, period)
        units = length // period
        if best is None or units * period > best.n_units * best.period + period:
            best = Stack(path, start, period, units)
    return best


def _longest_repeat(traits: list[Any], period: int) -> tuple[int, int]:
    """(start, length) of the longest part in which every layer is like the one a period on."""
    best, start = (0, 0), 0
    for at in range(len(traits)):
        if at + period >= len(traits) or traits[at] != traits[at + period]:
            length = min(at + period, len(traits)) - start
            best = max(best, (start, length), key=lambda part: part[1])
            start = at + 1
    return best


def _traits(layer: Any) -> tuple[Any, ...]:
    """Everything that can make two layers differ: modules, their settings, parameters, buffers."""
    parts = []
    for path, module in layer.named_modules():
        settings = tuple(sorted(_settings(module)))
        tensors = tuple(
            (name, tuple(t.shape), t.dtype, t.requires_grad)
            for held in (module._parameters, module._buffers)
            for name, t in held.items()
            if t is not None
        )
        parts.append((path, type(module), settings, tensors))
    return tuple(parts)


def _settings(module: Any) -> Iterator[tuple[str, str]]:
    for name, value in vars(module).items():
        counts = any(word in name for word in _NUMBERS)
        if not name.startswith("_") and not counts and isinstance(value, bool | int | float | str):
            yield name, repr(value)


def _listed(config: Any, at: int, n_layers: int) -> tuple[Any, ...]:
    """What the config says of a layer in lists that have an entry for each."""
    configs = (
        [config, *(v for v in vars(config).values() if hasattr(v, "to_dict"))] if config else []
    )
    said = []
    for one in configs:
        values: Mapping[str, Any] = vars(one)
        for name in sorted(values):
            value = values[name]
            if isinstance(value, list | tuple) and len(value) == n_layers:
                said.append((name, repr(value[at])))
    return tuple(said)
