"""Weights, gradients, main copies and states, by hand; moments and sharding."""

from __future__ import annotations

from typing import Any

import pytest

import lmsize
from lmsize.catalogue import built_in
from lmsize.errors import InputError
from lmsize.estimate.answer import Memory

N = 8_030_261_248  # llama-3.1-8b
G = 41_943_040  # its adapters at rank 16, all linears


def components(**options: Any) -> dict[str, int | None]:
    return lmsize.train("llama-3.1-8b", **options).memory.components


@pytest.mark.parametrize(
    ("stack", "precision", "expected"),
    [
        ("transformers", "fp32", {"weights": 4, "gradients": 4, "optimizer_states": 8}),
        ("transformers", "tf32", {"weights": 4, "gradients": 4, "optimizer_states": 8}),
        ("transformers", "amp-bf16", {"weights": 4, "gradients": 4, "optimizer_states": 8}),
        ("transformers", "amp-fp16", {"weights": 4, "gradients": 4, "optimizer_states": 8}),
        ("transformers", "bf16", {"weights": 2, "gradients": 2, "optimizer_states": 4}),
        ("transformers", "fp16", {"weights": 2, "gradients": 2, "optimizer_states": 4}),
        (
            "megatron",
            "bf16",
            {"weights": 2, "gradients": 4, "main_weights": 4, "optimizer_states": 8},
        ),
        (
            "deepspeed",
            "fp16",
            {"weights": 2, "gradients": 2, "main_weights": 4, "optimizer_states": 8},
        ),
    ],
)
def test_bytes_a_parameter_follow_the_recipe(
    stack: str, precision: str, expected: dict[str, int]
) -> None:
    found = components(stack=stack, precision=precision)
    assert {name: found[name] for name in expected} == {name: n * N for name, n in expected.items()}


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_zero_shards_more_components_a_stage(zero: int) -> None:
    """FSDP2 stands for stages 2 and 3: between steps a rank has its part of the weights at both."""
    tree = lmsize.train("llama-3.1-8b", accelerators=8, zero=zero, precision="bf16").memory.tree
    step = tree.child("optimizer_step") if tree else None
    assert step is not None
    found = {part.label: part.value for part in step.children}
    shards = [8 if zero >= stage else 1 for stage in (2, 2, 1)]
    whole = [2 * N, 2 * N, 4 * N]
    names = ("weights", "gradients", "optimizer_states")
    for name, size, n in zip(names, whole, shards, strict=True):
        assert found[name] == pytest.approx(size / n, rel=1e-6)


def test_fsdp2_gathers_the_root_and_two_layers_or_at_stage_2_all_of_them() -> None:
    n_layers, layer = 32, 218_112_000
    root = N - n_layers * layer

    def gathered(zero: int) -> float:
        options = {"recompute": "full", "seq_len": 64, "optimizer": "sgd"}
        found = lmsize.train(
            "llama-3.1-8b", accelerators=64, zero=zero, precision="bf16", **options
        ).memory.tree
        moment = found.child("layer_recompute") if found else None
        assert moment is not None
        return sum(part.value for part in moment.walk() if "gathered" in part.label)

    assert gathered(3) == 2 * (root + 2 * layer)
    # The last layer is undone: its gradients, on their way, have taken the place of its weights.
    assert gathered(2) == 2 * (root + (n_layers - 1) * layer)


def gathered_in_lora(**options: Any) -> dict[str, float]:
    """Bytes that an FSDP2 or FSDP rank has gathered while a layer is undone."""
    asked = {"zero": 3, "seq_len": 64, "recompute": "full", "precision": "bf16", "search": False}
    found = lmsize.train("llama-3.1-8b", accelerators=8, **{"method": "lora"} | asked | options)
    moment = found.memory.tree.child("layer_recompute") if found.memory.tree else None
    assert moment is not None
    return {part.label: part.value for part in moment.walk() if "gathered" in part.label}


