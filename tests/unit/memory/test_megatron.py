"""What Megatron's switches do to a whole step."""

from __future__ import annotations

from typing import Any

import pytest

import lmsize

MODEL = "llama-3.1-8b"
RUN: dict[str, Any] = {
    "stack": "megatron", "tp": 4, "accelerators": 8, "zero": 1, "seq_len": 4096, "accelerator": "h100-80gb",
    "search": False, "sequence_parallel": True, "calibration": False,
}  # fmt: skip


def parts(**options: Any) -> dict[str, int | None]:
    return lmsize.train(MODEL, **RUN | options).memory.components


def peak(**options: Any) -> int:
    found = lmsize.train(MODEL, **RUN | options).memory.peak_allocated_bytes
    assert found is not None
    return found


def test_workspaces_are_those_of_the_accelerator() -> None:
    hopper = parts(stack_options="no-gradient-fusion,no-dataloader-mask")["workspaces"]
    gathered = 4096 * 4096 * 2
    assert hopper == 3 * 32 * 2**20 + gathered
    ampere = parts(
        accelerator="a100-80gb", stack_options="no-gradient-fusion,no-dataloader-mask"
    )["workspaces"]  # fmt: skip
    assert ampere == (2 * 8320 + 4096) * 1024 + gathered


def test_recomputing_some_layers_lies_between_none_and_all() -> None:
    none, some, full = (
        peak(recompute="none"),
        peak(recompute="full", stack_options="recompute-layers=16"),
        peak(recompute="full"),
    )
    assert full < some < none
    assert peak(recompute="full", stack_options="recompute-layers=99") == full


def test_gradients_in_bf16_take_half() -> None:
    fp32 = parts()["gradients"]
    assert parts(stack_options="grad-reduce-in-bf16")["gradients"] == (fp32 or 0) // 2


def test_a_fused_loss_takes_what_it_holds() -> None:
    logits = 4096 * 128256 // 4
    eager, native, te = (
        peak(stack_options=f"cross-entropy={kind}") for kind in ("eager", "native", "te")
    )
    assert native - eager == pytest.approx(4 * logits, abs=1024)
    assert 0 < eager - te <= 4 * logits + 1024


def test_megatrons_own_attention_keeps_a_buffer_of_scores() -> None:
    run = {"tp": 1, "accelerators": 1, "zero": 0, "seq_len": 1024, "sequence_parallel": False}
    ours, theirs = (
        parts(**run, stack_options=f"transformer-impl={kind},no-gradient-fusion")["workspaces"] or 0
        for kind in ("local", "transformer_engine")
    )
    assert ours - theirs == 32 * 1024**2 * 2 - 32 * 2**20  # less Transformer Engine's workspace


def test_softmax_in_parts_keeps_it_in_fp32() -> None:
    run = {"tp": 1, "accelerators": 1, "zero": 0, "seq_len": 1024, "sequence_parallel": False}
    options = "transformer-impl=local,no-softmax-fusion"
    fused, low, high = (
        peak(**run, stack_options=chosen)
        for chosen in ("transformer-impl=local", options, f"{options},fp32-softmax")
    )
    scores = 32 * 1024**2
    assert fused == low  # the same result is saved
    # the result in fp32 and, for the product with the values, in 16 bits
    assert high - low == 32 * 4 * scores


