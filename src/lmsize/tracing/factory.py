"""A user's own module, batch and step, from a factory.

A factory is a callable without arguments. It is called where tensors are fake and the default device
is the traced one, and returns ``(model, batch)``, ``(model, batch, loss)`` or a mapping of:

- ``model``: the nn.Module;
- ``batch``: a mapping (``model(**batch)``), a sequence (``model(*batch)``) or a tensor;
- ``loss``: a callable ``loss(model, batch)`` that gives a scalar; left out, the output's ``loss``, or
  the output itself;
- ``optimizer``: a torch optimizer; left out, AdamW over what requires gradients;
- ``step``: in place of all that, a callable without arguments that runs one whole step.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from lmsize.errors import InputError, nearest_names
from lmsize.tracing.faults import TraceError

KEYS = ("model", "batch", "loss", "optimizer", "step")
SHAPE = "a factory that returns (model, batch), (model, batch, loss) or a mapping of model, batch, loss, optimizer, step"


def loaded(name: str) -> Callable[[], Any]:
    """The factory that ``package.module:name`` means, the working directory included.

    Raises:
        InputError: no such module, or nothing of that name in it.
        TraceError: the module raises when it is imported.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise InputError("FACTORY", name, "package.module:factory")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise InputError("FACTORY", name, f"a module that can be imported ({error})") from error
        raise TraceError(f"{module_name} cannot be imported: {error}") from error
    except Exception as error:
        raise TraceError(f"{module_name} raises {type(error).__name__}: {error}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        near = nearest_names(attribute, vars(module), n_names=2)
        raise InputError("FACTORY", name, f"a callable of {module_name}", nearest=near)
    factory: Callable[[], Any] = found
    return factory


def refuse_with_arguments(factory: Callable[..., Any], name: str) -> None:
    """Refuse a factory that cannot be called with nothing.

    Raises:
        InputError: it wants arguments.
    """
    try:
        wanted = inspect.signature(factory)
    except (TypeError, ValueError):  # of C, which says nothing of its arguments
        return
    try:
        wanted.bind()
    except TypeError as error:
        raise InputError("FACTORY", name, f"a callable without arguments ({error})") from error


class UserStep:
    """A step of a user's own, phase by phase."""

    def __init__(self, made: Any, *, foreach: bool) -> None:
        parts = _parts(made)
        self.model = parts["model"].train()
        self.micro_batches: Any = [parts.get("batch")]
        self.on_phase: Callable[[str, int], None] = lambda _phase, _at: None
        self._loss, self._step = parts.get("loss"), parts.get("step")
        self.optimizer = parts.get("optimizer") or self._usual_optimizer(foreach=foreach)

    def _usual_optimizer(self, *, foreach: bool) -> Any:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        if self._step is not None or not trained:
            return None
        return torch.optim.AdamW(trained, foreach=foreach)

    def run(self) -> None:
        """One step; gradients are set to None at the end."""
        if self._step is not None:
            with _phases_seen(self):
                self._step()
            self.on_phase("end", -1)
            return
        self.on_phase("forward", 0)
        loss = self._loss_of(self.micro_batches[0])
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            got = f"of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else _a(loss)
            raise TraceError(
                f"the loss is {got}: expected a tensor of one number. Let the factory return "
                "(model, batch, loss), where loss(model, batch) gives it"
            )
        if self.optimizer is None:
            return
        if not loss.requires_grad:
            raise TraceError(
                "the loss depends on no parameter that is trained: nothing to go back to"
            )
        self.on_phase("backward", 0)
        loss.backward()
        self.on_phase("optimizer", -1)
        self.optimizer.step()
        self.on_phase("zero_grad", -1)
        self.optimizer.zero_grad(set_to_none=True)
        self.on_phase("end", -1)

    def _loss_of(self, batch: Any) -> Any:
        if self._loss is not None:
            return self._loss(self.model, batch)
        if isinstance(batch, Mapping):
            out = self.model(**batch)
        elif isinstance(batch, list | tuple):
            out = self.model(*batch)
        else:
            out = self.model(batch)
        if isinstance(out, Mapping) and "loss" in out:
            return out["loss"]
        return getattr(out, "loss", out)


def _parts(made: Any) -> dict[str, Any]:
    """What a factory returned, by name.

    Raises:
        InputError: it is of another shape.
    """
    if isinstance(made, tuple) and len(made) in (2, 3):
        made = dict(zip(KEYS, made, strict=False))
    if not isinstance(made, Mapping):
        raise InputError("FACTORY", _described(made), SHAPE)
    unknown = [key for key in made if key not in KEYS]
    if unknown:
        near = nearest_names(str(unknown[0]), KEYS, n_names=1)
        raise InputError("FACTORY", unknown[0], SHAPE, nearest=near)
    if not isinstance(made.get("model"), torch.nn.Module):
        raise InputError("FACTORY", _described(made.get("model")), "a model that is an nn.Module")
    if made.get("batch") is None and made.get("step") is None:
        raise InputError("FACTORY", None, "a batch, or a step that needs none")
    for name in ("loss", "step"):
        if made.get(name) is not None and not callable(made[name]):
            raise InputError("FACTORY", _described(made[name]), f"a {name} that can be called")
    optimizer = made.get("optimizer")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError("FACTORY", _described(optimizer), "an optimizer that is a torch one")
    return dict(made)


def _a(value: Any) -> str:
    return f"a {_described(value)}"


def _described(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


@contextmanager
def _phases_seen(step: UserStep) -> Iterator[None]:
    """Tell the phases of a step that does all by itself."""
    backward = torch.autograd.backward

    def seen(*args: Any, **kwargs: Any) -> Any:
        step.on_phase("backward", 0)
        out = backward(*args, **kwargs)
        step.on_phase("after_backward", 0)
        return out

    def before(optimizer: Any, _args: Any, _kwargs: Any) -> None:
        step.optimizer = optimizer
        step.on_phase("optimizer", -1)

    def after(_optimizer: Any, _args: Any, _kwargs: Any) -> None:
        step.on_phase("zero_grad", -1)

    hooks = (
        register_optimizer_step_pre_hook(before),
        register_optimizer_step_post_hook(after),
    )
    step.on_phase("forward", 0)
    try:
        with mock.patch.object(torch.autograd, "backward", seen):
            yield
    finally:
        for hook in hooks:
            hook.remove()
