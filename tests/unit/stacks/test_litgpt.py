"""litgpt's layers and losses against what its code saves, term by term."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import lmsize
from lmsize.model.parts import Linear
from lmsize.model.read import read_config
from lmsize.model.spec import Block, ModelSpec
from lmsize.stacks import litgpt
from lmsize.stacks.layer import layer_program
from lmsize.stacks.setting import Setting
from lmsize.tape.liveness import forward

B, S, H, F, A, D, V = 2, 256, 512, 1408, 8, 64, 1024
T = B * S
SCALE = 4 * H  # a norm's weight in fp32
ONCE = 1024 + 2 * SCALE  # seeds of the attention kernel, both weights
SHAPE: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": H,
    "intermediate_size": F, "num_hidden_layers": 4, "num_attention_heads": A, "vocab_size": V,
}  # fmt: skip
LLAMA = read_config({**SHAPE, "num_key_value_heads": A}, name="llama")
GROUPED = read_config({**SHAPE, "num_key_value_heads": 2}, name="grouped")
TIED = read_config({**SHAPE, "num_key_value_heads": A, "tie_word_embeddings": True}, name="tied")
NORMS = 2 * (4 * H + 4)  # the input in fp32, a root a row
MLP = 6 * F  # the gate, its activation and the other half
ADAPTER = H + 2 * H  # a mask and what it leaves, for lora_A
R = 8


def layer(model: ModelSpec) -> Block:
    return next(run.block for _, run in model.runs() if run.block.role == "layer")


def saved(model: ModelSpec, names: str, **options: Any) -> int:
    ranks = tuple(
        (p.name, R) for p in layer(model).parts
        if isinstance(p, Linear) and p.name.rpartition(".")[2] in names.split()
    )  # fmt: skip
    setting = Setting(
        micro_batch=B, seq_len=S, conduct=model.conduct, weight_itemsize=2, quant_itemsize=2,
        trains_base=False, ranks=ranks, adapting=litgpt.ADAPTING, **options,
    )  # fmt: skip
    program = layer_program(
        layer(model), setting, litgpt.STYLE, width=H, itemsize=2, needs_grad=True
    )
    return int(forward(program).saved)


def test_lora_on_queries_and_values_keeps_the_copy_that_is_padded() -> None:
    attention = 6 * H + 2 * H + 2 * H + 2 * H + 4 * A  # qkv (for v), q and k turned, output
    per_token = NORMS + ADAPTER + attention + 4 * H + 2 * 2 * R + MLP
    assert saved(LLAMA, "q_proj v_proj") == T * per_token + ONCE


def test_lora_on_all_three_needs_no_padding() -> None:
    some, every = saved(LLAMA, "q_proj v_proj"), saved(LLAMA, "q_proj k_proj v_proj")
    assert some - every == T * (4 * H - 2 * R)


def test_keys_and_values_of_few_heads_are_repeated() -> None:
    attention = 4 * 2 * H + 4 * A  # q, k and v of all heads, output
    per_token = NORMS + ADAPTER + attention + 2 * (H + 2 * D) + 2 * 2 * R + MLP
    assert saved(GROUPED, "q_proj v_proj") == T * per_token + ONCE


def test_bitsandbytes_of_the_time_keeps_every_input() -> None:
    inputs = 2 * H + 2 * H + 2 * H + 2 * F  # both norms, attention by token, the gated product
    whole = saved(LLAMA, "q_proj v_proj", quant="nf4")
    assert whole - saved(LLAMA, "q_proj v_proj") == T * inputs


def test_the_head_is_a_linear_of_its_own() -> None:
    built = litgpt.built(TIED)
    plain = lmsize.train(TIED, method="full", stack="transformers", precision="bf16")
    own = lmsize.train(TIED, method="full", stack="litgpt", precision="bf16")
    assert own.parameters.total is not None
    assert own.parameters.total - (plain.parameters.total or 0) == V * H
    head = next(
        p for _, r in built.runs() for p in r.block.parts if getattr(p, "name", "") == "lm_head"
    )
    assert isinstance(head, Linear)
    assert head.adaptable


def test_adapters_have_the_types_of_the_base() -> None:
    asked: dict[str, Any] = {"method": "lora", "precision": "bf16"}
    own = lmsize.train(LLAMA, stack="litgpt", **asked).memory.components
    peft = lmsize.train(LLAMA, stack="transformers", **asked).memory.components
    assert (own["adapter_weights"] or 0) * 2 < (peft["adapter_weights"] or 0) * 1.1


@pytest.mark.parametrize("method", ["full", "lora"])
def test_fsdp_adds_gradients_up_whole_until_the_last_micro_batch(method: str) -> None:
    asked: dict[str, Any] = {
        "stack": "litgpt",
        "precision": "bf16",
        "method": method,
        "accelerators": 4,
        "zero": 3,
    }
    at_once = lmsize.train(LLAMA, grad_accum=1, **asked).memory.peak_allocated_bytes or 0
    in_parts = lmsize.train(LLAMA, grad_accum=4, **asked).memory.peak_allocated_bytes or 0
    layers = sum(p.n_params for p in _layers(LLAMA))
    assert in_parts - at_once > 2 * layers / 4  # at least what three other ranks hold else


def _layers(model: ModelSpec) -> list[Any]:
    from lmsize.layout.degrees import Layout
    from lmsize.layout.shares import stages, stored_parts

    return [
        p
        for s in stages(model, 1)
        for p in stored_parts(s, Layout(), trainable=True)
        if p.is_hidden
    ]


def test_the_lost_reduction_is_no_matter_on_one_accelerator() -> None:
    asked: dict[str, Any] = {"stack": "litgpt", "precision": "bf16", "method": "full"}
    one = lmsize.train(LLAMA, zero=3, **asked).memory
    assert (
        one.peak_allocated_bytes == lmsize.train(LLAMA, zero=0, **asked).memory.peak_allocated_bytes
    )


def test_log_probabilities_stand_beside_fp32_logits() -> None:
    from lmsize.stacks.ends import head_program

    head = litgpt.built(LLAMA).towers[0].runs[-1].block
    setting = Setting(micro_batch=B, seq_len=S, conduct=LLAMA.conduct, weight_itemsize=2)
    program = head_program(
        head, replace(setting, trains_base=False), litgpt.STYLE, width=H, itemsize=2,
        needs_grad=True, upcasts=True,
    )  # fmt: skip
    assert forward(program).saved == T * (8 * V + 4 * H + 4) + SCALE
