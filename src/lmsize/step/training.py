"""One optimizer step of the real model, phase by phase."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

from lmsize.errors import InputError, ModelError
from lmsize.step.batch import batch
from lmsize.step.model import attention_context, built_model
from lmsize.step.optimizer import built_optimizer
from lmsize.step.precision import matmul_precision, step_precision
from lmsize.step.sharding import reduced_last
from lmsize.workload.training import TrainSpec, batch_of

Phase = Literal["forward", "backward", "clip", "optimizer", "zero_grad", "end"]
OnPhase = Callable[[Phase, int], None]


def _silent(_phase: Phase, _micro: int) -> None:
    pass


def _synchronised(_last: bool) -> AbstractContextManager[Any]:
    return nullcontext()


@dataclass(slots=True)
class TrainingStep:
    """One optimizer step, to be run as often as wanted.

    The outputs are dropped once the loss is taken; gradients are set to None at the end.

    Attributes:
        micro_batches: one forward and backward each, gradients accumulated.
        device_type: ``cuda`` or ``cpu``, for autocast.
        autocast: dtype of autocast; None without.
        tf32: whether fp32 products run in TF32.
        scaler: scales the loss of fp16 autocast; None without.
        clip_grad_norm: largest norm of the gradients; None without clipping.
        keep_outputs: keep the outputs (logits) of the forward until the backward is done.
        on_phase: called with the phase that begins and the micro-batch (-1 outside of one).
        surround: context of the forward and backward (attention kernels).
        synchronised: context of a micro-batch, told whether it is the last; data-parallel
            wrappers reduce gradients on the last only.
    """

    model: Any
    optimizer: Any
    micro_batches: Sequence[Mapping[str, Any]]
    device_type: str
    autocast: Any = None
    tf32: bool = False
    scaler: Any = None
    clip_grad_norm: float | None = None
    keep_outputs: bool = False
    on_phase: OnPhase = _silent
    surround: Callable[[], AbstractContextManager[Any]] = nullcontext
    synchronised: Callable[[bool], AbstractContextManager[Any]] = field(default=_synchronised)

    def run(self) -> Any:
        """Run the step; the loss of the last micro-batch, detached.

        Raises:
            ModelError: the model gives no loss for ``input_ids`` and ``labels``.
        """
        loss = None
        with self.surround(), matmul_precision(tf32=self.tf32):
            for at, inputs in enumerate(self.micro_batches):
                with self.synchronised(at == len(self.micro_batches) - 1):
                    loss = self._forward_backward(inputs, at)
        self._clip()
        self.on_phase("optimizer", -1)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.on_phase("zero_grad", -1)
        self.optimizer.zero_grad(set_to_none=True)
        self.on_phase("end", -1)
        return loss

    def _forward_backward(self, inputs: Mapping[str, Any], at: int) -> Any:
        self.on_phase("forward", at)
        with self._autocast():
            outputs = self.model(**inputs)
        loss = outputs.loss
        if loss is None:
            name = type(self.model).__name__
            raise ModelError("architectures", name, "a class whose labels give a loss")
        if not self.keep_outputs:
            del outputs
        if len(self.micro_batches) > 1:
            loss = loss / len(self.micro_batches)
        self.on_phase("backward", at)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        return loss.detach()

    def _clip(self) -> None:
        if self.clip_grad_norm is None:
            return
        import torch

        self.on_phase("clip", -1)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        import torch

        context: AbstractContextManager[Any] = torch.autocast(self.device_type, dtype=self.autocast)
        return context


def built_step(
    config: Mapping[str, Any], spec: TrainSpec, *, device: Any = "cpu", reentrant: bool = False,
    **settings: Any,
) -> TrainingStep:  # fmt: skip
    """The step of a config and a filled-in spec, whole: model, optimizer, micro-batches.

    Args:
        settings: those of :func:`step_of`.

    Raises:
        LmsizeError: as :func:`built_model` and :func:`built_optimizer` say.
    """
    model = built_model(config, spec, device=device, reentrant=reentrant)
    return step_of(model, config, spec, device=device, **settings)


def step_of(
    model: Any, config: Mapping[str, Any], spec: TrainSpec, *, device: Any = "cpu", dp: int = 1,
    optimizer_implementation: str | None = None, clip_grad_norm: float | None = None,
    keep_outputs: bool = False, scale_loss: bool = True, on_phase: OnPhase = _silent,
    sequences: str = "full",
) -> TrainingStep:  # fmt: skip
    """The step around a model that was built before (made data-parallel, or of fake tensors).

    Args:
        dp: data-parallel ranks, which share a global batch.
        scale_loss: scale the loss under fp16 autocast, as the Trainer does (it reads a value back
            from the device, which fake tensors do not have).
        sequences: full, padded or packed (:func:`lmsize.step.batch.batch`).

    Raises:
        InputError: a model that takes no mask or no positions, where they are padded or packed.
    """
    import torch

    shape = batch_of(spec, dp=dp)
    precision = step_precision(spec.precision or "")
    kind = torch.device(device).type
    micro_batches = [
        batch(
            config, micro_batch=shape.micro_batch, seq_len=shape.seq_len, device=device,
            sequences=sequences,
        )
        for _ in range(shape.n_micro)
    ]  # fmt: skip
    _refuse_unread(model, micro_batches[0], sequences)
    optimizer = built_optimizer(
        model.parameters(), spec.optimizer or "", implementation=optimizer_implementation
    )
    # From 1, so that no step is skipped while the scale is searched for.
    scaled = scale_loss and precision.autocast == torch.float16
    scaler = torch.amp.GradScaler(kind, init_scale=1.0) if scaled else None
    return TrainingStep(
        model=model, optimizer=optimizer, micro_batches=micro_batches, device_type=kind,
        autocast=precision.autocast, tf32=precision.tf32, scaler=scaler,
        clip_grad_norm=clip_grad_norm, keep_outputs=keep_outputs, on_phase=on_phase,
        surround=lambda: attention_context(spec), synchronised=reduced_last(model),
    )  # fmt: skip


def _refuse_unread(model: Any, inputs: Mapping[str, Any], sequences: str) -> None:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    taken = inspect.signature(type(base).forward).parameters
    for name in inputs:
        if sequences != "full" and name not in taken:
            expected = f"full: {type(base).__name__} takes no {name}"
            raise InputError("--sequences", sequences, expected, nearest=["full"])
