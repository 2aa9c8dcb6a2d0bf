"""Fake tensors against a real step on the CPU: the traced peak is the allocator's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

LLAMA_LIKE = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 503,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**LLAMA_LIKE, "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 3},
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_layer": 2, "n_head": 4,
        "n_positions": 256, "vocab_size": 503, "bos_token_id": 0, "eos_token_id": 0,
    },
    "bert": {
        "architectures": ["BertForMaskedLM"], "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 256, "vocab_size": 503,
        "max_position_embeddings": 256,
    },
    "t5": {
        "architectures": ["T5ForConditionalGeneration"], "d_model": 64, "d_kv": 16, "d_ff": 256,
        "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "vocab_size": 503,
        "decoder_start_token_id": 0, "pad_token_id": 0,
    },
    "mixtral": {
        **LLAMA_LIKE, "architectures": ["MixtralForCausalLM"], "intermediate_size": 128,
        "num_local_experts": 4, "num_experts_per_tok": 2,
    },
    "qwen3": {
        **LLAMA_LIKE, "architectures": ["Qwen3ForCausalLM"], "head_dim": 16,
        "tie_word_embeddings": True,
    },
    "gemma2": {
        **LLAMA_LIKE, "architectures": ["Gemma2ForCausalLM"], "head_dim": 16, "sliding_window": 32,
    },
    "mamba": {
        "architectures": ["MambaForCausalLM"], "hidden_size": 64, "state_size": 8,
        "num_hidden_layers": 2, "vocab_size": 503,
    },
    "opt": {
        "architectures": ["OPTForCausalLM"], "hidden_size": 64, "ffn_dim": 256,
        "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 503,
        "max_position_embeddings": 256, "word_embed_proj_dim": 64,
    },
    "phi3": {
        **LLAMA_LIKE, "architectures": ["Phi3ForCausalLM"], "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "bart": {
        "architectures": ["BartForConditionalGeneration"], "d_model": 64, "encoder_layers": 2,
        "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 503,
        "max_position_embeddings": 256, "pad_token_id": 1, "decoder_start_token_id": 2,
    },
}  # fmt: skip
FP32 = {"precision": "fp32"}
BF16 = {"precision": "bf16"}
EAGER = {"attention": "eager"}
EAGER_BF16 = {**EAGER, **BF16}
CKPT = {"recompute": "full"}
LORA = {"method": "lora", **FP32}
SGD = {"optimizer": "sgd-momentum", **FP32}
ACCUM = {"grad_accum": 2}
CASES = [
    *(("llama", o) for o in (FP32, BF16, {}, EAGER, CKPT, LORA, SGD, ACCUM, CKPT | FP32)),
    *(("gpt2", o) for o in (FP32, BF16, {}, EAGER, LORA, ACCUM, CKPT | FP32)),
    *(("bert", o) for o in (FP32, EAGER, {}, SGD, CKPT | FP32)),
    *(("t5", o) for o in (FP32, {}, EAGER, SGD, CKPT | FP32)),
    *(("mixtral", o) for o in (FP32, BF16, {}, LORA)),
    *(("qwen3", o) for o in (FP32, BF16, {}, EAGER, CKPT, LORA)),
    *(("gemma2", o) for o in (EAGER, EAGER_BF16)),
    ("mamba", EAGER),
    *(("opt", o) for o in (BF16, {}, CKPT, LORA)),
    *(("phi3", o) for o in (FP32, BF16, {})),
    *(("bart", o) for o in (FP32, EAGER, {}, LORA)),
]
# What goes beyond the training question: how the step is run.
RUNS = [
    {"optimizer_implementation": "foreach"},
    {"optimizer_implementation": "fused"},
    {"clip_grad_norm": 1.0},
    {"keep_outputs": True},
]


def steady_peak(log: Any) -> int:
    from lmsize.tracing.peaks import as_requested, peaks

    return max(p.n_bytes for p in peaks(log.entries, as_requested) if p.phase.startswith("2."))


@pytest.mark.parametrize(("model", "options"), CASES, ids=lambda o: str(o).replace(" ", ""))
def test_traced_peak_is_real(
    model: str, options: dict[str, Any], filled: Callable[..., Any],
    real_peak: Callable[[Callable[[], Any]], int],
) -> None:  # fmt: skip
    from lmsize.step.training import built_step
    from lmsize.tracing.running import Device, traced

    spec = filled(micro_batch=4, seq_len=64, **options)

    def build() -> Any:
        return built_step({"model_type": model, **CONFIGS[model]}, spec, device="cpu")

    traced_bytes = steady_peak(traced(build, Device("cpu")))
    assert traced_bytes == pytest.approx(real_peak(build), rel=2e-4)


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_other_runs_are_real(
    run: dict[str, Any], filled: Callable[..., Any], llama: dict[str, Any],
    real_peak: Callable[[Callable[[], Any]], int],
) -> None:  # fmt: skip
    from lmsize.step.training import built_step
    from lmsize.tracing.running import Device, traced

    def build() -> Any:
        return built_step(llama, filled(precision="fp32"), device="cpu", **run)

    assert steady_peak(traced(build, Device("cpu"))) == pytest.approx(real_peak(build), rel=2e-4)


def test_reentrant_checkpointing_is_real(
    filled: Callable[..., Any], llama: dict[str, Any], real_peak: Callable[[Callable[[], Any]], int]
) -> None:
    from lmsize.step.training import built_step
    from lmsize.tracing.running import Device, traced

    spec = filled(precision="fp32", recompute="full", micro_batch=4)

    def build() -> Any:
        return built_step(llama, spec, device="cpu", reentrant=True)

    assert steady_peak(traced(build, Device("cpu"))) == pytest.approx(real_peak(build), rel=2e-4)
