"""Training in 8 or 4 bits: what the recipes of Transformer Engine and of torchao cast and keep."""

from __future__ import annotations

from dataclasses import replace

from lmsize.tape.casts import Casts

# Compute capabilities, the first number; from Blackwell on 8-bit kernels read one cast both ways.
HOPPER, BLACKWELL = 9, 10
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
ALIGNS = {
    "mxfp8": 32,
    "nvfp4": 32,
}  # rows of a group; 16 for the rest (get_fp8_align_size of Megatron)
BY_TENSOR = ("delayed", "tensorwise")
RECIPES = tuple(SHARES)
TORCHAO = ("tensorwise", "mxfp8", "nvfp4")  # those that torchtitan asks torchao for


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
        stores_weights=stores_weights, align=ALIGNS.get(recipe, 16),
    )  # fmt: skip


def torchao(recipe: str, *, capability: int, stores_weights: bool) -> Casts:
    """Casts of torchao 0.18's linears; what is not asked for is ``tensorwise``.

    In 8 bits a layer saves its input and weight as they are (``matmul_with_hp_or_float8_args`` of
    float8/float8_linear.py, ``mx_mm`` of prototype/moe_training/mxfp8_linear.py) and casts them at
    use. In 4 it saves the cast by columns (``nvfp4_mm_triton`` of nvfp4_training/nvfp4_linear.py), and its
    product is an operation that selective recomputation does not know (``scaled_mm``).
    """
    kind = recipe if recipe in TORCHAO else "tensorwise"
    few = transformer_engine(kind, capability=capability, stores_weights=stores_weights)
    in_4_bits = kind == "nvfp4"
    return replace(
        few, keeps_cast=in_4_bits, keeps_weights=False, gathers_rows=False, shares_inputs=False,
        product="scaled_mm" if in_4_bits else few.product,
    )  # fmt: skip