def test_fsdp2_gathers_what_gptq_leaves_in_16_bits() -> None:
    root = 2 * 128_256 * 4096 + 4096
    assert gathered_in_lora(method="qlora", quant="gptq-4bit")["root gathered"] == 2 * root
    assert gathered_in_lora(method="qlora", quant="nf4")["root gathered"] == 4 * root


def test_fsdp2_gathers_modules_trained_whole_in_the_type_of_the_base() -> None:
    tables = 2 * 128_256 * 4096
    more = gathered_in_lora(modules_to_save="embed_tokens,lm_head")["root gathered"]
    assert more - gathered_in_lora()["root gathered"] == 2 * tables


@pytest.mark.parametrize("pp", [1, 2])
def test_flat_units_are_layers_whatever_the_stages(pp: int) -> None:
    layer = 218_112_000 + 8 * (4096 + 4096 + 4096 + 1024) + 8 * (4096 + 1024 + 4096 + 4096)
    options = {
        "stack": "litgpt",
        "pp": pp,
        "lora_rank": 8,
        "lora_targets": "q_proj,k_proj,v_proj,o_proj",
    }
    assert gathered_in_lora(**options)["layers gathered"] == 2 * 2 * layer


@pytest.mark.parametrize(("optimizer", "kind"), [("adamw", "foreach"), ("adam-mini", "loop")])
def test_temporaries_of_the_step_divide_experts_over_their_own_replicas(
    optimizer: str, kind: str
) -> None:
    """With one replica of each expert they are not divided; a loop has one tensor at a time."""
    experts = 32 * 3 * 4096 * 14336
    dense = 46_702_792_704 - 8 * experts
    found = lmsize.train(
        "mixtral-8x7b", stack="torchtitan", accelerators=8, ep=8, zero=3, seq_len=512,
        optimizer=optimizer, search=False,
    ).memory.tree  # fmt: skip
    step = found.child("optimizer_step") if found else None
    temporaries = step.child("temporaries") if step else None
    assert temporaries is not None
    leaves = {part.value for part in temporaries.walk() if kind in part.label}
    if kind == "foreach":
        assert leaves == {4 * dense / 8, 4 * experts}
    else:
        assert temporaries.value == max(leaves) == 4 * 2 * 2 * 4096 * 14336


def test_zero_over_one_rank_is_no_zero() -> None:
    assert components(zero=3) == components(zero=0)


def test_ddp_reduces_through_buckets_and_zero_does_not() -> None:
    assert components(accelerators=2)["gradient_buckets"] == 4 * N
    assert "gradient_buckets" not in components(accelerators=2, zero=1)
    assert "gradient_buckets" not in components(accelerators=2, stack="megatron", precision="bf16")


def test_lora_trains_adapters_in_fp32_over_a_frozen_base() -> None:
    found = components(method="lora", precision="bf16")
    assert found["weights"] == 2 * N
    assert found["adapter_weights"] == 4 * G
    assert found["optimizer_states"] == 8 * G


def test_qlora_stores_four_bits_and_their_scales() -> None:
    """nf4: half a byte, a byte for 64 of them, and 4 bytes for 256 of those; the rest in fp32."""
    linears = 6_979_321_856
    found = components(method="qlora")["weights"]
    values, scales = linears // 2, linears // 64
    rest = 4 * (N - linears)
    assert found == pytest.approx(values + scales + linears / 64 / 256 * 4 + rest, abs=4096)


@pytest.mark.parametrize(
    ("options", "moment"),
    [
        ({}, "optimizer_step"),
        ({"micro_batch": 16}, "loss_backward"),
        ({"optimizer": "sgd", "seq_len": 64}, "end_of_backward"),
        ({"optimizer": "sgd", "recompute": "full", "micro_batch": 4}, "layer_recompute"),
    ],
)
def test_the_moment_is_the_largest(options: dict[str, Any], moment: str) -> None:
    assert lmsize.train("llama-3.1-8b", **options).memory.moment == moment


def test_the_foreach_step_takes_one_more_copy() -> None:
    assert components()["temporaries"] == 4 * N
    assert components(stack_options="older-foreach")["temporaries"] == 2 * 4 * N


