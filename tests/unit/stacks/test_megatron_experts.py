"""DeepSeek-V3's mixture under Megatron, tensor by tensor: bytes that a token leaves for the backward."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lmsize.api.locate import located
from lmsize.catalogue import built_in
from lmsize.layout.degrees import Layout
from lmsize.stacks import megatron
from lmsize.stacks.layer import layer_program
from lmsize.stacks.megatron_switches import MegatronSwitches
from lmsize.stacks.setting import Setting
from lmsize.tape.casts import Casts
from lmsize.tape.liveness import forward

TOKENS, H, HEADS = 4096, 7168, 128
EXPERTS, TOP, FFN = 256, 8, 2048
FP32 = 4
MODEL = located("deepseek-v3", built_in())
LAYER = next(run.block for _, run in reversed(list(MODEL.runs())) if run.block.role == "layer")
SETTING = Setting(
    micro_batch=1, seq_len=TOKENS, weight_itemsize=2, conduct=MODEL.conduct, head_dim=192,
    layout=Layout(ep=64),
    switches=MegatronSwitches(
        attention_backend="fused", router_score="sigmoid", router_fusion=True, permute_fusion=True
    ),
)  # fmt: skip


def saved(setting: Setting) -> float:
    program = layer_program(
        LAYER, setting, megatron.STYLE, width=H, itemsize=2, needs_grad=True
    )  # fmt: skip
    return float(forward(program).saved) / TOKENS


def test_a_layer_keeps_what_its_kernels_read() -> None:
    norms = 2 * (2 * 2 * H + FP32)  # input and output of both, a deviation
    latents = 2 * (1536 + 1536) + 2 * (576 + 512) + 2 * FP32  # before and after their norms
    attention = 2 * HEADS * (192 + 192 + 128 + 128) + FP32 * HEADS
    router = 2 * FP32 * EXPERTS + EXPERTS  # scores, scores for balance, mask
    rows = 4 * (2 * EXPERTS + 1)  # of the map by which tokens go out and come back
    chunks = 2 * 4 * TOP  # where each row goes when rows are sorted by expert, and back
    experts = TOP * (2 * H + 2 * 2 * FFN + 2 * FFN + 2)
    shared = 2 * (2 * FFN + FFN)
    whole = norms + latents + attention + router + rows + chunks + experts + shared
    assert saved(SETTING) == pytest.approx(whole, abs=1)


def test_other_routers_keep_other_tables() -> None:
    def more(**switches: bool | str | float) -> float:
        other = replace(SETTING, switches=replace(SETTING.switches, **switches))
        return saved(other) - saved(SETTING)

    assert more(aux_loss=False) == -FP32 * EXPERTS
    # by index: a row's token, and a mask and a table turned by expert rather than maps
    maps = 4 * (2 * EXPERTS + 1) + 2 * 4 * TOP
    assert more(permute_fusion=False) == 8 * TOP + (2 + 1) * EXPERTS - maps
    # without fusion: scores, which expert each is, the chosen scores and their sum, no mask; scores
    # for balance in the router's own type
    unfused = more(router_fusion=False)
    assert unfused == pytest.approx(8 * TOP + 2 * TOP + 2 * TOP - EXPERTS - 2 * EXPERTS, abs=1)
    assert more(router_dtype="fp32") == 2 * TOP  # the weights of the rows
    # a mask of what an expert has room for; no map of chunks where all are as large
    assert more(capacity_factor=1.0) == EXPERTS
    assert more(capacity_factor=1.0, pads_to_capacity=True) == EXPERTS - 2 * 4 * TOP


def test_in_8_bits_rows_and_activations_are_casts() -> None:
    few = replace(SETTING, casts=Casts(1.0, shares_inputs=True))
    experts = TOP * (H + FFN)  # a byte less a number
    shared = FFN  # its input is the router's, as it is
    latent = 1536 + 512  # outputs of the latents' norms
    # each of the two compressions has a cast of the norm's output, which nothing else keeps
    assert saved(SETTING) - saved(few) == experts + shared + latent


def test_rows_in_8_bits_are_filled_up() -> None:
    def with_rows(**switches: bool | float) -> float:
        casts = Casts(1.0, shares_inputs=True, align=16)
        other = replace(SETTING.switches, **switches)
        return saved(replace(SETTING, casts=casts, switches=other)) * TOKENS

    def of_rows(**switches: bool | float) -> float:
        return with_rows(**switches) - saved(
            replace(SETTING, casts=Casts(1.0, shares_inputs=True), switches=replace(SETTING.switches, **switches))
        ) * TOKENS  # fmt: skip

    row = H + 2 * 2 * FFN + FFN  # casts of what enters both products, gate and values
    # Four experts of a rank lack 7.5 rows each on average; what a router of 256 experts fills up is sent,
    # with weights, and placed by its map of chunks, there and back.
    assert of_rows() == pytest.approx(30 * row, rel=1e-3)
    assert of_rows(router_padding=True) == pytest.approx(256 * 7.5 * (row + 2 + 2 * 4), rel=1e-3)
    # A capacity of 128 rows of each of 64 ranks is a multiple; one of 131 is not, but so often is.
    assert of_rows(capacity_factor=1.0, pads_to_capacity=True) == 0
    assert of_rows(capacity_factor=1.0234, pads_to_capacity=True) == 0
