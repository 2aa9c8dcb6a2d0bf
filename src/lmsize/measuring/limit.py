"""Out of memory: how it is told from other errors, and a limit to find it with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmsize.errors import InputError

# Words by which torch, its allocators and libraries say that memory is out.
WORDS = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory",
    "alloc_failed", "bad_alloc", "unable to allocate", "failed to map segment",
    "resource temporarily unavailable",  # no room for a thread's stack
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError | ImportError) and any(
        w in str(error).lower() for w in WORDS
    )


@contextmanager
def memory_limit(n_bytes: int | None, *, device: str) -> Iterator[None]:
    """Let allocations fail beyond `n_bytes` more than now, while it lasts.

    On an accelerator the caching allocator keeps the limit; on Linux CPUs the kernel does, for all
    private memory of the process.

    Raises:
        InputError: this system cannot limit a process's memory.
    """
    if n_bytes is None:
        yield
    elif device == "cuda":
        import torch

        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(n_bytes / total, 1.0))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    else:
        with _data_limit(n_bytes):
            yield


@contextmanager
def _data_limit(n_bytes: int) -> Iterator[None]:
    try:
        import resource

        used = _data_bytes()
    except (ImportError, OSError):
        raise InputError("--memory-limit", n_bytes, "no value on this system") from None
    import torch

    torch.ones(2**20).sum()  # threads come now: they cannot be made once memory is short
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    for line in Path("/proc/self/status").read_text("ascii", errors="replace").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmData")
