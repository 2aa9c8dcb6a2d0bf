"""Dense decoders: what a count of parameters cannot show, and types no class builds."""

from __future__ import annotations

from typing import Any

import pytest

from lmsize.errors import ModelError
from lmsize.model.count import n_params
from lmsize.model.parts import AttentionCore
from lmsize.model.read import read_config
from lmsize.model.spec import ModelSpec

SMALL = {
    "hidden_size": 64, "intermediate_size": 150, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 331,
}  # fmt: skip


def spec_of(model_type: str, **keys: Any) -> ModelSpec:
    return read_config({**SMALL, "model_type": model_type, **keys}, name="case")


def cores(spec: ModelSpec) -> list[AttentionCore]:
    return [
        part
        for _, run in spec.runs()
        for part in run.block.parts * run.n_layers
        if isinstance(part, AttentionCore)
    ]


def windows(spec: ModelSpec) -> list[int | None]:
    return [core.window for core in cores(spec)]


@pytest.mark.parametrize(
    ("model_type", "keys", "expected"),
    [
        ("llama", {"sliding_window": 8}, [None] * 6),
        ("mistral", {}, [4096] * 6),
        ("mistral", {"sliding_window": None}, [None] * 6),
        ("qwen2", {"sliding_window": 8}, [None] * 6),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 4},
         [None] * 4 + [8] * 2),
        ("gemma2", {"sliding_window": 8}, [8, None] * 3),
        ("gemma3_text", {"sliding_window": 8, "sliding_window_pattern": 3}, [8, 8, None] * 2),
        ("gemma3_text", {"sliding_window": 8, "use_bidirectional_attention": True},
         [9] * 5 + [None]),  # |query - key| < 8 // 2 + 1
        ("granite_swa", {"sliding_window": 8}, [None, 8, 8, 8, None, 8]),
        ("exaone4", {"sliding_window": 8, "sliding_window_pattern": "LLG"}, [8, 8, None] * 2),
        ("exaone4", {"sliding_window": None}, [None] * 6),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 8},
         [None, None, None, 8, None, None]),
        ("modernbert-decoder", {"local_attention": 16}, [None, 8, 8] * 2),
        ("not-a-type", {"sliding_window": 8}, [8] * 6),
    ],
)  # fmt: skip
def test_windows(model_type: str, keys: dict[str, Any], expected: list[int | None]) -> None:
    assert windows(spec_of(model_type, **keys)) == expected


def test_null_is_not_the_class_default() -> None:
    """Mistral's class has 8 key-value heads, but null means as many as query heads."""
    spec = spec_of("mistral", num_attention_heads=16, num_key_value_heads=None)
    assert {core.n_kv_heads for core in cores(spec)} == {16}


@pytest.mark.parametrize("model_type", ["internlm3", "iquestcoder"])
def test_types_that_load_as_llama(model_type: str) -> None:
    keys = {"head_dim": 16}
    assert n_params(spec_of(model_type, **keys)) == n_params(spec_of("llama", **keys))


def test_internlm3_spells_its_biases_otherwise() -> None:
    spec = spec_of("internlm3", qkv_bias=True, bias=True, head_dim=16)
    like = spec_of("llama", attention_bias=True, mlp_bias=True, head_dim=16)
    assert n_params(spec) == n_params(like)


def test_latent_attention_caches_the_latent() -> None:
    keys = {"kv_lora_rank": 20, "q_lora_rank": None, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8}
    core = cores(spec_of("minicpm3", **keys))[0]
    assert (core.cached_per_token, core.head_dim, core.v_head_dim) == (24, 12, 16)


def test_differential_attention_weighs_pairs_of_values() -> None:
    core = cores(spec_of("diffllama"))[0]
    assert (core.head_dim, core.v_head_dim, core.cached_per_token) == (16, 32, 64)


def test_recurrent_stacks_run_often_but_are_held_once() -> None:
    once = spec_of("hrm_text", num_hidden_layers=2, H_cycles=1, L_cycles=1)
    often = spec_of("hrm_text", num_hidden_layers=2, H_cycles=3, L_cycles=4)
    assert n_params(once) == n_params(often)
    assert (once.n_layers, often.n_layers, len(cores(often))) == (4, 30, 30)