def test_components_sum_to_the_peak() -> None:
    for method in ("full", "lora", "qlora"):
        memory = lmsize.train("mixtral-8x7b", method=method, micro_batch=3, seq_len=1001).memory
        assert sum(v or 0 for v in memory.components.values()) == memory.peak_allocated_bytes


def test_experts_are_sharded_over_their_own_replicas() -> None:
    """With ep 8 of dp 8 each rank has one expert a layer, which ZeRO cannot divide further."""
    expert = 3 * 4096 * 14336 * 32
    dense = 46_702_792_704 - 8 * expert
    found = lmsize.train(
        "mixtral-8x7b", accelerators=8, ep=8, zero=1, precision="bf16"
    ).memory.components
    assert found["weights"] == 2 * (dense + expert)
    assert found["optimizer_states"] == pytest.approx(4 * (dense / 8 + expert), rel=1e-6)


def test_a_vision_tower_gets_no_gradient_in_a_text_run() -> None:
    estimate = lmsize.train("gemma-3-4b", precision="bf16", optimizer="sgd")
    found = estimate.memory.components
    assert (found["gradients"] or 0) < (found["weights"] or 0)
    assert "idle-towers" in {a.code for a in estimate.assumptions}


def test_pipeline_stages_hold_their_layers_and_their_micro_batches() -> None:
    one = lmsize.train(
        "llama-3.1-8b", pp=4, grad_accum=16, precision="bf16", optimizer="adamw-fused"
    )
    assert one.memory.tree is not None
    assert "stage 1 of 4" in one.memory.tree.label or "stage 4 of 4" in one.memory.tree.label
    assert (one.memory.components["weights"] or 0) < 2 * N / 3


def test_no_model_of_the_catalogue_falls_back_on_a_textbook_formula() -> None:
    for summary in built_in().models():
        found = lmsize.train(summary.name, micro_batch=1, seq_len=64)
        assert found.memory.tree is not None
        moments = {moment.label for moment in found.memory.tree.children}
        assert {"forward", "loss_backward", "layer_backward"} <= moments, summary.name


def test_a_layer_without_a_program_is_taken_by_its_parts() -> None:
    """The parts of Nemotron-H's mixtures in a latent: none is left out, whatever reads what."""
    options = {"precision": "bf16", "optimizer": "sgd", "micro_batch": 1}
    short, long = (
        lmsize.train("nemotron-3-ultra-550b-a55b", seq_len=n, **options) for n in (512, 1024)
    )
    assert "activations-by-parts" in {a.code for a in long.assumptions}
    kept = [kept_at_the_loss(found.memory.tree) for found in (short, long)]
    assert 1.9 < kept[1] / kept[0] < 2.1


def kept_at_the_loss(peak: Any) -> float:
    moment = next(m for m in peak.children if m.label == "loss_backward")
    return next(float(term.value) for term in moment.children if term.label == "activations")


def test_a_pipeline_in_parts_holds_more_micro_batches() -> None:
    """Twice the stages ahead and a round for each part but the last, in parts of a stage."""
    options = {"pp": 4, "grad_accum": 16, "stack": "megatron", "precision": "bf16"}
    plain, parts = (
        lmsize.train("llama-3.1-8b", pipeline_stage="last", vp=vp, **options).memory
        for vp in (1, 8)
    )
    assert (parts.peak_allocated_bytes or 0) > (plain.peak_allocated_bytes or 0)


def test_bf16_under_deepspeed_adds_gradients_up_in_fp32() -> None:
    held = components(stack="deepspeed", precision="bf16")
    assert held["main_gradients"] == 4 * N
    assert "main_gradients" not in components(
        stack="deepspeed", precision="bf16", accelerators=4, zero=2
    )


def test_deepspeed_steps_fp32_copies_of_adapters_in_16_bits() -> None:
    held = components(stack="deepspeed", method="lora", precision="bf16", zero=2)
    assert held["adapter_weights"] == 2 * G
    assert held["main_weights"] == 4 * G
    assert held["optimizer_states"] == 8 * G