def test_deferred_gradients_of_the_head_wait() -> None:
    run = {"pp": 2, "grad_accum": 8, "pipeline_stage": "last"}
    tokens, part, width = 4096, 128256 // 4, 4096
    none, two, every = (
        peak(**run, stack_options=chosen)
        for chosen in (None, "deferred-head,deferral-limit=2", "deferred-head")
    )
    each = (tokens * part + tokens // 4 * width) * 2
    assert (two - none, every - none) == (2 * each, 7 * each)


def test_a_larger_group_of_micro_batches_keeps_more_parts() -> None:
    run = {"pp": 2, "vp": 4, "grad_accum": 16, "pipeline_stage": "last"}
    usual, more = (peak(**run, stack_options=chosen) for chosen in (None, "microbatch-group=4"))
    layers = parts(**run)["activations"] or 0
    assert more - usual == pytest.approx(layers * 6 / 7, rel=0.05)


def test_the_workspace_of_cublas_is_what_the_environment_says() -> None:
    usual, small = (
        parts(stack_options=chosen)["workspaces"] or 0
        for chosen in (None, "cublas-workspace-kib=8320")
    )
    assert usual - small == 2 * (32 * 1024 - 8320) * 1024


def test_a_precision_aware_optimizer_keeps_the_bits_that_weights_lack() -> None:
    usual, aware = (
        parts(),
        parts(stack_options="precision-aware,exp-avg-dtype=bf16,exp-avg-sq-dtype=fp8"),
    )
    assert aware["main_weights"] == (usual["main_weights"] or 0) // 2
    # 2 + 1 bytes of states rather than 4 + 4
    assert aware["optimizer_states"] == (usual["optimizer_states"] or 0) * 3 // 8


def test_part_of_the_optimizer_lies_on_the_host() -> None:
    usual, half = parts(), parts(stack_options="optimizer-offload=0.5")
    for name in ("main_weights", "optimizer_states"):
        assert half[name] == pytest.approx((usual[name] or 0) / 2, rel=1e-6)
    every = parts(stack_options="optimizer-offload=1")
    assert not every.get("main_weights")
    assert not every.get("optimizer_states")
    assert every["gradients"] == usual["gradients"]


def test_checkpoints_of_layers_save_the_mask_of_each_micro_batch() -> None:
    piped: dict[str, Any] = {"pp": 2, "tp": 2, "grad_accum": 8, "pipeline_stage": "first"}
    mask = 4096 * 4096

    def masks(**options: Any) -> int:
        usual, without = (
            parts(**piped | options | {"stack_options": more})["workspaces"] or 0
            for more in ("permute-fusion", "no-dataloader-mask")
        )  # fmt: skip
        return usual - without

    assert masks() == mask
    assert masks(recompute="full") == 2 * mask  # of the two in flight
    assert masks(recompute="selective") == 2 * mask


def test_padded_experts_get_their_capacity() -> None:
    run = {"tp": 1, "accelerators": 8, "ep": 8, "sequence_parallel": False}

    def kept(options: str) -> int:
        found = lmsize.train("mixtral-8x7b", **RUN | run, stack_options=options).memory.components
        return found["activations"] or 0

    usual, padded = (
        kept(options) for options in ("dispatcher=alltoall", "capacity-factor=2,pads-to-capacity")
    )
    assert padded > 1.3 * usual
    mask = 32 * 4096 * 8  # of 32 layers, tokens and experts
    assert kept("capacity-factor=2") == usual + mask  # fewer are dropped, none is added


def test_layers_that_run_again_together_keep_one_input() -> None:
    one, four = (parts(recompute="full", stack_options=f"recompute-chunk={n}") for n in (1, 4))
    stream = 4096 * 4096 * 2 // 4  # of a rank's tokens, by sequence parallelism
    assert (one["activations"] or 0) > 31 * stream
    kept = {
        n: peak(recompute="full", micro_batch=4, stack_options=f"recompute-chunk={n}")
        for n in (1, 4, 5, 32)
    }
    assert kept[32] > kept[4] > kept[1] - 4 * 32 * stream
    assert four != one
    none = peak(recompute="none", micro_batch=4)
    assert 0.9 * none < kept[32] < none  # all together, but not while the loss is taken


def test_block_recomputation_is_not_chunked() -> None:
    usual = peak(recompute="full", stack_options="recompute-layers=8")
    assert usual == peak(recompute="full", stack_options="recompute-layers=8,recompute-chunk=1")


def test_products_that_do_not_add_up_by_themselves_make_the_gradient() -> None:
    """In 16 bits, of one weight at a time; what few tokens hold by then is gone from beside it."""
    run = {"tp": 1, "accelerators": 1, "zero": 0, "seq_len": 128, "sequence_parallel": False}

    def undone(options: str | None, label: str) -> float:
        memory = lmsize.train(MODEL, **RUN | run, stack_options=options).memory
        moment = next(m for m in memory.tree.children if m.label == label)
        standing = moment.child("workspaces")
        return float(moment.value - (standing.value if standing else 0))

    for label, numel in (("layer_backward", 2 * 14336 * 4096), ("loss_backward", 128256 * 4096)):
        made = undone("no-gradient-fusion", label) - undone(None, label)
        assert 0.9 * 2 * numel < made <= 2 * numel


def test_frozen_weights_have_no_gradients_to_stand_for_or_to_put_off() -> None:
    run = {"tp": 1, "accelerators": 1, "zero": 0, "seq_len": 4096, "sequence_parallel": False}
    lora = {"method": "lora", "lora_rank": 16, "lora_targets": "q_proj,o_proj", "grad_accum": 8}
    usual, unfused = (
        parts(**run, **lora, stack_options=options) for options in (None, "no-gradient-fusion")
    )
    # both modules are 4096 wide on either side: one shape down to the rank, one up from it
    made = (usual["workspaces"] or 0) - (unfused["workspaces"] or 0)
    assert made == 2 * 16 * 4096 * 2
    assert "deferred" not in parts(**run, **lora, stack_options="deferred-head")
    saved = parts(**run, **lora, modules_to_save="lm_head", stack_options="deferred-head")
    assert saved["deferred"] == 7 * 4096 * (128256 + 4096) * 2


@pytest.mark.parametrize(
    ("precision", "options", "each"),
    [
        # weights, main copies, gradients, both states
        ("bf16", None, (2, 4, 4, 8)),
        ("bf16", "grad-reduce-in-bf16", (2, 4, 2, 8)),
        ("fp8", None, (2, 4, 4, 8)),
        ("fp32", None, (4, 0, 4, 8)),
    ],
)
def test_adapters_are_held_as_any_weight(
    precision: str, options: str | None, each: tuple[int, ...]
) -> None:
    """In the weights' type, beside main copies and fp32 main gradients."""
    run = {"tp": 1, "accelerators": 1, "zero": 0, "sequence_parallel": False}
    lora = {"method": "lora", "lora_rank": 16, "lora_targets": "q_proj", "precision": precision}
    found = parts(**run, **lora, stack_options=options)
    n = 32 * 16 * (4096 + 4096)
    names = ("adapter_weights", "main_weights", "gradients", "optimizer_states")
    assert tuple(found.get(name) or 0 for name in names) == tuple(n * k for k in each)


def test_adapters_shared_by_the_distributed_optimizer() -> None:
    run = {"tp": 1, "accelerators": 8, "zero": 1, "sequence_parallel": False}
    found = parts(**run, method="lora", lora_rank=16, lora_targets="q_proj")
    n = 32 * 16 * (4096 + 4096)
    assert (found["adapter_weights"], found["gradients"]) == (2 * n, 4 * n)
    assert (found["main_weights"], found["optimizer_states"]) == (4 * n // 8, 8 * n // 8)


def test_maps_of_rows_stay_with_mixtures_that_run_again() -> None:
    run = {"tp": 1, "accelerators": 8, "ep": 8, "sequence_parallel": False}

    def routing(options: str, **more: Any) -> int:
        found = lmsize.train("mixtral-8x7b", **RUN | run | more, stack_options=options)
        return found.memory.components["workspaces"] or 0

    pairs = 32 * 4096 * 8  # of 32 layers, tokens and experts
    fused = "permute-fusion"
    assert routing(fused, recompute="full") - routing(fused) == 8 * pairs
    assert routing("no-permute-fusion", recompute="full") == routing(fused)
    assert routing(f"{fused},router-dtype=fp32") - routing(fused) == 2 * pairs
