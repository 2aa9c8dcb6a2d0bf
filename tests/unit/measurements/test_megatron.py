"""Launch arguments of Megatron: the model that they build, the switches that they set."""

from __future__ import annotations

import pytest

from lmsize.measurements.settings import question
from lmsize.measurements.switches import stage_layers
from lmsize.model.count import n_params
from lmsize.stacks.stack_options import read_switches

ROW = {
    "id": "one", "model": "GPT test", "hidden": "512", "layers": "12", "heads": "8", "seq_len": "1024",
    "micro_batch": "4", "n_gpus": "8", "tp": "2", "pp": "1", "framework": "Megatron-LM", "precision": "bf16",
}  # fmt: skip


def asked(extra: str) -> dict[str, str]:
    return ROW | {"extra_config": f"--transformer-impl transformer_engine {extra}"}


def test_the_default_is_the_gpt_of_its_tests() -> None:
    model = question(asked("")).model
    layer = 12 * 512 * 512 + 13 * 512
    assert n_params(model) == 50432 * 512 + 1024 * 512 + 12 * layer + 2 * 512


def test_gates_norms_and_positions_are_read() -> None:
    model = question(asked(
        "--swiglu True --normalization RMSNorm --disable-bias-linear True --group-query-attention True "
        "--num-query-groups 2 --position-embedding-type rope --untie-embeddings-and-output-weights True"
    )).model  # fmt: skip
    attention = 512 * (512 + 2 * 128) + 512 * 512
    layer = attention + 3 * 512 * 1344 + 2 * 512
    assert n_params(model) == 2 * 50432 * 512 + 12 * layer + 512
    assert model.conduct.rotary


def test_experts_are_read() -> None:
    model = question(asked(
        "--disable-bias-linear True --num-experts 4 --moe-ffn-hidden-size 256 --moe-layer-freq ([0]*4+[1]*8) "
        "--moe-shared-expert-intermediate-size 128"
    )).model  # fmt: skip
    attention, norms = 4 * 512 * 512, 4 * 512
    sparse = 512 * 4 + 4 * 2 * 512 * 256 + 2 * 512 * 128
    expected = 12 * (attention + norms) + 4 * 8 * 512 * 512 + 8 * sparse
    assert n_params(model) == expected + 50432 * 512 + 1024 * 512 + 2 * 512


def test_a_block_of_no_layers_runs_nothing_again() -> None:
    said = "--recompute-granularity full --recompute-method block --recompute-num-layers"
    assert question(asked(f"{said} 0")).options["recompute"] == "none"
    some = question(asked(f"{said} 2")).options
    assert (some["recompute"], some["stack_options"]) == ("full", "recompute-layers=2")


def test_switches_are_set() -> None:
    options = question(asked(
        "--deterministic-mode True --attention-backend unfused --cross-entropy-loss-fusion True "
        "--cross-entropy-fusion-impl te --no-rope-fusion True --recompute-granularity selective --recompute-modules [moe_act mlp] "
        "--num-distributed-optimizer-instances 2 --no-gradient-accumulation-fusion True"
    )).options  # fmt: skip
    assert set(options["stack_options"].split(",")) == {
        "deterministic", "attention-backend=unfused", "cross-entropy=te", "recompute-modules=moe_act+mlp",
        "optimizer-instances=2", "no-gradient-fusion", "no-rope-fusion",
    }  # fmt: skip


def test_a_layout_of_stages_is_read_layer_by_layer() -> None:
    assert stage_layers("Et*3|(tt|)*6tmL") == (3, 2, 2, 2, 2, 2, 2, 1)
    assert stage_layers("E|tt|tL") == (0, 2, 1)
    assert stage_layers("") == stage_layers("x*3|") == ()


def test_a_t5_has_two_towers_and_a_length_for_each() -> None:
    row = ROW | {
        "model": "T5 test",
        "hidden": "768",
        "heads": "12",
        "ffn": "3072",
        "seq_len": "512",
    }
    posed = question(row | {"extra_config": (
        "--encoder-num-layers 12 --decoder-num-layers 12 --encoder-seq-length 512 --decoder-seq-length 128 "
        "--vocab-extra-ids 100"
    )})  # fmt: skip
    h = 768
    encoder, decoder = 12 * h * h + 13 * h, 16 * h * h + 19 * h
    tables = (29184 + 512) * h
    expected = tables + 12 * (encoder + decoder) + 2 * 2 * h + 29184
    assert n_params(posed.model) == expected
    assert "decoder-seq-length=128" in posed.options["stack_options"]


