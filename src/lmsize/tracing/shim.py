"""Lets a torch built without CUDA run autograd on tensors that only say they are on CUDA.

Such a build aborts the process at the first backward: no guard of the device is registered, and the
hooks of the accelerator say that there is none. torch has a guard that does nothing, for this very
use, but installs it only in a build with CUDA. What is done here is little: a guard that reports
no devices is put where torch looks for one, so that torch replaces it by its own; and the hooks say
that CUDA is built and has a context. Both are C++ objects, reached by the symbols that torch exports,
so the platform and the version of torch are checked first.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lmsize.errors import LmsizeError

# Releases of torch whose hooks have the slots below (ATen/detail/AcceleratorHooksInterface.h).
KNOWN_TORCH = ("2.13",)
_IS_BUILT, _HAS_PRIMARY_CONTEXT = 2, 4  # after the two destructors
_N_SLOTS = 72  # at least as many as the interface has
_CUDA = 1  # c10::DeviceType::CUDA


class PlatformError(LmsizeError):
    """Fake accelerator tensors cannot be had from this torch on this platform."""


@cache
def ensure_cuda_autograd() -> None:
    """Make autograd on fake CUDA tensors possible; nothing to do where torch is built with CUDA.

    Raises:
        PlatformError: a platform or a torch that this was not written for. Nothing was touched.
    """
    if torch.backends.cuda.is_built():
        return
    _check_platform()
    try:
        c10 = ctypes.CDLL(str(_library("c10")))
        cpu = ctypes.CDLL(str(_library("torch_cpu")))
        registry = (ctypes.c_void_p * 8).in_dll(c10, "_ZN3c104impl26device_guard_impl_registryE")
        hooks = _hooks(cpu)
    except (OSError, ValueError, AttributeError) as error:
        raise _refusal(f"its libraries lack what is needed ({error})") from error
    if registry[_CUDA] is None:
        _install_guard(registry)
    _patch(hooks)


def _check_platform() -> None:
    release = ".".join(torch.__version__.split(".")[:2])
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise _refusal(f"{sys.platform} on {platform.machine()} is not supported")
    if sys.implementation.name != "cpython":
        raise _refusal(f"{sys.implementation.name} is not supported")
    if release not in KNOWN_TORCH:
        raise _refusal(f"torch {torch.__version__} is not one of {', '.join(KNOWN_TORCH)}")


def _refusal(reason: str) -> PlatformError:
    return PlatformError(
        f"--trace-device cuda: this torch is built without CUDA, and {reason}. Use a torch built with "
        "CUDA (no GPU is needed), or --trace-device cpu"
    )


def _library(name: str) -> Path:
    return Path(torch.__file__).parent / "lib" / f"lib{name}.so"


def _hooks(cpu: Any) -> ctypes.Array[Any]:
    """The hooks object, checked to be the plain interface of a build without CUDA."""
    get = cpu._ZN2at6detail12getCUDAHooksEv
    get.restype = ctypes.c_void_p
    hooks = (ctypes.c_void_p * 1).from_address(get())
    table = ctypes.addressof(ctypes.c_char.in_dll(cpu, "_ZTVN2at18CUDAHooksInterfaceE"))
    if hooks[0] != table + 2 * ctypes.sizeof(ctypes.c_void_p):
        raise ValueError("the hooks are not those of a build without CUDA")
    return hooks


def _install_guard(registry: ctypes.Array[Any]) -> None:
    """Register a guard that reports no devices; torch takes it for a CUDA without GPUs."""
    zero = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(lambda _self: 0)
    slots = (ctypes.c_void_p * _N_SLOTS)(*[ctypes.cast(zero, ctypes.c_void_p).value] * _N_SLOTS)
    guard = (ctypes.c_void_p * 1)(ctypes.addressof(slots))
    registry[_CUDA] = ctypes.addressof(guard)
    torch._C._ensureCUDADeviceGuardSet()
    if registry[_CUDA] == ctypes.addressof(guard):
        registry[_CUDA] = None
        raise _refusal("it did not install its own guard")


def _patch(hooks: ctypes.Array[Any]) -> None:
    """Give the hooks a copy of their table in which CUDA is built and has a context."""
    allocate = ctypes.pythonapi.PyMem_RawMalloc
    allocate.restype, allocate.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    n_bytes = _N_SLOTS * ctypes.sizeof(ctypes.c_void_p)
    place = allocate(n_bytes)  # never freed: torch looks here until the process is gone
    ctypes.memmove(place, hooks[0], n_bytes)
    slots = (ctypes.c_void_p * _N_SLOTS).from_address(place)
    # Native, needs no lock of Python, and returns 1 while Python runs.
    yes = ctypes.cast(ctypes.pythonapi.Py_IsInitialized, ctypes.c_void_p).value
    slots[_IS_BUILT] = slots[_HAS_PRIMARY_CONTEXT] = yes
    hooks[0] = place
