"""What has to be pretended while a step runs on fake tensors.

Everything here is undone when the trace ends, except the shim, which changes what torch says of a
device that this build cannot have.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor

from lmsize.tracing import attention
from lmsize.tracing.known import OWN_ATTRIBUTES
from lmsize.tracing.ranks import streams_pretended
from lmsize.tracing.shim import ensure_cuda_autograd

# Operations with a CUDA kernel and a composite of others: a build without CUDA would run the
# composite on CUDA tensors, and its temporaries would be seen.
FUSED_ON_CUDA = ("silu_backward", "mish_backward", "native_channel_shuffle", "_fused_rms_norm")


@contextmanager
def pretended(device_type: str, capability: tuple[int, int]) -> Iterator[None]:
    """The surroundings of a traced step.

    Args:
        device_type: what the tensors say they lie on: ``cuda`` or ``cpu``.
        capability: of the GPU that is pretended.

    Raises:
        PlatformError: fake CUDA tensors cannot be had here.
    """
    with ExitStack() as stack:
        # The engine's device threads would not see the modes of this one.
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(_moved_in_place())
        stack.enter_context(mock.patch.object(FakeTensor, "__deepcopy__", _copied))
        stack.enter_context(_nothing_compiled())
        stack.enter_context(_errors_said_once())
        if device_type == "cuda":
            ensure_cuda_autograd()
            stack.enter_context(_cuda_kernels(capability))
            stack.enter_context(_cuda_present(capability))
            stack.enter_context(streams_pretended())
        yield


@contextmanager
def _nothing_compiled() -> Iterator[None]:
    """torch.compile leaves all as it is: a compiler sees no more than this package's modes do.

    What was compiled before runs as it is written; without that, the process would be aborted.
    """

    def left(model: Any = None, **_options: Any) -> Any:
        return model if model is not None else left

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "compile", left))
        stack.enter_context(mock.patch.object(torch.nn.Module, "compile", _always(None)))
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def _errors_said_once() -> Iterator[None]:
    """What a fake kernel raises is logged by torch first, stack and all."""
    log = logging.getLogger(fake_tensor.__name__)
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def masks_as_in_a_real_run() -> Iterator[None]:
    """transformers, if it is there by now, builds other masks when it sees a fake tensor."""
    with ExitStack() as stack:
        if "transformers.masking_utils" in sys.modules:
            stack.enter_context(mock.patch("transformers.masking_utils.is_tracing", _always(False)))
        yield


@contextmanager
def weights_left_blank() -> Iterator[None]:
    """While it lasts, transformers draws no weights: they have no values, and some draws read them."""
    from transformers.initialization import TORCH_INIT_FUNCTIONS

    def blank(tensor: Any, *_args: Any, **_kwargs: Any) -> Any:
        return tensor

    with mock.patch.dict(TORCH_INIT_FUNCTIONS, dict.fromkeys(TORCH_INIT_FUNCTIONS, blank)):
        yield


@contextmanager
def _cuda_kernels(capability: tuple[int, int]) -> Iterator[None]:
    library = torch.library.Library("aten", "IMPL")
    try:
        attention.registered(library, capability)
        for name in FUSED_ON_CUDA:
            if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "CUDA"):
                library.impl(name, _never_called, "CUDA")
        yield
    finally:
        library._destroy()


def _never_called(*_args: Any, **_kwargs: Any) -> Any:
    raise AssertionError("fake tensors run no kernel")


@contextmanager
def _cuda_present(capability: tuple[int, int]) -> Iterator[None]:
    """What Python asks of torch.cuda, answered as by one GPU of that capability."""
    answers: dict[str, Any] = {
        "is_available": True, "device_count": 1, "current_device": 0, "is_initialized": False,
        "get_device_capability": capability, "is_bf16_supported": capability >= (8, 0),
        "synchronize": None, "empty_cache": None, "set_device": None,
        "is_current_stream_capturing": False,
    }  # fmt: skip
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, _always(answer)))
        for name in ("torch.cuda.amp.common.amp_definitely_not_available",):
            stack.enter_context(mock.patch(name, _always(False)))
        yield


def _always(answer: Any) -> Any:
    def answered(*_args: Any, **_kwargs: Any) -> Any:
        return answer

    return answered


def _copied(tensor: Any, memo: dict[int, Any]) -> Any:
    """A copy of a fake tensor; torch's own lies in one storage, and its views in another."""
    if id(tensor) in memo:
        return memo[id(tensor)]
    if not tensor.is_leaf:
        return torch.Tensor.__deepcopy__(tensor, memo)  # which refuses
    made = tensor.detach().clone()
    if isinstance(tensor, torch.nn.Parameter):
        made = torch.nn.Parameter(made, tensor.requires_grad)
    memo[id(tensor)] = made.requires_grad_(tensor.requires_grad)
    for name, value in vars(tensor).items():
        if name not in vars(made) and not name.startswith(OWN_ATTRIBUTES):
            setattr(made, name, copy.deepcopy(value, memo))
    return made


@contextmanager
def _moved_in_place() -> Iterator[None]:
    """Let ``module.to(...)`` work on fake parameters, which torch refuses to swap."""
    made: dict[int, tuple[Any, Any]] = {}  # tied parameters stay tied

    def moved(param: Any, fn: Any) -> Any:
        if id(param) not in made:
            with torch.no_grad():
                changed = fn(param)
            same = changed is param
            made[id(param)] = (
                param, param if same else torch.nn.Parameter(changed, param.requires_grad)
            )  # fmt: skip
        return made[id(param)][1]

    def apply(module: Any, fn: Any, recurse: bool = True) -> Any:
        for part in module.modules() if recurse else (module,):
            for name, param in part._parameters.items():
                if param is not None:
                    part._parameters[name] = moved(param, fn)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = fn(buffer)
        made.clear()
        return module

    with mock.patch.object(torch.nn.Module, "_apply", apply):
        yield
