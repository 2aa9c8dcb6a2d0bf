"""A row of cells -> the question that a user would ask."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsize.errors import LmsizeError
from lmsize.measurements.columns import COLUMNS
from lmsize.measurements.settings import Question, question
from lmsize.measurements.table import shipped
from lmsize.measurements.unmodelled import UnmodelledError
from lmsize.model.count import n_params

ROW = {"id": "x", "model": "llama-3.1-8b", "seq_len": "4096", "micro_batch": "2",
       "gpu_norm": "A100-80GB", "framework": "transformers", "method": "full"}  # fmt: skip


def asked(**cells: str) -> Question:
    return question(ROW | cells)


def option(name: str, **cells: str) -> Any:
    return asked(**cells).options.get(name)


def codes(posed: Question) -> set[str]:
    return {a.code for a in posed.stated}


def test_a_full_row_asks_just_what_it_says() -> None:
    posed = asked(
        framework="Megatron-LM core", precision="bf16", optimizer="adam", sharding="zero1", n_gpus="64",
        dp="4", tp="8", pp="2", sequence_parallel="yes", recompute="selective", global_batch="256",
        flash_attention="yes", quant="", offload="none",
    )  # fmt: skip
    assert posed.options == {
        "method": "full", "tp": 8, "pp": 2, "accelerators": 64, "zero": 1, "stack": "megatron",
        "sequence_parallel": True, "seq_len": 4096, "micro_batch": 2, "global_batch": 256,
        "precision": "amp-bf16", "optimizer": "adam", "attention": "flash", "recompute": "selective",
    }  # fmt: skip
    assert codes(posed) == {"row-dropout"}
    assert posed.accelerator == "A100-80GB"


def test_what_is_silent_is_an_assumption() -> None:
    posed = asked(n_gpus="8")
    assert codes(posed) == {"row-sharding", "row-precision", "row-16bit", "row-optimizer",
                            "row-attention", "row-recompute"}  # fmt: skip


@pytest.mark.parametrize(
    ("framework", "sharding", "stack", "zero"),
    [
        ("HF Trainer", "zero3", "deepspeed", 3), ("HF Trainer + DeepSpeed", "none", "deepspeed", 0),
        ("HF Trainer", "fsdp", "transformers", 3), ("litgpt", "fsdp", "litgpt", 3),
        ("torchtitan FSDP2", "fsdp2", "torchtitan", 3), ("NeMo/Megatron-Core", "zero1", "megatron", 1),
        ("Megatron-DeepSpeed", "zero1", "deepspeed", 1), ("axolotl", "ddp", "transformers", 0),
        ("torchtune 0.5", "FULL_SHARD", "transformers", 3), ("never heard of it", "none", "transformers", 0),
    ],
)  # fmt: skip
def test_stacks(framework: str, sharding: str, stack: str, zero: int) -> None:
    posed = asked(framework=framework, sharding=sharding, n_gpus="8", dp="8")
    assert posed.options["stack"] == stack
    assert posed.options["zero"] == zero


def test_a_compiled_script_saves_what_a_compiler_keeps() -> None:
    assert asked(framework="nanochat", compile="yes").options["stack"] == "torchtitan"
    assert asked(framework="nanochat", compile="no").options["stack"] == "transformers"


@pytest.mark.parametrize(("devices", "taken"), [("2", 2), ("4", 4), ("1", 4), ("8", 4)])
def test_a_configuration_may_launch_fewer_than_the_machine_has(devices: str, taken: int) -> None:
    note = f"table Machine=4xA10G yaml devices={devices}"
    posed = asked(framework="litgpt", n_gpus="4", sharding="fsdp", notes=note)
    assert posed.options["accelerators"] == taken
    assert ("row-devices" in codes(posed)) == (taken == 2)


@pytest.mark.parametrize(
    ("cells", "precision"),
    [
        ({"precision": "bf16-true", "framework": "litgpt"}, "bf16"),
        ({"precision": "bfloat16", "framework": "PEFT 0.19 / transformers 5.13"}, "bf16"),
        ({"precision": "bf16", "framework": "torchtitan"}, "amp-bf16"),
        ({"precision": "bf16", "framework": "transformers"}, "amp-bf16"),
        ({"precision": "bf16", "optimizer_state_dtype": "bf16"}, "bf16"),
        ({"precision": "amp_bf16", "framework": "litgpt"}, "amp-bf16"),
        ({"precision": "fp16 AMP"}, "amp-fp16"),
        ({"precision": "bf16", "method": "lora"}, "bf16"),
        ({"precision": "MXFP8", "framework": "NeMo"}, "fp8"),
        ({"precision": "nf4", "method": "qlora"}, "bf16"),
    ],
)
def test_precisions(cells: dict[str, str], precision: str) -> None:
    assert option("precision", **cells) == precision


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ({"method": "ia3"}, "method"), ({"precision": "posit8"}, "precision"),
        ({"optimizer": "zzz"}, "optimizer"), ({"sharding": "some plan"}, "sharding"),
        ({"model": "nothing-9b"}, "architecture"), ({"offload": "optimizer->CPU"}, "offload"),
        ({"n_gpus": "6", "tp": "4"}, "layout"), ({"method": "qlora", "quant": "weird5"}, "quant"),
        ({"extra_config": "--rlhf_type dpo"}, "method"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_skipped_with_a_reason(cells: dict[str, str], why: str) -> None:
    with pytest.raises(UnmodelledError, match=why):
        asked(**cells)


def test_an_unknown_attention_word_takes_the_usual() -> None:
    posed = asked(flash_attention="warp drive")
    assert posed.options["attention"] == "sdpa"
    assert "row-attention" in codes(posed)


@pytest.mark.parametrize(
    ("targets", "named"),
    [
        ("q_proj,v_proj", "self_attn.q_proj,self_attn.v_proj"),
        ("q,v", "self_attn.q_proj,self_attn.v_proj"), ("query value", "self_attn.q_proj,self_attn.v_proj"),
        ("all-linear", "all-linear"), ("ALL (all linear)", "all-linear"), ("attention", "attention"),
        ("c_attn", "self_attn.k_proj,self_attn.q_proj,self_attn.v_proj"),
        ("w1,w2,w3", "mlp.down_proj,mlp.gate_proj,mlp.up_proj"),
        ("linear_qkv linear_proj",
         "self_attn.k_proj,self_attn.o_proj,self_attn.q_proj,self_attn.v_proj"),
        ("nothing_known", None),
    ],
)  # fmt: skip
def test_targets_of_other_codebases(targets: str, named: str | None) -> None:
    assert option("lora_targets", method="lora", lora_rank="8", lora_targets=targets) == named


def test_fused_projections_are_found_by_what_they_hold() -> None:
    cells = {"model": "falcon-7b", "method": "lora", "lora_rank": "8", "lora_targets": "q,v"}
    assert option("lora_targets", **cells) == "self_attention.query_key_value"


def test_columns_decide_over_the_label() -> None:
    whole, reduced = asked().model, asked(layers="4").model
    assert reduced.n_layers == 4
    assert whole.n_layers == 32
    assert n_params(reduced) < n_params(whole)


@pytest.mark.parametrize(
    ("label", "n_layers"),
    [("NousResearch/Meta-Llama-3-8B", 32), ("unsloth/Llama-3.2-3B-bnb-4bit", 28),
     ("someone/Qwen2.5-7B-Instruct-GPTQ-Int4", 28),
     ("nvidia/Qwen3-32B-NVFP4", 64), ("x/Llama-3.1-8B-q4_K_M", 32), ("Llama-2-7B (table 3)", 32),
     ("bigscience/bloomz-7b1", 30), ("DeepSeekV3 (tokendrop)", 61)],
)  # fmt: skip
def test_a_label_is_known_whoever_uploaded_it_and_however_stored(label: str, n_layers: int) -> None:
    assert asked(model=label).model.n_layers == n_layers


def test_a_shape_without_a_known_name_is_read_by_its_family() -> None:
    cells = {"hidden": "4096", "layers": "24", "heads": "32", "ffn": "16384", "vocab": "51200"}
    gpt = asked(model="GPT3-5B", **cells).model
    assert n_params(gpt) == pytest.approx(5.05e9, rel=0.02)
    llama = asked(
        model="own 7B", hidden="4096", layers="32", heads="32", ffn="11008", vocab="32000"
    ).model
    assert n_params(llama) == 6_738_415_616


def test_layers_follow_from_the_stated_parameters() -> None:
    posed = asked(model="GPT 187B", hidden="13824", ffn="55296", vocab="250880", params_b="187", tp="8",
                  n_gpus="8")  # fmt: skip
    assert n_params(posed.model) == pytest.approx(187e9, rel=0.01)
    assert {"row-layers", "row-heads"} <= codes(posed)


@given(st.dictionaries(st.sampled_from(COLUMNS), st.text(max_size=30), max_size=12))
def test_any_cells_make_a_question_or_a_reason(cells: dict[str, str]) -> None:
    try:
        posed = question(ROW | cells)
    except LmsizeError:
        return
    assert posed.options["method"] in ("full", "lora", "qlora")


def test_nine_in_ten_of_the_good_rows_are_modelled() -> None:
    for name in ("memory", "throughput", "fits", "megatron_ci_tiny_memory"):
        outcome: Counter[bool] = Counter()
        for row in shipped(name).rows:
            if row["quality"] in ("A", "B"):
                try:
                    outcome[bool(question(row))] += 1
                except UnmodelledError:
                    outcome[False] += 1
        assert outcome[True] >= 0.9 * outcome.total(), (name, outcome)


def test_a_batch_is_cut_as_the_framework_cuts_it() -> None:
    """torchtitan's pipelines: one micro-batch a stage; ColossalAI's batch is whole without one."""
    titan = {"framework": "torchtitan", "micro_batch": "32", "n_gpus": "128", "tp": "8", "sharding": "fsdp"}  # fmt: skip
    posed = asked(**titan, pp="8", global_batch="64")
    assert (posed.options["micro_batch"], posed.options["global_batch"]) == (4, 64)
    assert "row-pipeline-batch" in codes(posed)
    assert option("micro_batch", **titan) == 32
    colossal = {
        "framework": "ColossalAI",
        "micro_batch": "",
        "extra_config": "batch size per DP 36",
    }
    assert option("micro_batch", **colossal) == 36
    piped = asked(**colossal, pp="2", n_gpus="8", sharding="zero1")
    assert (piped.options["micro_batch"], piped.options["grad_accum"]) == (1, 36)


def test_what_does_not_compile_and_what_sums_in_16_bits() -> None:
    assert option("stack_options", framework="torchtitan", compile="no") == "no-compile"
    assert option("stack_options", framework="torchtitan", compile="yes") is None
    named = option("stack_options", framework="InternEvo", sharding="zero1")
    assert named == "no-fp32-sums,no-fused-adam,norm-of-copies"


def test_a_shape_that_only_its_label_names() -> None:
    posed = question({"id": "x", "model": "InternLM-20B", "framework": "InternEvo"})
    layer = 4 * 5120**2 + 3 * 5120 * 13824 + 2 * 5120
    assert n_params(posed.model) == 60 * layer + (2 * 103168 + 1) * 5120
    assert posed.model.n_layers == 60


def test_embeddings_that_take_the_place_of_a_layer() -> None:
    """BLOOM: 70 layers and two embeddings over 12 stages; 78 leave one for the last; 72 divide evenly."""
    bloom = {"framework": "Megatron-DeepSpeed", "model": "GPT 176B", "hidden": "14336", "heads": "112",
             "vocab": "250880", "n_gpus": "384", "tp": "4", "sharding": "zero1", "precision": "bf16"}  # fmt: skip
    posed = asked(**bloom, layers="70", pp="12")
    middle = "+".join(["6"] * 10)
    assert posed.options["stack_options"] == f"layers=megatron,stage-layers=5+{middle}+5"
    assert "row-stages" in codes(posed)
    assert option("stack_options", **bloom, layers="78", pp="12") == (
        "layers=megatron,stage-layers=" + "7+" * 11 + "1"
    )
    assert option("stack_options", **bloom, layers="72", pp="12") == "layers=megatron"


@pytest.mark.parametrize(
    ("framework", "notes", "options"),
    [
        ("HF Trainer + PEFT", "PyTorch 2.0 and CUDA 11.8", "older-foreach"), ("PEFT 0.4 / torch 1.13", "", "older-foreach"),
        ("HF Trainer + PEFT", "PyTorch 2.10", None), ("HF Trainer, torch 2.1", "", None), ("HF Trainer", "", None),
        ("litgpt", "torch==2.0.1", "older-foreach"), ("lit-gpt fork", "", "fused-kernels"), ("HF Trainer + DeepSpeed", "torch 2.0", None),
    ],
)  # fmt: skip
def test_a_version_of_torch_whose_adam_makes_two_copies(
    framework: str, notes: str, options: str | None
) -> None:
    """DeepSpeed steps by an Adam of its own."""
    posed = asked(framework=framework, notes=notes, method="full")
    assert posed.options.get("stack_options") == options
    assert ("row-version" in codes(posed)) == (options == "older-foreach")


def test_gradients_that_a_row_says_are_summed_in_fp32() -> None:
    row = {"framework": "Megatron-DeepSpeed", "sharding": "zero1", "precision": "bf16", "n_gpus": "8",
           "dp": "8", "notes": "BF16 optimizer accumulating grads in fp32 (unsharded)"}  # fmt: skip
    assert option("stack_options", **row) == "layers=megatron,fp32-sums"
    assert option("stack_options", **row | {"notes": ""}) == "layers=megatron"
    assert option("stack_options", **row | {"sharding": "zero2"}) == "layers=megatron"


def test_a_version_is_read_off_the_name_of_its_results() -> None:
    row = {"framework": "torchtitan", "compile": "yes"}
    old = asked(**row, source_path_or_section="benchmarks/llama3_202412.md")
    assert old.options["stack_options"] == "no-compiled-loss,ends-in-root,no-fused-norm"
    assert "row-version" in codes(old)
    eager = row | {"compile": "no"}
    older = option("stack_options", **eager, source_path_or_section="benchmarks/llama3_202412.md")
    assert older == "no-compile,ends-in-root,no-fused-norm"
    assert option("stack_options", **row, source_path_or_section="llama3_202506.md") == (
        "ends-in-root,no-fused-norm"
    )
    assert option("stack_options", **row, source_path_or_section="llama3_202508.md") is None
    assert option("stack_options", **row, source_path_or_section="commit 1202412") is None


def test_torchtitans_interleaved_parts_need_not_be_equal() -> None:
    row = {"framework": "torchtitan", "compile": "yes", "model": "Llama-3.1-405B", "n_gpus": "512",
           "dp": "8", "tp": "8", "pp": "8", "vp": "2", "global_batch": "256"}  # fmt: skip
    assert option("vp", **row) == 2


def test_torchaos_recipe_is_read_off_the_precision() -> None:
    row = {"framework": "torchtitan", "compile": "yes", "model": "Llama-3-8B"}
    named = option("stack_options", **row, precision="nvfp4 (layers 0-26) + bf16 tail")
    assert named == "fp8-recipe=nvfp4,bf16-last-layers=5"
    assert option("stack_options", **row, precision="mxfp8_cublas") == "fp8-recipe=mxfp8"
    gathers = option("stack_options", **row, precision="float8 tensorwise + fp8 all-gather + bf16")
    assert gathers == "fp8-recipe=tensorwise,fp8-all-gather"
    assert option("stack_options", **row, precision="bf16") is None


@pytest.mark.parametrize(("targets", "projections"), [
    ("c_attn,c_proj", ["attn.c_attn", "attn.c_proj", "mlp.c_proj"]),
    ("c_attn,attn.c_proj", ["attn.c_attn", "attn.c_proj"]), ("mlp.c_proj", ["mlp.c_proj"]),
])  # fmt: skip
def test_a_target_is_the_end_of_every_name_that_it_ends(
    targets: str, projections: list[str]
) -> None:
    """As peft matches them: Qwen's ``c_proj`` is attention's and the MLP's."""
    shape = {"model": "Qwen-7B", "hidden": "4096", "layers": "32", "heads": "32", "ffn": "11008"}
    cells = shape | {"method": "lora", "lora_rank": "8", "lora_targets": targets}
    assert option("lora_targets", **cells) == ",".join(projections)


def test_modules_trained_whole_are_read_beside_the_targets() -> None:
    cells = {
        "model": "Qwen2-7B", "method": "lora", "lora_rank": "8",
        "lora_targets": "q,v + wte,lm_head trained",
    }  # fmt: skip
    assert option("lora_targets", **cells) == "self_attn.q_proj,self_attn.v_proj"
    assert option("modules_to_save", **cells) == "embed_tokens,lm_head"


def test_the_longest_sample_of_the_data_is_met_once() -> None:
    assert option("lengths", notes="seq_len = longest Alpaca sample, run first") == "varied"
    assert option("loss", extra_config="--use_liger_kernel true") == "liger"
