"""Measuring one case in this process, or in each of those that torchrun started."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lmsize.errors import InputError, LmsizeError
from lmsize.measuring import machine
from lmsize.measuring.case import Case
from lmsize.measuring.limit import is_out_of_memory, memory_limit
from lmsize.measuring.meters import Reading, Tell, cpu_reading, cuda_reading
from lmsize.measuring.outcome import FAILED, FITS, OOM, Measured, Peak
from lmsize.measuring.parallel import (
    gathered,
    local_rank,
    process_group,
    world_size,
    wrapped,
)
from lmsize.step.extras import require
from lmsize.step.model import built_model
from lmsize.step.training import TrainingStep, step_of

SEED = 0


def silent(_what: str) -> None:
    """Tell nobody."""


def default_device() -> str:
    """``cuda`` where torch sees an accelerator of CUDA or ROCm, else ``cpu``."""
    require("torch", "transformers", why="lmsize measure")
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str) -> None:
    """Refuse a device that is not here.

    Raises:
        InputError: naming those that are.
    """
    require("torch", "transformers", why="lmsize measure")
    if device == "cpu":
        return
    here = ["cpu"] if default_device() == "cpu" else ["cuda", "cpu"]
    if device not in here:
        raise InputError("--device", device, f"one that torch sees here: {', '.join(here)}")


def measured(case: Case, *, tell: Tell = silent) -> Measured:
    """Run the steps of a case and read what they took.

    Memory that runs out is an outcome, and so is an error of the software that runs; what makes no
    sense raises.

    Args:
        tell: is told what begins.

    Raises:
        LmsizeError: of :func:`lmsize.step.training.built_step`.
    """
    require("torch", "transformers", why="lmsize measure")
    import torch

    used_before = machine.device_used_bytes() if case.device == "cuda" else None
    if case.device == "cuda":
        torch.cuda.set_device(local_rank())
    blank = _circumstances(case)
    try:
        with process_group(case.device), memory_limit(case.memory_limit_bytes, device=case.device):
            reading = _reading(case, used_before, tell)
            ranks = gathered((reading.peaks, reading.step_s))
    except LmsizeError:
        raise
    except Exception as error:  # noqa: BLE001 -- whatever the software says is the outcome
        outcome = OOM if is_out_of_memory(error) else FAILED
        return replace(blank, outcome=outcome, reason=said(error))
    after = machine.clocks() if case.device == "cuda" else {}
    facts = {**blank.facts, **after, **_chosen(reading.step)}
    return replace(
        blank, peaks=_worst(ranks), step_s=_slowest(ranks),
        facts=facts | {"host_peak_gib": f"{machine.host_peak_bytes() / 2**30:.3f}"},
    )  # fmt: skip


def _circumstances(case: Case) -> Measured:
    facts = machine.versions()
    if case.device == "cpu":
        facts |= machine.threads()
    facts |= {"warmup": str(case.n_warmup), "steps": str(case.n_steps)}
    capacity = case.memory_limit_bytes or machine.capacity_bytes(case.device)
    return Measured(
        FITS, device_name=machine.device_name(case.device), capacity_bytes=capacity, facts=facts
    )


def _reading(case: Case, used_before: int | None, tell: Tell) -> Reading:
    import torch

    torch.manual_seed(SEED)

    def build() -> TrainingStep:
        tell(f"building {case.label} on {case.device}")
        model = wrapped(
            built_model(case.config, case.spec, device=case.device), case.spec, device=case.device
        )
        return step_of(
            model, case.config, case.spec, device=case.device, dp=world_size(),
            optimizer_implementation=case.optimizer_impl, clip_grad_norm=case.clip_grad_norm,
        )  # fmt: skip

    if case.device == "cuda":
        return cuda_reading(
            build, n_warmup=case.n_warmup, n_steps=case.n_steps, tell=tell, used_before=used_before
        )
    return cpu_reading(build, n_warmup=case.n_warmup, n_steps=case.n_steps, tell=tell)


def _worst(ranks: list[tuple[tuple[Peak, ...], tuple[float, ...]]]) -> tuple[Peak, ...]:
    """The largest of each peak over the ranks."""
    over = f", largest of {len(ranks)} ranks" if len(ranks) > 1 else ""
    kinds = zip(*(peaks for peaks, _ in ranks), strict=False)
    largest = [max(same, key=lambda peak: peak.n_bytes) for same in kinds]
    return tuple(replace(p, definition=_within_brackets(p.definition, over)) for p in largest)


def _within_brackets(text: str, more: str) -> str:
    return f"{text[:-1]}{more})" if text.endswith(")") else text + more


def _slowest(ranks: list[tuple[tuple[Peak, ...], tuple[float, ...]]]) -> tuple[float, ...]:
    return tuple(max(same) for same in zip(*(times for _, times in ranks), strict=True))


def _chosen(step: TrainingStep) -> dict[str, str]:
    """What the libraries chose by themselves: the optimizer's implementation, the attention."""
    import torch

    group: dict[str, Any] = step.optimizer.param_groups[0]
    optimizer = type(step.optimizer)
    facts = {"optimizer_class": f"{optimizer.__module__}.{optimizer.__name__}"}
    if "foreach" in group:
        fused, foreach = group.get("fused"), group["foreach"]
        if not fused and foreach is None:
            foreach = step.device_type == "cuda"  # torch's own choice
        facts["optimizer_impl"] = "fused" if fused else "foreach" if foreach else "loop"
    if step.device_type == "cuda":
        facts["tf32"] = str(step.tf32)
        facts["allocator"] = str(torch.cuda.get_allocator_backend())
    return facts


def said(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
