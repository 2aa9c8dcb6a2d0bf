"""The compute capability of GPUs, which decides the kernels of attention."""

from __future__ import annotations

from lmsize.catalogue import Accelerator

DEFAULT = (8, 0)
# By family of the catalogue (developer.nvidia.com/cuda-gpus, read 2026-11).
CAPABILITIES = {
    "V100": (7, 0), "T4": (7, 5), "Titan RTX": (7, 5), "A100": (8, 0), "A800": (8, 0), "A30": (8, 0),
    "A10": (8, 6), "A10G": (8, 6), "A40": (8, 6), "RTX A6000": (8, 6), "RTX 3090": (8, 6),
    "L4": (8, 9), "L20": (8, 9), "L40": (8, 9), "L40S": (8, 9), "RTX 4090": (8, 9),
    "RTX 6000 Ada": (8, 9), "H100": (9, 0), "H200": (9, 0), "H20": (9, 0), "H800": (9, 0),
    "GH200": (9, 0), "B100": (10, 0), "B200": (10, 0), "GB200": (10, 0), "B300": (10, 3),
    "GB300": (10, 3), "RTX 5090": (12, 0), "RTX PRO 6000 Blackwell": (12, 0),
}  # fmt: skip


def capability(row: Accelerator | None) -> tuple[int, int] | None:
    """The capability of an accelerator; None if it is no CUDA GPU that is known."""
    return CAPABILITIES.get(row.family) if row is not None else None
