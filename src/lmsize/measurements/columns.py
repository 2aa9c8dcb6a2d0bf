"""The columns of a file of measurements, in the order in which lmsize writes them.

The configuration comes first, then what was measured, then where it came from. An empty cell
means "not said".
"""

from __future__ import annotations

COLUMNS = (
    "id", "source_repo_or_url", "source_path_or_section", "model", "params_b", "hidden", "layers",
    "heads", "kv_heads", "head_dim", "ffn", "vocab", "moe_experts", "moe_topk", "moe_ffn",
    "seq_len", "micro_batch", "grad_accum", "global_batch", "gpu", "n_gpus", "dp", "tp", "pp", "cp",
    "ep", "vp", "sequence_parallel", "sharding", "precision", "optimizer", "optimizer_state_dtype",
    "recompute", "flash_attention", "method", "lora_rank", "lora_targets", "quant", "offload",
    "compile", "framework", "extra_config", "gpu_norm", "gpu_memory_gib", "outcome",
    "measured_peak_gib", "metric_definition", "measured_tokens_per_s_per_gpu",
    "measured_step_time_s", "measured_mfu", "measured_hfu", "measured_tflops_per_gpu",
    "mfu_definition", "reported_value", "derived", "quality", "split", "notes", "source_commit",
)  # fmt: skip