MIMO_7B = {
    "num_hidden_layers": 36, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 11008, "vocab_size": 151680,
    "attention_bias": True, "num_nextn_predict_layers": 1, "tie_word_embeddings": False,
}  # fmt: skip
QWEN_7B = {
    "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "kv_channels": 128,
    "intermediate_size": 22016, "vocab_size": 151936,
}  # fmt: skip
PALM_540B = {
    "hidden_size": 18432, "intermediate_size": 73728, "num_hidden_layers": 118,
    "num_attention_heads": 48, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 256000,
}  # fmt: skip
GOPHER_280B = {
    "hidden_size": 16384, "intermediate_size": 65536, "num_hidden_layers": 80,
    "num_attention_heads": 128, "num_key_value_heads": None, "vocab_size": 32000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "keys", "expected"),
    [
        ("mimo", MIMO_7B, 7_833_409_536),  # as in the index of its checkpoint
        ("qwen", QWEN_7B, 7_721_324_544),  # as ms-swift counts them
        ("_palm", PALM_540B, 540_356_474_880),
        ("_gopher", GOPHER_280B, 279_697_162_240),
    ],
)
def test_models_without_a_class(model_type: str, keys: dict[str, Any], expected: int) -> None:
    assert n_params(spec_of(model_type, **keys)) == expected


def test_lamda_takes_its_vocabulary_from_the_paper() -> None:
    keys = {k: v for k, v in SMALL.items() if k != "vocab_size"}
    spec = read_config({**keys, "model_type": "_lamda"}, name="case")
    assert spec.vocab_size == 32_000
    assert any(a.code == "vocabulary" for a in spec.assumptions)


# -- Nemotron Super: layers that search has thinned out ------------------------------------------

KEPT = {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 2.0}}
DROPPED = {"attention": {"no_op": True}, "ffn": {"no_op": True}}
LINEAR = {"attention": {"replace_with_linear": True}, "ffn": {"replace_with_linear": True}}


def nas(*blocks: object) -> ModelSpec:
    keys = {"num_hidden_layers": len(blocks), "block_configs": list(blocks)}
    return spec_of("nemotron-nas", intermediate_size=None, num_key_value_heads=None, **keys)


def test_searched_layers_differ() -> None:
    base = n_params(nas(DROPPED))
    assert base == 2 * 331 * 64 + 64
    assert n_params(nas(LINEAR)) - base == 2 * (64 * 64 + 64)
    # 2 / 3 of 2 * 64, rounded up to a multiple of 256
    mlp, attn = 3 * 64 * 256 + 64, 2 * 64 * 64 + 2 * 64 * 32 + 64
    assert n_params(nas(KEPT)) - base == mlp + attn


@pytest.mark.parametrize(
    "block",
    [
        None,
        {},
        {"attention": {"n_heads_in_group": 3}, "ffn": {"ffn_mult": 1.0}},
        {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 0}},
        {"attention": {"n_heads_in_group": 2}, "ffn": {}},
    ],
)
def test_searched_layers_that_make_no_sense(block: object) -> None:
    with pytest.raises(ModelError, match="block_configs"):
        nas(block)


@pytest.mark.parametrize(
    ("model_type", "keys", "key"),
    [
        ("llama", {"num_attention_heads": 5}, "num_attention_heads"),
        ("mistral", {"num_attention_heads": 128, "head_dim": None}, "num_attention_heads"),
        ("diffllama", {"num_key_value_heads": 1}, "num_key_value_heads"),
        ("gemma2", {"layer_types": ["sliding_attention"]}, "layer_types"),
        ("hrm_text", {"H_cycles": 10**6}, "H_cycles"),
    ],
)
def test_bad_values_name_their_key(model_type: str, keys: dict[str, Any], key: str) -> None:
    with pytest.raises(ModelError, match=key):
        spec_of(model_type, **keys)
