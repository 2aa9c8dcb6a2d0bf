"""From arithmetic to time: seconds a step, a run, and accelerators for a deadline."""

from __future__ import annotations

from typing import Any

from lmsize.formula import formula
from lmsize.source import Source

PALM = Source("PaLM", "appendix B", "https://arxiv.org/abs/2204.02311")
MEGATRON = Source(
    "Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM",
    "section 2.2",
    "https://arxiv.org/abs/2104.04473",
)
LAUNCHES = Source(
    "vTrain, measured single-node runs",
    "seconds a layer that do not fall with its arithmetic (fitted: see docs/catalogue.md)",
    "github.com/VIA-Research/vTrain",
)
ROOFLINE = Source(
    "Roofline: An Insightful Visual Performance Model",
    "section 3",
    "https://doi.org/10.1145/1498765.1498785",
)


@formula(source=PALM)
def utilised_s(*, n_flops: Any, n_accelerators: Any, peak_flops_per_s: Any, mfu_frac: Any) -> Any:
    """Seconds for FLOPs at a given utilisation of the peak.

    Assumes: the utilisation already holds communication, bubbles and small kernels.
    Valid for: runs like those that the utilisation was measured on.
    """
    return n_flops / (n_accelerators * peak_flops_per_s * mfu_frac)


@formula(source=MEGATRON)
def worked_s(
    *, n_flops: Any, n_accelerators: Any, peak_flops_per_s: Any, mfu_frac: Any, n_stages: Any,
    n_micro: Any, n_virtual: Any,
) -> Any:  # fmt: skip
    """Seconds for FLOPs at the utilisation of a rank at work, and the pipeline's bubble besides.

    Assumes: stages that take the same; the one-forward-one-backward schedule, interleaved if
    `n_virtual` is above 1; the utilisation holds communication and small kernels.
    Valid for: layers that take longer to compute than to launch.
    """
    busy = n_flops / (n_accelerators * peak_flops_per_s * mfu_frac)
    return busy * (1 + (n_stages - 1) / (n_micro * n_virtual))


@formula(source=LAUNCHES)
def launched_s(
    *, n_layers: Any, n_stages: Any, n_micro: Any, n_virtual: Any, n_passes: Any, host_layer_s: Any
) -> Any:  # fmt: skip
    """Seconds that the host needs to launch the kernels of a step, whatever they compute.

    Assumes: every layer is launched kernel by kernel, for each micro-batch in turn; a backward
    launches twice what a forward does (`n_passes` 3, or 4 with full recomputation).
    Valid for: PyTorch without CUDA graphs or whole-step compilation.
    """
    return n_layers / n_stages * (n_micro + (n_stages - 1) / n_virtual) * n_passes * host_layer_s


@formula(source=PALM)
def mfu_frac(*, n_flops: Any, n_accelerators: Any, peak_flops_per_s: Any, step_s: Any) -> Any:
    """The share of the peak that FLOPs in a time amount to (MFU, or HFU with executed FLOPs).

    Assumes: the dense peak of the type that the matrix products run in.
    Valid for: any step.
    """
    return n_flops / (n_accelerators * peak_flops_per_s * step_s)


@formula(source=ROOFLINE)
def streamed_s(*, n_bytes: Any, bandwidth_bytes_per_s: Any, efficiency_frac: Any) -> Any:
    """Seconds to read bytes from an accelerator's memory once.

    Assumes: nothing is found in a cache.
    Valid for: work that is bound by memory, such as decoding at small batches.
    """
    return n_bytes / (bandwidth_bytes_per_s * efficiency_frac)


@formula(source=PALM)
def run_s(*, step_s: Any, n_steps: Any) -> Any:
    """Seconds of a whole run.

    Assumes: no restarts, evaluation or checkpoints.
    Valid for: steps that all take the same.
    """
    return step_s * n_steps


@formula(source=PALM)
def accelerators_for_deadline(*, run_s: Any, n_accelerators: Any, deadline_s: Any) -> Any:
    """Accelerators that finish a run in time, as a real number: round up to use it.

    Assumes: time falls in proportion to their number.
    Valid for: counts near the one that `run_s` was found for.
    """
    return run_s * n_accelerators / deadline_s
