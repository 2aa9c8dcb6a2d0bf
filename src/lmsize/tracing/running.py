"""Runs a training step on fake tensors and logs what its memory does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from lmsize.tracing.collectives import collectives_seen
from lmsize.tracing.flops import flops_of
from lmsize.tracing.ledger import Ledger
from lmsize.tracing.modules import ModulePaths
from lmsize.tracing.moved import moved_by
from lmsize.tracing.pretence import masks_as_in_a_real_run, pretended
from lmsize.tracing.storages import Log
from lmsize.tracing.tracker import Tracker
from lmsize.tracing.values import Noting

N_STEPS = 2  # the first makes the optimizer's states; the second is like all that follow


# A lmsize.step.training.TrainingStep, or what has its `model`, `optimizer`, `micro_batches`,
# `on_phase` and `run`.
Step = Any


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
    with on_fake_tensors(device, fake=fake):
        with Noting() if fake else nullcontext():
            step = build()
        return logged(step, device)


@contextmanager
def on_fake_tensors(device: Device, *, fake: bool = True) -> Iterator[None]:
    """While it lasts, tensors are fake and the device seems to be there.

    Raises:
        PlatformError: this torch can make no fake tensors of that device.
    """
    tensors = _NoDevice(allow_non_fake_inputs=True) if fake else nullcontext()
    with pretended(device.type, device.capability), tensors:
        yield


def logged(step: Step, device: Device, *, n_micro: int | None = None) -> Log:
    """Run a step twice and log it.

    Args:
        n_micro: run no more micro-batches than that; all of them are held.
    """
    modules = ModulePaths(step.model)
    ledger = Ledger(modules, device_type=device.type)
    tracker = Tracker(modules, ledger, n_flops=flops_of, n_moved=moved_by)
    with (
        masks_as_in_a_real_run(), modules.watched(), tracker.random_states_seen(),
        tracker.resizing_seen(), collectives_seen(tracker), tracker,
    ):  # fmt: skip
        held = step.micro_batches
        _hold_what_is_there(ledger, step)
        if n_micro is not None:
            step.micro_batches = held[:n_micro]
        for number in range(1, N_STEPS + 1):
            step.on_phase = _noting(ledger, step, number)
            step.run()
        tracker.close()
    _name_the_rest(ledger.log)
    return ledger.log


def _name_the_rest(log: Log) -> None:
    """What the forward made and the backward found is an activation; all else is temporary."""
    found: list[Any] = []
    phase = ""
    live: dict[int, Any] = {}
    for storage, is_alloc, at, _ in log.entries:
        if at != phase and at.endswith("backward"):
            found += live.values()
        phase = at
        if not is_alloc:
            live.pop(id(storage), None)
        elif at.endswith("forward"):
            live[id(storage)] = storage
    for storage in found:
        storage.category = storage.category or "activations"
    for entry in log.entries:
        entry.storage.category = entry.storage.category or "temporaries"


def _hold_what_is_there(ledger: Ledger, step: Step) -> None:
    adapted = any(not p.requires_grad for p in step.model.parameters())
    for path, param in step.model.named_parameters():
        is_adapter = adapted and param.requires_grad
        ledger.hold(path, param, "adapter_weights" if is_adapter else "weights")
    for path, module in step.model.named_modules():  # scales of a weight in few bits
        for tensor in _tensors(getattr(module, "quant_state", None)):
            ledger.hold(f"{path}.weight", tensor, "weights")
    for path, buffer in step.model.named_buffers():
        ledger.hold(path, buffer, "buffers")
    for batch in step.micro_batches:
        for tensor in _tensors(batch):
            ledger.hold("", tensor, "inputs")
    if step.optimizer is not None:  # some make their states at once (Adagrad)
        for path, param in step.model.named_parameters():
            for tensor in _tensors(step.optimizer.state.get(param)):
                ledger.hold(path, tensor, "optimizer_states")


def _noting(ledger: Ledger, step: Step, number: int) -> Callable[[Any, int], None]:
    """Say the phase, and what the phase before has made."""

    def on_phase(phase: Any, _micro: int) -> None:
        if phase in ("clip", "optimizer"):
            for path, param in step.model.named_parameters():
                ledger.name(param, "weights", path)  # a bias that a forward has cast for good
                if param.grad is not None:
                    ledger.name(param.grad, "gradients", path)
        elif phase == "zero_grad" and step.optimizer is not None:
            paths = {id(param): path for path, param in step.model.named_parameters()}
            for param, states in step.optimizer.state.items():
                for tensor in _tensors(states):
                    ledger.name(tensor, "optimizer_states", paths.get(id(param), ""))
        ledger.begin(f"{number}.{phase}")

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
