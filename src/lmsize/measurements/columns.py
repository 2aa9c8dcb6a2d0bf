"""The columns of a file of measurements, and which kinds of measurement a header announces."""

from __future__ import annotations

from collections.abc import Collection

ARCHITECTURE = (
    "model", "params_b", "hidden", "layers", "heads", "kv_heads", "head_dim", "ffn", "vocab",
    "moe_experts", "moe_topk", "moe_ffn",
)  # fmt: skip
SETTINGS = (
    "seq_len", "micro_batch", "grad_accum", "global_batch", "gpu", "gpu_norm", "n_gpus", "dp", "tp",
    "pp", "cp", "ep", "vp", "sequence_parallel", "sharding", "precision", "optimizer",
    "optimizer_state_dtype", "recompute", "flash_attention", "method", "lora_rank", "lora_targets",
    "quant", "offload", "compile", "framework", "extra_config",
)  # fmt: skip
MEASURED_MEMORY = ("measured_peak_gib", "metric_definition")
MEASURED_TIME = (
    "measured_step_time_s", "measured_tokens_per_s_per_gpu", "measured_tflops_per_gpu",
    "measured_mfu", "measured_hfu", "mfu_definition",
)  # fmt: skip
MEASURED_FIT = ("outcome", "gpu_memory_gib")
ABOUT = (
    "quality", "split", "notes", "source_repo_or_url", "source_path_or_section", "source_commit",
    "reported_value", "derived",
)  # fmt: skip
# Every column of a training measurement, in the order in which lmsize writes them.
COLUMNS = (
    "id", *ARCHITECTURE, *SETTINGS, *MEASURED_MEMORY, *MEASURED_TIME, *MEASURED_FIT, *ABOUT,
)  # fmt: skip
RUN_COLUMNS = ("tokens_b", "gpu_hours", "days", "mfu", "tflops_per_gpu", "tokens_per_s_per_gpu")
SERVING_COLUMNS = (
    "engine", "kv_cache_dtype", "batch_size", "prompt_len", "output_len", "metric", "value", "unit",
)  # fmt: skip
KINDS = ("memory", "time", "fits", "run", "serving")


def kinds(header: Collection[str]) -> tuple[str, ...]:
    """What the rows under a header may measure: any of :data:`KINDS`, none if nothing."""
    has = set(header)
    found = []
    if "measured_peak_gib" in has:
        found.append("memory")
    if has & set(MEASURED_TIME[:-1]):
        found.append("time")
    if "outcome" in has:
        found.append("fits")
    if has & {"gpu_hours", "days"} and "measured_peak_gib" not in has:
        found.append("run")
    if {"metric", "value"} <= has:
        found.append("serving")
    return tuple(found)
