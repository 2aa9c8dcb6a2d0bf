"""Padded and packed micro-batches: fake steps hold what real ones do, and a mask costs what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import lmsize
from lmsize.errors import LmsizeError

GEMMA3 = {
    "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "hidden_size": 64,
    "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 16,
    "num_key_value_heads": 2, "vocab_size": 503, "sliding_window": 32, "pad_token_id": 0,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}  # fmt: skip
BERT = {
    "model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256, "vocab_size": 503,
    "max_position_embeddings": 256,
}  # fmt: skip
T5 = {
    "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 64, "d_kv": 16,
    "d_ff": 256, "num_layers": 2, "num_heads": 4, "vocab_size": 503, "decoder_start_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip
EAGER, CKPT = {"attention": "eager"}, {"recompute": "full"}


@pytest.mark.parametrize(
    ("model", "sequences", "options"),
    [
        ("llama", "padded", {}), ("llama", "packed", {"precision": "bf16"}),
        ("llama", "padded", {"precision": "fp32", **EAGER}), ("llama", "packed", CKPT),
        ("llama", "packed", {"micro_batch": 1}), ("llama", "padded", {"micro_batch": 1}),
        ("gemma3", "padded", EAGER), ("gemma3", "packed", EAGER), ("bert", "padded", {}),
        ("t5", "padded", {"precision": "fp32"}),
    ],
    ids=str,
)  # fmt: skip
def test_traced_peak_is_real(
    model: str, sequences: str, options: dict[str, Any], filled: Callable[..., Any],
    llama: dict[str, Any], real_peak: Callable[[Callable[[], Any]], int],
) -> None:  # fmt: skip
    from lmsize.step.training import built_step
    from lmsize.tracing.peaks import as_requested, peaks
    from lmsize.tracing.running import Device, traced

    config = {"llama": llama, "gemma3": GEMMA3, "bert": BERT, "t5": T5}[model]
    spec = filled(**{"micro_batch": 4, "seq_len": 64, **options})

    def build() -> Any:
        return built_step(config, spec, device="cpu", sequences=sequences)

    log = traced(build, Device("cpu"))
    found = max(p.n_bytes for p in peaks(log.entries, as_requested) if p.phase[0] == "2")
    assert found == pytest.approx(real_peak(build), rel=2e-4)


def test_the_packed_row_is_that_of_transformers(llama: dict[str, Any]) -> None:
    from transformers import DataCollatorWithFlattening

    from lmsize.step.batch import batch

    found = batch(llama, micro_batch=3, seq_len=8, sequences="packed")
    rows = found["input_ids"].view(3, 8).tolist()
    expected = DataCollatorWithFlattening()([{"input_ids": ids} for ids in rows])
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensor.dtype == found[name].dtype
        assert tensor.tolist() == found[name].tolist()


def peak(llama: dict[str, Any], sequences: str, **options: Any) -> int:
    asked = {"precision": "bf16", "micro_batch": 2, "seq_len": 512, "accelerator": "a100-80gb"}
    found = lmsize.train(llama, engine="trace", sequences=sequences, **{**asked, **options})
    text = next(one.text for one in found.assumptions if one.code == "trace-sequences")
    assert "(--sequences)" in text
    return found.memory.peak_allocated_bytes or 0


def test_a_mask_is_held_for_every_layer(llama: dict[str, Any]) -> None:
    """Flash attention takes no mask; the efficient kernel adds one of its own up in each layer."""
    full, padded, packed = (peak(llama, kind) for kind in ("full", "padded", "packed"))
    masks = 2 * llama["num_hidden_layers"] * 512 * 512 * 2
    assert padded - full > masks
    assert packed - full > 2 * masks  # one row of twice the length


@pytest.mark.parametrize(
    ("config", "sequences", "said"),
    [(T5, "packed", "takes no position_ids"), (BERT, "ragged", "full, padded, packed")],
)
def test_refused(config: dict[str, Any], sequences: str, said: str) -> None:
    with pytest.raises(LmsizeError, match="--sequences") as caught:
        lmsize.train(config, engine="trace", seq_len=32, sequences=sequences)
    assert said in str(caught.value)
