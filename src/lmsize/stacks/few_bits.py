"""Training in 8 or 4 bits: what Transformer Engine's recipes cast and keep."""

from __future__ import annotations

from lmsize.tape.casts import Casts

BLACKWELL = 10  # compute capability from which 8-bit kernels read one cast both ways
# Bytes of a number and its share of the scales: fp32 for 128 numbers, an exponent for 32, an 8-bit
# number for 16 (common/recipe/__init__.py of Transformer Engine).
SHARES = {
    "delayed": 1.0, "tensorwise": 1.0, "blockwise": 1 + 4 / 128, "mxfp8": 1 + 1 / 32,
    "nvfp4": 0.5 + 1 / 16,
}  # fmt: skip
WEIGHTS = {
    "delayed": "fp8", "tensorwise": "fp8", "blockwise": "fp8-block128", "mxfp8": "mxfp8",
    "nvfp4": "nvfp4",
}  # fmt: skip
BY_TENSOR = ("delayed", "tensorwise")
RECIPES = tuple(SHARES)


def transformer_engine(recipe: str, *, capability: int, stores_weights: bool) -> Casts:
    """Casts of Transformer Engine 2.6 or later under Megatron.

    A layer saves its input cast by columns (``_Linear.forward`` of pytorch/module/linear.py:
    ``update_usage(rowwise_usage=False, columnwise_usage=True)``), under tensor-wise scaling and
    sequence parallelism by rows. Casts of weights stay in the module (``get_weight_workspace``).
    But for delayed scaling Megatron has the output projection and shared experts save their input
    as it is (``set_save_original_input``), since attention and router do.
    """
    by_tensor = recipe in BY_TENSOR
    return Casts(
        itemsize=SHARES[recipe], weights=WEIGHTS[recipe], n_copies=1 if by_tensor and capability >= BLACKWELL else 2,
        gathers_rows=by_tensor, shares_inputs=recipe != "delayed", keeps_weights=True,
        stores_weights=stores_weights,
    )  # fmt: skip