@pytest.mark.parametrize(
    ("arguments", "switches"),
    [
        ("--fp8-format hybrid --fp8-recipe blockwise --fp8-param-gather True --first-last-layers-bf16 True",
         "fp8-recipe=blockwise,fp8-param-gather,bf16-first-layers=1,bf16-last-layers=1"),
        ("--fp8-recipe mxfp8 --first-last-layers-bf16 True --num-layers-at-start-in-bf16 0 --num-layers-at-end-in-bf16 14",
         "fp8-recipe=mxfp8,bf16-last-layers=14"),
        ("--mtp-num-layers 2 --microbatch-group-size-per-virtual-pipeline-stage 5",
         "mtp-layers=2,microbatch-group=5"),
        (("--num-experts 8 --moe-token-dispatcher-type alltoall --moe-grouped-gemm True --moe-router-score-function sigmoid "
         "--moe-permute-fusion True --moe-router-fusion True --moe-router-load-balancing-type none"),
         "dispatcher=alltoall,router-score=sigmoid,no-aux-loss,router-fusion,permute-fusion"),
        (("--num-experts 8 --moe-token-dispatcher-type alltoall --moe-grouped-gemm True --moe-expert-capacity-factor 1.25 "
         "--moe-pad-expert-input-to-capacity True"),
         "dispatcher=alltoall,capacity-factor=1.25,pads-to-capacity"),
        (("--num-experts 8 --moe-token-dispatcher-type alltoall --moe-grouped-gemm True --fp8-recipe mxfp8 "
         "--moe-router-padding-for-fp8 True"), "fp8-recipe=mxfp8,dispatcher=alltoall,router-padding"),
        ("--use-precision-aware-optimizer True --main-grads-dtype bf16 --exp-avg-dtype bf16 --exp-avg-sq-dtype fp8",
         "precision-aware,grad-reduce-in-bf16,exp-avg-dtype=bf16,exp-avg-sq-dtype=fp8"),
        ("--optimizer-cpu-offload True --optimizer-offload-fraction 0.5", "optimizer-offload=0.5"),
        ("--defer-embedding-wgrad-compute True --wgrad-deferral-limit 2",
         "deferral-limit=2,deferred-head"),
        ("--recompute-granularity full --recompute-method uniform --recompute-num-layers 4", "recompute-chunk=4"),
        ("--recompute-granularity full --recompute-method block --recompute-num-layers 4", "recompute-layers=4"),
        ("--no-masked-softmax-fusion True --apply-query-key-layer-scaling True",
         "no-softmax-fusion,fp32-softmax"),
    ],
)  # fmt: skip
def test_arguments_are_switches(arguments: str, switches: str) -> None:
    precision = "fp8" if "--fp8" in arguments else "bf16"
    options = question(asked(arguments) | {"precision": precision}).options["stack_options"]
    assert set(options.split(",")) == set(switches.split(","))
    read_switches(options, "megatron")


@pytest.mark.parametrize(
    "arguments",
    ["--fp8-recipe mxfp8 --fp8-param-gather True --first-last-layers-bf16 True",
     "--recompute-modules [mlp] --recompute-method block --recompute-num-layers 4",
     "--wgrad-deferral-limit 2 --decoder-seq-length 128 --moe-pad-expert-input-to-capacity True"],
)  # fmt: skip
def test_arguments_without_effect_are_left_out(arguments: str) -> None:
    assert "stack_options" not in question(asked(arguments)).options


def test_latent_attention_is_that_of_the_arguments_whatever_the_label() -> None:
    arguments = "--multi-latent-attention True --num-experts 8 --moe-layer-freq ([0]*1+[1]*1)"
    row = asked(arguments) | {"model": "GPT-MoE test:deepseek_proxy", "layers": "2"}
    model = question(row).model
    runs = [(r.block.name, r.n_layers) for _, r in model.runs() if r.block.role == "layer"]
    assert model.model_type == "megatron"
    assert runs == [("layer", 1), ("moe layer", 1)]


def test_muons_tensors_are_dealt_out_where_buffers_are_not_laid_out_for_them() -> None:
    row = asked("--no-use-layer-wise-param-layout True") | {
        "optimizer": "muon",
        "sharding": "zero1",
    }
    assert "whole-tensors" in question(row).options["stack_options"]
    assert "stack_options" not in question(row | {"optimizer": "adam"}).options
