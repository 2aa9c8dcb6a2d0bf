"""Spellings that the package's own rows do not have: what matters is the words, not the string."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsize.catalogue import built_in
from lmsize.measurements.frameworks import frameworks
from lmsize.measurements.layouts import ZERO
from lmsize.measurements.measured import METRICS
from lmsize.measurements.methods import METHODS
from lmsize.measurements.words import found_words, read, segmented, tables
from lmsize.workload.training import ATTENTION, RECOMPUTE

SPELLINGS = {
    "precision": {
        "bf16": ["bf16", "BF-16", "torch.bfloat16", "bf16-mixed", "bf16-true", "bf16 params, fp32 grads"],
        "fp16": ["float16", "16-true", "O2 fp16", "half", "FP16 AMP"],
        "fp8": ["fp8", "float8_rowwise", "MXFP8 + BF16", "e4m3", "FP8 delayed scaling", "fp8 hybrid",
                "bf16+fp8(hybrid)", "float8 tensorwise linears + bf16", "FP8 blockwise"],
        "fp4": ["NVFP4", "mxfp4 (all but the last layers)"],
        "tf32": ["TF32", "TensorFloat-32"],
        "fp32": ["fp32", "float32", "32-true", "32"],
        "unread": ["fp8/bf16 not parsed", "unknown"],
        None: ["int8", "posit16", "binary"],
    },
    "optimizer": {
        "adamw": ["AdamW", "torch.optim.AdamW", "decoupled_adamw", "adamw_hf", "AdamW (assumed)"],
        "adamw-fused": ["adamw_torch_fused", "adamw_apex_fused", "AdamW fused"],
        "adam": ["FusedAdam", "DeepSpeedCPUAdam", "distributed_fused_adam", "dist opt adam", "TE FusedAdam"],
        "adamw8bit": ["adamw_bnb_8bit", "AdamW8bit", "bnb AdamW 8-bit", "adamw_8bit"],
        "adamw8bit-torchao": ["adamw_torch_8bit"],
        "adamw4bit-torchao": ["adamw_torch_4bit"],
        "paged-adamw8bit": ["PagedAdamW8bit", "paged_adamw_8bit", "bnb.optim.PagedAdamW8bit"],
        "paged-adamw": ["paged_adamw_32bit", "PagedAdamW (bnb)"],
        "paged-lion8bit": ["paged_lion_8bit"],
        "lion": ["Lion"], "adafactor": ["Adafactor"], "muon": ["Muon + AdamW", "dist_muon"],
        "galore-adamw8bit": ["galore_adamw_8bit"], "apollo-adamw": ["apollo_adamw"],
        "schedule-free-adamw": ["schedule_free_adamw"], "stable-adamw": ["stable_adamw"],
        "adam-mini": ["Adam-mini"], "sgd-momentum": ["SGD with momentum 0.9"], "lomo": ["LOMO"],
        None: ["BAdam (block-coordinate Adam)", "QuickAdamant", "lora-fa", "zzz"],
    },
    "sharding": {
        "zero1": ["ZeRO-1", "zero_stage: 1", "distributed optimizer", "low_level_zero", "z1"],
        "zero2": ["DeepSpeed ZeRO Stage 2", "SHARD_GRAD_OP", "optim_grads", "zero2"],
        "zero3": ["stage 3", "FULL_SHARD", "ZeRO3", "gemini", "ZeRO-Infinity"],
        "fsdp": ["FSDP2 (fully_shard)", "Megatron-FSDP", "fsdp"],
        "hsdp": ["HYBRID_SHARD", "HSDP"],
        "ddp": ["DDP", "NO_SHARD", "dp=8", "DistributedDataParallel"],
        "none": ["none", "no", "single device"],
        "layers": ["naive layer split (device_map)"],
        None: ["auto", "some plan"],
    },
    "recompute": {
        "full": ["full", "yes", "gradient_checkpointing=True", "unsloth", "uniform 1", "reentrant"],
        "selective": ["selective (op)", "core_attn", "select"],
        "none": ["None", "off", "no"],
    },
    "attention": {
        "flash": ["flash_attention_2", "FlashAttention-3", "FA4", "fa2", "cuDNN fused", "flex_attention",
                  "TE fused", "yes", "yes (v2)", "ring flash"],
        "sdpa": ["sdpa", "xformers", "yes (SDPA)", "memory-efficient"],
        "eager": ["eager", "no", "unfused", "math"],
        None: ["warp"],
    },
    "method": {
        "full": ["full fine-tuning", "full_finetune_distributed", "SFT", "pretraining", "continued pre-training"],
        "lora": ["LoRA", "lora_finetune_single_device", "LoRA+"],
        "qlora": ["QLoRA (4bit)", "Q-LoRA", "lora 4-bit"],
        "dora": ["DoRA"], "galore": ["full (GaLore)"],
        "other": ["ia3", "prefix_tuning", "full (LISA)", "DPO full", "OFT"],
    },
    "quant": {
        "nf4": ["nf4 + double quant", "bnb nf4-dq"], "nf4-single": ["4-bit", "load_in_4bit", "bnb nf4"],
        "int8": ["8bit", "bitsandbytes 8-bit", "LLM.int8()"], "gptq-int4": ["GPTQ-4bit", "int4 (gptq)"],
        "gptq-int8": ["int8 (gptq)"], "awq-int4": ["AWQ"], "fp8": ["fp8"], "int4": ["hqq", "w4a16"],
    },
    "offload": {
        "optimizer": ["optimizer->CPU", "CPU offload of optimizer"], "none": ["False", "none"],
        "activations": ["activation offloading"], "params": ["params+optimizer (ZeRO-3 CPU)"],
    },
    "metric": {
        "allocated": ["torch.cuda.max_memory_allocated", "peak active (GiB)", "max allocated (profiler)"],
        "reserved": ["max_memory_reserved", "peak reserved", "torchtitan Memory column"],
        "driver": ["nvidia-smi", "NVML used", "rocm-smi", "driver (mem_get_info)"],
        "formula": ["paper-formula, NOT an nvidia-smi measurement", "theoretical"],
    },
    "outcome": {
        "oom": ["OOM", "CUDA out of memory", "does not fit"], "fits": ["fits (near limit)", "works"],
        "max_fit": ["max_fit", "longest that fits"],
    },
}  # fmt: skip
CASES = [
    (table, cell, meaning)
    for table, meanings in SPELLINGS.items()
    for meaning, cells in meanings.items()
    for cell in cells
]


@pytest.mark.parametrize(("table", "cell", "meaning"), CASES)
def test_cells_are_read_by_their_words(table: str, cell: str, meaning: str | None) -> None:
    assert read(table, cell).meaning == meaning


@given(st.sampled_from([c for c in CASES if c[2] is not None]), st.sampled_from(["upper", "lower"]))
def test_case_and_outer_punctuation_do_not_matter(case: tuple[str, str, str], how: str) -> None:
    table, cell, meaning = case
    assert read(table, f"  {getattr(cell, how)()};  ").meaning == meaning


@given(st.sampled_from(sorted(tables())), st.text(max_size=300))
def test_any_text_is_read_as_a_known_meaning_or_none(table: str, cell: str) -> None:
    assert read(table, cell).meaning in {None, *tables()[table].meanings}


def test_a_word_may_be_glued_or_split() -> None:
    vocabulary = frozenset({"paged", "adamw", "8bit", "zero", "stage3"})
    assert segmented("pagedadamw8bit", vocabulary) == ("paged", "adamw", "8bit")
    assert segmented("badamw", vocabulary) is None
    assert found_words("ZeRO Stage-3 thing".lower(), vocabulary) == (("zero", "stage3"), ("thing",))


def test_meanings_lead_somewhere() -> None:
    """Every meaning is a setting that the engine takes, or is left out on purpose."""
    known = tables()
    for optimizer in known["optimizer"].meanings:
        assert built_in().optimizer(optimizer).name == optimizer
    for quant in set(known["quant"].meanings) - {"none"}:
        assert built_in().precision(quant).name == quant
    assert set(known["sharding"].meanings) == set(ZERO)
    assert set(known["attention"].meanings) == set(ATTENTION)
    assert set(known["recompute"].meanings) == set(RECOMPUTE)
    assert set(known["metric"].meanings) - {"formula"} == set(METRICS)
    assert set(known["method"].meanings) - {"other"} == set(METHODS)
    assert set(known["framework"].meanings) == set(frameworks())


def test_framework_defaults_are_settings() -> None:
    for frame in frameworks().values():
        assert frame.attention in ATTENTION
        assert frame.recompute in RECOMPUTE
        assert frame.sharding in ZERO
        assert {frame.bare_16bit, frame.adapted_16bit} <= {"pure", "amp"}
        built_in().optimizer(frame.optimizer)
        for stack in {
            frame.stack,
            frame.zero_stack or frame.stack,
            frame.fsdp_stack or frame.stack,
        }:
            built_in().recipe(stack, "bf16")
        assert frame.source
