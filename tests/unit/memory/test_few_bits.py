"""Megatron in 8 bits: casts of weights that stay, and of inputs that layers save."""

from __future__ import annotations

from typing import Any

import pytest

import lmsize

MODEL = "llama-3.1-8b"
LAYERS, WIDTH, FFN, TOKENS = 32, 4096, 14336, 4096
LINEAR = LAYERS * (2 * WIDTH**2 + 2 * WIDTH * 1024 + 3 * WIDTH * FFN)


def parts(accelerator: str = "h100-80gb", **options: Any) -> dict[str, int]:
    run: dict[str, Any] = {
        "stack": "megatron", "accelerators": 8, "zero": 1, "seq_len": TOKENS, "search": False,
        "calibration": False, "accelerator": accelerator,
    }  # fmt: skip
    found = lmsize.train(MODEL, **run | options).memory.components
    return {key: value or 0 for key, value in found.items()}


def weights(*switches: str, accelerator: str = "h100-80gb") -> int:
    options = {"stack_options": ",".join(switches)} if switches else {}
    return parts(accelerator, precision="fp8", **options)["weights"]


@pytest.mark.parametrize(
    ("switches", "accelerator", "bytes_more"),
    [
        (("fp8-recipe=tensorwise",), "h100-80gb", 2),
        (("fp8-recipe=tensorwise",), "b200", 1),  # kernels read one cast both ways
        (("fp8-recipe=delayed", "fp8-param-gather"), "h100-80gb", 0),  # 2 for 2
        (("fp8-recipe=delayed", "fp8-param-gather"), "b200", -1),
        (("fp8-recipe=mxfp8",), "b200", 2 * (1 + 1 / 32)),
        (("fp8-recipe=mxfp8", "fp8-param-gather"), "b200", 2 / 32),
        (("fp8-recipe=blockwise",), "h100-80gb", 2 * (1 + 4 / 16384)),
    ],
)
def test_casts_of_weights_stay(
    switches: tuple[str, ...], accelerator: str, bytes_more: float
) -> None:
    plain = parts(accelerator)["weights"]
    assert weights(*switches, accelerator=accelerator) - plain == bytes_more * LINEAR


def test_first_and_last_layers_stay_in_16_bits() -> None:
    some = weights("fp8-recipe=tensorwise", "bf16-first-layers=1", "bf16-last-layers=3")
    assert some - parts()["weights"] == 2 * LINEAR * (LAYERS - 4) // LAYERS
    pure = parts(pp=4, pipeline_stage="last")
    ends = parts(pp=4, pipeline_stage="last", precision="fp8", stack_options="bf16-last-layers=3")
    assert ends["weights"] - pure["weights"] == 2 * LINEAR * 5 // LAYERS


def kept(**options: Any) -> int:
    """Activations where the loss is taken: all layers keep theirs."""
    tree = lmsize.train(
        MODEL, stack="megatron", accelerators=8, zero=1, seq_len=TOKENS, search=False,
        calibration=False, accelerator="h100-80gb", **options,
    ).memory.tree  # fmt: skip
    return max(
        term.value
        for moment in tree.children
        if moment.label == "forward"
        for term in moment.children
        if term.label == "activations"
    )


def test_layers_save_casts_of_their_inputs() -> None:
    plain = kept()
    norms, gate = 2 * WIDTH, FFN  # a byte less a number
    tensorwise = kept(precision="fp8", stack_options="fp8-recipe=tensorwise")
    assert plain - tensorwise == pytest.approx(LAYERS * TOKENS * (norms + gate), rel=1e-6)
    # with delayed scaling the output projection has a cast of its own, beside attention's output
    delayed = kept(precision="fp8", stack_options="fp8-recipe=delayed")
    assert delayed - tensorwise == pytest.approx(LAYERS * TOKENS * WIDTH, rel=1e-6)
