"""Linears of few bits and 8-bit optimizers: what stands in for bitsandbytes, against bitsandbytes.

``few_bits.csv`` holds the peaks of real steps on the CPU with bitsandbytes 0.50.2. The trace has to
meet them everywhere; where bitsandbytes is installed they are measured again.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmsize.numbers import ceil_div

# As in test_real.py, each with a bias, a transposed weight or a norm of its own.
LLAMA_LIKE = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 503,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**LLAMA_LIKE, "architectures": ["LlamaForCausalLM"]},
    "qwen2": {**LLAMA_LIKE, "architectures": ["Qwen2ForCausalLM"]},
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_layer": 2, "n_head": 4,
        "n_positions": 256, "vocab_size": 503, "bos_token_id": 0, "eos_token_id": 0,
    },
    "opt": {
        "architectures": ["OPTForCausalLM"], "hidden_size": 64, "ffn_dim": 256,
        "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 503,
        "max_position_embeddings": 256, "word_embed_proj_dim": 64,
    },
}  # fmt: skip
RECORDED = {
    (row["model"], row["options"]): int(row["peak_bytes"])
    for row in csv.DictReader(
        (Path(__file__).parent / "few_bits.csv").read_text("utf-8").splitlines()
    )
}


def build_of(model: str, options: str, filled: Callable[..., Any]) -> Callable[[], Any]:
    from lmsize.step.training import built_step

    spec = filled(**json.loads(options))
    return lambda: built_step({"model_type": model, **CONFIGS[model]}, spec, device="cpu")


@pytest.mark.parametrize(("model", "options"), RECORDED)
def test_traced_peak_is_the_recorded(
    model: str, options: str, filled: Callable[..., Any]
) -> None:  # fmt: skip
    from lmsize.tracing.peaks import as_requested, peaks
    from lmsize.tracing.running import Device, traced

    log = traced(build_of(model, options, filled), Device("cpu"))
    found = max(p.n_bytes for p in peaks(log.entries, as_requested) if p.phase.startswith("2."))
    assert found == pytest.approx(RECORDED[model, options], rel=2e-4)


@pytest.mark.filterwarnings("ignore")  # bitsandbytes warns of what it lacks on a CPU
@pytest.mark.parametrize(("model", "options"), RECORDED)
def test_recorded_peak_is_real(
    model: str, options: str, filled: Callable[..., Any],
    real_peak: Callable[[Callable[[], Any]], int],
) -> None:  # fmt: skip
    pytest.importorskip("bitsandbytes")
    assert real_peak(build_of(model, options, filled)) == pytest.approx(
        RECORDED[model, options], rel=2e-4
    )


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("shape", [(64, 160), (33, 64), (128, 1024)])
def test_weights_are_stored_as_bitsandbytes_does(shape: tuple[int, int], nested: bool) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    import torch

    from lmsize.step.stand_in.linears import Linear4bit

    weight = torch.randn(shape)
    ours = Linear4bit(weight, None, compute=torch.float32, nested=nested)
    packed, state = bnb.functional.quantize_4bit(
        weight, compress_statistics=nested, quant_type="nf4"
    )
    theirs = {"absmax": state.absmax, "code": state.code}
    if nested:
        theirs |= {
            "offset": state.offset, "nested_absmax": state.state2.absmax,
            "nested_code": state.state2.code,
        }  # fmt: skip
    assert (ours.weight.shape, ours.weight.dtype) == (packed.shape, packed.dtype)
    assert {k: (t.shape, t.dtype) for k, t in ours.quant_state.items()} == {
        k: (t.shape, t.dtype) for k, t in theirs.items()
    }


def test_weights_on_an_accelerator(llama: dict[str, Any]) -> None:
    """Two weights to a byte, their scales and tables; the rest in fp32."""
    import lmsize

    found = lmsize.train(llama, engine="trace", method="qlora", seq_len=64).memory

    def blocks(n_bytes: int) -> int:
        return ceil_div(n_bytes, 512) * 512

    def linear(n: int) -> int:
        scales = ceil_div(n, 64)
        parts = (ceil_div(n, 2), scales, 4 * 16, 4, 4 * ceil_div(scales, 256), 4 * 256)
        return sum(blocks(part) for part in parts)

    h, f, kv, v = 64, 160, 32, 503
    layer = 2 * linear(h * h) + 2 * linear(h * kv) + 3 * linear(h * f) + 2 * blocks(4 * h)
    assert found.components["weights"] == 3 * layer + 2 * blocks(4 * v * h) + blocks(4 * h)


def test_paged_states_are_not_on_the_accelerator(llama: dict[str, Any]) -> None:
    """States of a tensor of 100,000 numbers lie in managed memory; smaller ones stay."""
    import lmsize

    wide = {**llama, "vocab_size": 2000}  # embeddings of 128,000 numbers, all else is smaller
    options = {"engine": "trace", "seq_len": 64, "precision": "bf16"}
    plain = lmsize.train(wide, optimizer="adamw32bit", **options)
    paged = lmsize.train(wide, optimizer="paged-adamw", **options)
    states = [e.memory.components["optimizer_states"] or 0 for e in (plain, paged)]
    managed = 2 * 2 * 4 * 2000 * 64  # two states, embedding and head, fp32
    assert states[0] - states[1] == managed
    said = {a.code: a.text for a in paged.assumptions}
    assert f"{managed / 2**20:.1f} MiB" in said["trace-paged-states"]
