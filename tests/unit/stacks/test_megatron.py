"""Megatron's programs against the tensors that its core and Transformer Engine keep, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lmsize.errors import InputError
from lmsize.layout.degrees import Layout
from lmsize.model.conduct import Conduct
from lmsize.model.parts import AttentionCore, Experts, Linear, Norm
from lmsize.model.spec import Block
from lmsize.stacks import megatron
from lmsize.stacks.fused_shapes import fused_shapes
from lmsize.stacks.layer import layer_program
from lmsize.stacks.megatron_switches import MegatronSwitches
from lmsize.stacks.setting import Setting
from lmsize.stacks.stack_options import read_switches
from lmsize.tape.casts import Casts
from lmsize.tape.liveness import forward
from lmsize.tape.undoing import backward

S, B, H, F, HEADS = 128, 2, 256, 1024, 4
T = S * B
GPT = Block("layer", (
    Norm("input_layernorm", H, True),
    Linear("self_attention.linear_qkv", H, 3 * H, True, "column", HEADS),
    AttentionCore(HEADS, HEADS, H // HEADS, H // HEADS),
    Linear("self_attention.linear_proj", H, H, True, "row", HEADS),
    Norm("pre_mlp_layernorm", H, True),
    Linear("mlp.linear_fc1", H, F, True, "column"),
    Linear("mlp.linear_fc2", F, H, True, "row"),
))  # fmt: skip
MIXTURE = Block("moe layer", (
    *GPT.parts[:5],
    Linear("mlp.router", H, 8, adaptable=False),
    Experts("mlp.experts", (("linear_fc1", H, 2 * F), ("linear_fc2", F, H)), 8, 2),
))  # fmt: skip
CONDUCT = Conduct(model_type="megatron", activation="gelu", rotary=False)
FUSED = Setting(
    micro_batch=B, seq_len=S, weight_itemsize=2, conduct=CONDUCT,
    switches=MegatronSwitches(attention_backend="fused"),
)  # fmt: skip


def saved(block: Block, setting: Setting) -> int:
    program = layer_program(
        block, setting, megatron.STYLE, width=H, itemsize=2, needs_grad=True
    )  # fmt: skip
    return int(forward(program).saved)


def test_a_dense_layer_keeps_what_its_kernels_read() -> None:
    rows = 4 * T * 4  # means and deviations of two norms, in fp32
    units = 1 + 1 + 3 + 1 + 1 + 1  # two inputs and outputs of norms, qkv, attention
    log_sums, seeds = T * HEADS * 4, 2 * 512
    expected = 2 * T * (units * H + 2 * F) + rows + log_sums + seeds
    assert saved(GPT, FUSED) == expected


def test_flash_attention_keeps_its_output_in_both_orders_unless_there_is_one_sequence() -> None:
    flash = replace(FUSED, switches=MegatronSwitches(attention_backend="flash"))
    assert saved(GPT, flash) - saved(GPT, FUSED) == 2 * T * H
    one = {"micro_batch": 1, "seq_len": T}
    assert saved(GPT, replace(flash, **one)) == saved(GPT, replace(FUSED, **one))


def test_unfused_attention_keeps_probabilities_and_recomputes_them() -> None:
    unfused = replace(FUSED, switches=MegatronSwitches(attention_backend="unfused"))
    probs = 2 * T * HEADS * S
    logs = T * HEADS * 4 + 2 * 512
    assert saved(GPT, unfused) - saved(GPT, FUSED) == probs - logs
    again = replace(unfused, recompute="selective")
    assert saved(GPT, again) == saved(GPT, FUSED) - logs


@pytest.mark.parametrize(
    ("module", "block", "gone"),
    [
        ("mlp", GPT, T * (H + 2 * F) * 2 + T * 2 * 4),  # norm, fc1, gelu; the norm's rows
        ("layernorm", GPT, 0),  # it is part of the linear
        ("layernorm", MIXTURE, T * H * 2 + T * 2 * 4),  # its output and its rows
        ("moe_act", MIXTURE, 2 * T * F * 2),
    ],
)
def test_modules_that_run_again_are_not_kept(module: str, block: Block, gone: int) -> None:
    again = replace(FUSED, recompute="selective", switches=replace(
        FUSED.switches, recompute_modules=(module,)
    ))  # fmt: skip
    assert saved(block, FUSED) - saved(block, again) == gone


def test_what_runs_again_is_there_for_the_backward() -> None:
    modules = replace(FUSED.switches, recompute_modules=("mlp",))
    again = replace(FUSED, recompute="selective", switches=modules)
    programs = [
        layer_program(GPT, s, megatron.STYLE, width=H, itemsize=2, needs_grad=True)
        for s in (FUSED, again)
    ]
    plain, recomputed = (backward(program) for program in programs)
    # At the start everything is back, and what the MLP hands on has been made once more.
    assert recomputed.peak == plain.peak + 2 * T * H


def test_ranks_that_trade_heads_keep_the_output_in_both_orders() -> None:
    alone = replace(FUSED, layout=Layout(cp=2))
    traded = replace(alone, switches=replace(alone.switches, cp_comm="a2a"))
    assert saved(GPT, alone) == saved(GPT, FUSED)
    # Queries, keys and values as they were traded take the place of those that were projected.
    assert saved(GPT, traded) - saved(GPT, alone) == 2 * T * H


def test_attention_that_runs_again_is_given_values_where_they_were_projected() -> None:
    heads = replace(GPT.parts[2], n_kv_heads=HEADS // 2)
    qkv = replace(GPT.parts[1], n_out=2 * H)
    grouped = Block("layer", (GPT.parts[0], qkv, heads, *GPT.parts[3:]))
    turned = replace(FUSED, conduct=replace(CONDUCT, rotary=True), head_dim=H // HEADS)
    again = replace(turned, recompute="selective")  # of core_attn
    # The checkpoint saves a view of all that was projected, not the copy of the values.
    projected, values = 2 * T * 2 * H, 2 * T * H // 2
    logs = T * HEADS * 4 + 2 * 512
    assert saved(grouped, again) - saved(grouped, turned) == projected - values - logs


def test_experts_keep_their_rows_and_no_output() -> None:
    without = saved(Block("layer", GPT.parts[:5]), FUSED)
    rows, t8 = 2 * T, T * 8
    kept = 2 * T * H + 2 * T * 4  # the norm's output, its rows
    router = t8 * 4 * 2 + t8 + rows * 4 * 2 + rows * 8 * 2 + 512
    experts = 2 * rows * (H + 2 * F + F)
    assert saved(MIXTURE, FUSED) - without == pytest.approx(kept + router + experts, rel=0.01)


def test_matrices_are_those_that_megatron_fuses() -> None:
    one = Layout(tp=2)
    assert set(fused_shapes(GPT, one)) == {(H, 3 * H // 2), (H // 2, H), (H, F // 2), (F // 2, H)}


def test_switches_are_read_and_refused_by_name() -> None:
    found = read_switches(
        "attention-backend=flash, no-gradient-fusion,recompute-modules=mlp+moe", "megatron"
    )
    assert isinstance(found, MegatronSwitches)
    assert (found.attention_backend, found.gradient_fusion) == ("flash", False)
    assert found.recompute_modules == ("mlp", "moe")
    for wrong in ("attention-backend=flsh", "fast", "cross-entropy", "recompute-modules=moe_atc"):
        with pytest.raises(InputError, match="one of"):
            read_switches(wrong, "megatron")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("optimizer-offload=2", "optimizer-offload: '2' is not valid: expected a number above 0, 1 at most"),
        ("capacity-factor=0", "'0' is not valid: expected a number above 0, 1000 at most"),
        ("recompute-layers=-1", "'-1' is not valid: expected a whole number from 1"),
        ("mtp-layers=\u00b2", "expected a whole number from 1"),
        ("mtp-layers", "expected mtp-layers=NUMBER, a whole number from 1"),
        ("stage-layers=3-2", "'3-2' is not valid: expected layers of each part"),
        ("no-deterministic=1", "'1' is not valid: expected no value: deterministic or no-deterministic"),
        ("recompute-modules", "expected recompute-modules=KIND, one of core_attn"),
    ],
)  # fmt: skip
def test_values_are_refused_with_their_range(asked: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_switches(asked, "megatron")
    assert said in str(caught.value)


def test_matrices_that_read_the_same_are_one() -> None:
    apart = Block("layer", (
        GPT.parts[0], *(Linear(f"{n}_proj", H, H, True, "column", HEADS) for n in "qkv"),
        *GPT.parts[2:],
    ))  # fmt: skip
    casts = Casts(1.0)
    for setting in (FUSED, replace(FUSED, casts=casts)):
        assert saved(apart, setting) == saved(GPT, setting)


def test_layers_in_8_bits_save_casts() -> None:
    plain = saved(GPT, FUSED)
    assert plain - saved(GPT, replace(FUSED, casts=Casts(1.0, shares_inputs=True))) == T * (
        2 * H + F
    )
    assert plain - saved(GPT, replace(FUSED, casts=Casts(1.0))) == T * (2 * H + F - H)
    experts = saved(MIXTURE, FUSED) - saved(
        MIXTURE, replace(FUSED, casts=Casts(1.0, shares_inputs=True))
    )
    assert experts == T * H + 2 * T * (H + F)  # qkv's input; rows sent and weighted activations


def test_adapted_experts_save_their_rows() -> None:
    rank = 8
    plain = replace(FUSED, trains_base=False)
    adapted = replace(plain, ranks=(("mlp.experts", rank),))
    rows = 2 * T  # each token twice
    inner = rows * rank * 2
    # what both matrices read, and what is between the two of each adapter
    assert saved(MIXTURE, adapted) - saved(MIXTURE, plain) == 2 * rows * (H + F) + 2 * inner
