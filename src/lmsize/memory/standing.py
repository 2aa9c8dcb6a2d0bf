"""What Megatron and its libraries keep from step to step besides states: workspaces, buffers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lmsize.formula import Term, formula, total
from lmsize.layout.shares import Stage
from lmsize.model.parts import Experts
from lmsize.source import Source
from lmsize.stacks.switches import Switches
from lmsize.tape.program import rounded_bytes

CUBLAS = Source(
    "PyTorch 2.13", "aten/src/ATen/cuda/CublasHandlePool.cpp, getChosenWorkspaceSize",
    "https://github.com/pytorch/pytorch",
)  # fmt: skip
ENGINE = Source(
    "Transformer Engine 2.8", "pytorch/module/base.py, get_cublas_workspace_size_bytes",
    "https://github.com/NVIDIA/TransformerEngine",
)  # fmt: skip
MEGATRON = Source(
    "Megatron-LM core 0.15", "core/tensor_parallel/layers.py and core/utils.py, GlobalMemoryBuffer",
    "https://github.com/NVIDIA/Megatron-LM",
)  # fmt: skip
KIB, MIB = 2**10, 2**20
HOPPER, BLACKWELL = 9, 10  # compute capability, the first number
LARGE = 32 * MIB  # from Hopper on, and with CUBLAS_WORKSPACE_CONFIG=:4096:8
SMALL = 8320 * KIB  # :4096:2:16:8
SMALL_ENGINE = 4 * MIB
N_THREADS = 2  # the forward's and autograd's, each with a handle of its own
N_STREAMS = 4  # that grouped products run on


@formula(source=CUBLAS)
def workspace_bytes(*, n_workspaces: Any, bytes_each: Any) -> Any:
    """Bytes of scratch that cuBLAS is lent for matrix products, and keeps.

    Assumes: one workspace for each handle and stream, from the caching allocator.
    Valid for: CUDA; the sizes are those of the compute capability.
    """
    return n_workspaces * bytes_each


@formula(source=MEGATRON)
def gathered_bytes(*, n_tokens: Any, width: Any, bytes_per_number: Any) -> Any:
    """Bytes of the buffer in which the output layer gathers its input, kept for the next time.

    Assumes: sequence parallelism; only the output layer is Megatron's own linear.
    Valid for: the last stage.
    """
    return rounded_bytes(n_tokens * width * bytes_per_number)


@dataclass(frozen=True, slots=True)
class Libraries:
    """What decides the workspaces.

    Attributes:
        capability: the accelerator's compute capability, its first number.
        switches: of the stack.
    """

    capability: int
    switches: Switches


def workspaces(libraries: Libraries, stage: Stage) -> Iterable[Term]:
    """Of PyTorch's products and of Transformer Engine's."""
    is_large = libraries.capability >= HOPPER
    chosen = LARGE if is_large or libraries.switches.deterministic else SMALL
    yield workspace_bytes.term("cuBLAS of PyTorch", n_workspaces=N_THREADS, bytes_each=chosen)
    if libraries.switches.transformer_impl == "local":
        return
    groups = libraries.switches.grouped_gemm and any(
        isinstance(part, Experts) for _, run in stage.runs for part in run.block.parts
    )
    yield workspace_bytes.term(
        "cuBLAS of Transformer Engine", n_workspaces=1 + N_STREAMS * groups,
        bytes_each=LARGE if is_large else SMALL_ENGINE,
    )  # fmt: skip


def standing_term(
    libraries: Libraries, stage: Stage, *, n_tokens: Any, width: Any, bytes_per_number: Any,
    sequence_parallel: bool,
) -> Term:  # fmt: skip
    """All that stays, whatever the step does."""
    parts = list(workspaces(libraries, stage))
    if sequence_parallel and stage.index == stage.n_stages - 1:
        parts.append(
            gathered_bytes.term(
                "gathered input of the output layer", n_tokens=n_tokens, width=width,
                bytes_per_number=bytes_per_number,
            )
        )  # fmt: skip
    return total("workspaces", parts)