def test_gptq_leaves_the_rest_in_16_bits_and_saves_what_it_unpacks() -> None:
    options = {"method": "qlora", "precision": "bf16", "recompute": "none", "seq_len": 32}
    ours, bnb = (
        lmsize.train("llama-3.1-8b", quant=quant, **options).memory
        for quant in ("gptq-int4", "nf4")
    )
    whole = 2 * 128_256 * 4096  # the table and the head
    linears = N - whole - 65 * 4096
    packed = linears * (4 + 20 / 128) / 8  # a scale and a zero for 128
    assert ours.components["weights"] == pytest.approx(packed + 2 * (N - linears), rel=1e-6)
    assert (bnb.components["weights"] or 0) > 4 * whole
    unpacked = (ours.components["activations"] or 0) - (bnb.components["activations"] or 0)
    assert unpacked == pytest.approx(2 * linears, rel=0.05)


def test_lengths_that_vary_leave_segments_up_to_the_accelerators_room() -> None:
    options = {"method": "lora", "precision": "bf16", "recompute": "full", "seq_len": 4096}
    equal, varied = (
        lmsize.train("llama-3.1-8b", accelerator="h100-80gb", lengths=lengths, **options)
        for lengths in ("equal", "varied")
    )
    one, other = equal.memory, varied.memory
    assert one.peak_allocated_bytes == other.peak_allocated_bytes
    passing = sum(one.components[name] or 0 for name in ("activations", "temporaries"))
    more = (other.peak_reserved_bytes or 0) - (one.peak_reserved_bytes or 0)
    assert more == pytest.approx(2.2 * passing, rel=1e-3)
    assert "reserved-varied" in {a.code for a in varied.assumptions}
    full = lmsize.train(
        "llama-3.1-8b", accelerator="h100-80gb", lengths="varied", micro_batch=4, **options
    ).memory
    assert (full.peak_device_bytes or 0) <= (full.capacity_bytes or 0)


def test_modules_trained_whole_are_copies_in_the_type_of_the_base() -> None:
    """Copy, gradient and both states of the table and the head in bf16; adapters in fp32."""
    options = {"method": "lora", "precision": "bf16", "recompute": "full"}
    plain = components(**options)
    held = components(**options, modules_to_save="embed_tokens,lm_head")
    whole = 2 * 128_256 * 4096
    added = {
        name: (held[name] or 0) - (plain[name] or 0) for name in ("weights", "adapter_weights")
    }
    assert added == {"weights": 0, "adapter_weights": 2 * whole}
    assert held["optimizer_states"] == 8 * G + 4 * whole
    assert held["gradients"] == 4 * G + 2 * whole  # at the optimizer's step
    assert held["temporaries"] == 4 * G + 2 * whole


def test_modules_trained_whole_must_be_there_and_need_adapters() -> None:
    with pytest.raises(InputError, match=r"modules-to-save.*lm_heed.*lm_head"):
        components(method="lora", modules_to_save="lm_heed")
    with pytest.raises(InputError, match="modules-to-save"):
        components(modules_to_save="lm_head")


def test_the_graph_of_the_micro_batch_before_holds_inputs_of_few_bit_products() -> None:
    """bitsandbytes before 0.44 under litgpt: x of qkv, of the output and of the MLP, and its product."""
    options = {
        "method": "qlora", "stack": "litgpt", "precision": "bf16", "lora_targets": "q_proj,v_proj",
        "micro_batch": 2, "seq_len": 512,
    }  # fmt: skip
    equal = lmsize.train("llama-2-7b", **options).memory
    a_layer = 2 * 512 * (6 * 4096 + 2 * 11_008)
    assert (
        held_by_graph(equal) == 32 * a_layer - 2 * 512 * 2 * 4096
    )  # no gradient reaches the first qkv
    assert not held_by_graph(lmsize.train("llama-2-7b", lengths="varied", **options).memory)
    assert not held_by_graph(lmsize.train("llama-2-7b", **{**options, "stack": "unsloth"}).memory)


def held_by_graph(memory: Memory) -> float:
    assert memory.tree is not None
    found = memory.tree.winner.walk()
    return sum(term.value for term in found if term.label.endswith("layer, held by the graph"))
