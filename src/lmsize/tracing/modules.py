"""Which module is at work: by the call stack in the forward, by autograd's numbers in the backward."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lmsize.tracing.storages import Layer

_LAYER = re.compile(r"^(.*?)\.(\d+)(?:\.|$)")


def layer_of(path: str) -> Layer | None:
    """The outermost numbered module of a path: ``model.layers.3.mlp`` -> model.layers, 3."""
    found = _LAYER.match(path)
    return Layer(found[1], int(found[2])) if found else None


class ModulePaths:
    """Knows the path of the module that runs, and of the module whose backward runs.

    Autograd numbers its nodes as the forward makes them. Writing down the number at which each
    module begins and ends tells, in the backward, which module a node came from: no hooks, which
    would change what is held alive.
    """

    def __init__(self, model: Any) -> None:
        self._paths = {id(module): name for name, module in model.named_modules()}
        self._layers: dict[str, Layer | None] = {}
        self._stack: list[str] = []
        self._starts: list[int] = [0]
        self._started: list[str] = [""]
        self._owners = {
            name.rpartition(".")[0]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.ModuleList)
        }

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While it lasts, every call of a module is seen."""
        call = torch.nn.Module.__call__

        def seen(module: Any, *args: Any, **kwargs: Any) -> Any:
            path = self._paths.get(id(module))
            if path is None:
                return call(module, *args, **kwargs)
            self._enter(path)
            try:
                return call(module, *args, **kwargs)
            finally:
                self._leave()

        torch.nn.Module.__call__ = seen
        try:
            yield
        finally:
            torch.nn.Module.__call__ = call

    def _enter(self, path: str) -> None:
        self._stack.append(path)
        self._note(path)

    def _leave(self) -> None:
        self._stack.pop()
        self._note(self._stack[-1] if self._stack else "")

    def _note(self, path: str) -> None:
        number = torch.autograd._get_sequence_nr()
        if self._starts[-1] == number:
            self._started[-1] = path
        else:
            self._starts.append(number)
            self._started.append(path)

    @property
    def running(self) -> str | None:
        """Path of the module whose forward runs; None outside of the model."""
        return self._stack[-1] if self._stack else None

    @property
    def among_layers(self) -> bool:
        """Whether a module that owns a list of layers is running."""
        return any(path in self._owners for path in self._stack)

    def of_node(self, node: Any) -> str | None:
        """Path of the module that made a node of the graph; None if none did."""
        at = bisect_right(self._starts, node._sequence_nr()) - 1
        return self._started[at] if at < len(self._starts) - 1 else None

    def layer(self, path: str) -> Layer | None:
        """The layer that a path lies in."""
        if path not in self._layers:
            self._layers[path] = layer_of(path)
        return self._layers[path]
