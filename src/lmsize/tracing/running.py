"""Runs a training step on fake tensors and logs what its memory does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from torch._subclasses.fake_tensor import FakeTensorMode

from lmsize.tracing.modules import ModulePaths
from lmsize.tracing.pretence import masks_as_in_a_real_run, pretended
from lmsize.tracing.storages import Log
from lmsize.tracing.tracker import Tracker

N_STEPS = 2  # the first makes the optimizer's states; the second is like all that follow


class Step(Protocol):
    """What can be traced: :class:`lmsize.step.training.TrainingStep` is one."""

    model: Any
    optimizer: Any
    micro_batches: Any
    on_phase: Callable[[Any, int], None]

    def run(self) -> Any:
        """Run one step, calling `on_phase` as each of its phases begins."""


class _NoDevice(FakeTensorMode):  # type: ignore[misc]  # torch is Any to mypy
    """Fake tensors that never touch the device they say they lie on, though it seems available."""

    @property
    def avoid_device_init(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Device:
    """What the tensors pretend to lie on.

    Attributes:
        type: ``cuda`` or ``cpu``.
        capability: of the GPU, which decides the attention kernels.
    """

    type: str = "cuda"
    capability: tuple[int, int] = (9, 0)


def traced(build: Callable[[], Step], device: Device, *, fake: bool = True) -> Log:
    """Everything that the memory of the device does in two steps.

    Args:
        build: makes the step; called where its tensors become fake.
        fake: False runs on real tensors of the CPU (to check the one against the other).

    Raises:
        PlatformError: this torch can make no fake tensors of that device.
    """
    tensors = _NoDevice(allow_non_fake_inputs=True) if fake else nullcontext()
    with pretended(device.type, device.capability), tensors:
        return _logged(build(), device)


def _logged(step: Step, device: Device) -> Log:
    modules = ModulePaths(step.model)
    tracker = Tracker(modules, device_type=device.type)
    with masks_as_in_a_real_run(), modules.watched(), tracker.random_states_seen(), tracker:
        _hold_what_is_there(tracker, step)
        for number in range(1, N_STEPS + 1):
            step.on_phase = _noting(tracker, step, number)
            step.run()
        tracker.close()
    return tracker.log


def _hold_what_is_there(tracker: Tracker, step: Step) -> None:
    adapted = any(not p.requires_grad for p in step.model.parameters())
    for path, param in step.model.named_parameters():
        is_adapter = adapted and param.requires_grad
        tracker.hold(path, param, "adapter_weights" if is_adapter else "weights")
    for path, buffer in step.model.named_buffers():
        tracker.hold(path, buffer, "buffers")
    for batch in step.micro_batches:
        for tensor in _tensors(batch):
            tracker.hold("", tensor, "inputs")


def _noting(tracker: Tracker, step: Step, number: int) -> Callable[[Any, int], None]:
    """Say the phase, and what the phase before has made."""

    def on_phase(phase: Any, _micro: int) -> None:
        if phase in ("clip", "optimizer"):
            for path, param in step.model.named_parameters():
                if param.grad is not None:
                    tracker.name(param.grad, "gradients", path)
        elif phase == "zero_grad":
            for states in step.optimizer.state.values():
                for tensor in _tensors(states):
                    tracker.name(tensor, "optimizer_states")
        tracker.begin(f"{number}.{phase}")

    return on_phase


def _tensors(value: Any) -> Iterator[Any]:
    """The tensors in nested containers."""
    if hasattr(value, "untyped_storage"):
        yield value
    elif hasattr(value, "values"):
        yield from _each(value.values())
    elif isinstance(value, list | tuple):
        yield from _each(value)


def _each(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        yield from _tensors(value)
