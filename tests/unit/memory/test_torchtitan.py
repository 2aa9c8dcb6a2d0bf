"""torchtitan's step: what stays gathered, what other streams keep, what is not compiled."""

from __future__ import annotations

from typing import Any

import pytest

import lmsize
from lmsize.errors import InputError

RUN: dict[str, Any] = {
    "stack": "torchtitan", "precision": "amp-bf16", "zero": 3, "accelerators": 8, "seq_len": 8192,
    "recompute": "selective", "search": False, "accelerator": "h100-80gb", "calibration": False,
}  # fmt: skip
N = 8_030_261_248


def memory(**options: Any) -> Any:
    return lmsize.train("llama-3.1-8b", **RUN | options).memory


def test_streams_keep_the_gradients_shards_and_what_is_gathered() -> None:
    """At the loss no gradient is live, yet the reducing stream has room for all of a rank's."""
    found = memory()
    assert found.moment == "loss_backward"
    layer = (4096 * 4096 * 2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096) * 2
    head = (128256 + 1) * 4096 * 2
    live = found.peak_allocated_bytes - layer  # the layer fetched for the backward
    cast = 128256 * 4096 // 8 * 2  # the share of the table in 16 bits, before it is gathered
    gathered = layer + head + cast  # in which the head finds room, but for a layer's share
    own = gathered + N / 8 * 4
    assert found.peak_reserved_bytes == pytest.approx(live + own, abs=layer / 8 * 1.1)


def test_until_2025_the_root_and_the_last_layer_stayed_gathered_for_the_loss() -> None:
    """The table, the last norm and the head, and what is gathered of them in one piece besides."""
    apart, together = (memory(stack_options=options) for options in (None, "ends-in-root"))
    layer = (4096 * 4096 * 2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096) * 2
    table, head = (n * 4096 * 2 for n in (128256, 128257))
    assert apart.moment == together.moment == "loss_backward"
    parts = {t.label: t.value for t in together.tree.winner.walk()}
    assert parts["root gathered"] == table + head
    assert parts["units gathered"] == layer
    # apart it was the layer, fetched in one piece, and the head
    assert together.peak_allocated_bytes - apart.peak_allocated_bytes == table
    ahead = table + head + layer + (table + head) / 8
    own = ahead + N / 8 * 4
    beyond = together.peak_reserved_bytes - together.peak_allocated_bytes
    assert beyond == pytest.approx(own, rel=1e-3)


def test_the_allocator_has_no_use_for_logits_that_are_let_go_of() -> None:
    """The gradients of an eager loss are in fp32: larger than the logits were."""
    run = {"stack_options": "no-compiled-loss,ends-in-root"}
    one = memory(**run)
    beyond = one.peak_reserved_bytes - one.peak_allocated_bytes
    compiled = memory(stack_options="ends-in-root")
    usual = compiled.peak_reserved_bytes - compiled.peak_allocated_bytes
    assert beyond - usual == pytest.approx(8192 * 128256 * 2, rel=1e-3)


def test_a_pipeline_holds_weights_and_gradients_whole() -> None:
    found = memory(pp=2, grad_accum=4, pipeline_stage="first", recompute="full").components
    stage = 16 * (4096 * 4096 * 2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096) + 128256 * 4096
    assert found["gathered_weights"] == 2 * stage
    of_layer = 4096 * 14336  # of the last product, which waits for the end of its layer
    assert found["gradients"] == 4 * stage + 2 * of_layer
    assert found["weights"] == stage  # in fp32, over four ranks


def test_a_pipeline_keeps_the_blocks_of_the_stream_that_gathers() -> None:
    """Weights are gathered once, in the first forward: layers in two places in turn, then the head."""
    found = memory(pp=2, grad_accum=4, pipeline_stage="last", recompute="full")
    layer = 4096 * 4096 * 2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096
    head = (128256 + 1) * 4096
    stage = 16 * layer + head
    cast = 2 * layer / 4  # a rank's share of a layer in 16 bits, before it is gathered
    # each of four ranks has its shard of the gradients in fp32, where the reducing stream left it
    own = 2 * (2 * layer + head) + cast + 4 * stage / 4
    assert found.peak_reserved_bytes - found.peak_allocated_bytes == pytest.approx(own, rel=1e-3)


@pytest.mark.parametrize("grad_accum", [1, 4])
@pytest.mark.parametrize("which", ["first", "last"])
def test_a_pipeline_holds_as_much_at_stage_2_as_at_stage_3(grad_accum: int, which: str) -> None:
    """FSDP2 divides the weights at both, and a pipeline keeps them gathered at both."""
    run = {"pp": 2, "grad_accum": grad_accum, "pipeline_stage": which, "recompute": "full"}
    two, three = (memory(**run, zero=zero) for zero in (2, 3))
    assert two.components == three.components
    assert two.peak_reserved_bytes == three.peak_reserved_bytes
    assert memory(**run, zero=0).peak_allocated_bytes > two.peak_allocated_bytes


def test_without_a_compiler_the_loss_is_in_fp32() -> None:
    compiled, eager = (
        memory(recompute="full", stack_options=options).peak_allocated_bytes
        for options in (None, "no-compile")
    )
    logits = 8192 * 128256
    # logits, their fp32 copy and gradients of both, instead of logits and their gradient in 16 bits
    assert eager - compiled > 6 * logits


def test_context_parallel_ranks_gather_keys_and_values() -> None:
    """The same tokens a rank; the layer's backward holds those of all ranks besides."""

    def layer(cp: int) -> Any:
        tree = memory(accelerators=64, cp=cp, seq_len=4096 * cp, recompute="full").tree
        return next(m.value for m in tree.children if m.label == "layer_recompute")

    assert layer(64) - layer(1) > 40 * 2 * 4096 * 4096 * 2


@pytest.mark.parametrize(
    ("stack", "options"),
    [("torchtitan", "attention-backend=flash"), ("megatron", "no-compile"), ("litgpt", "compile"),
     ("deepspeed", "compile")],
)  # fmt: skip
def test_a_stack_has_switches_of_its_own(stack: str, options: str) -> None:
    with pytest.raises(InputError):
        memory(stack=stack, stack_options=options)


def test_deepspeed_may_sum_in_16_bits() -> None:
    held = memory(stack="deepspeed", precision="bf16", zero=1, stack_options="fp32-sums").components
    assert held["main_gradients"] == 4 * N
    other = memory(stack="deepspeed", precision="bf16", zero=1, stack_options="no-fp32-sums")
    assert "main_gradients" not in other.components


def test_deepspeed_may_step_by_torchs_adam() -> None:
    """One more copy in fp32 of the rank's shard while it steps."""
    run = {
        "stack": "deepspeed",
        "precision": "bf16",
        "zero": 2,
        "seq_len": 256,
        "optimizer": "adamw",
    }
    steps = [
        next(m.value for m in memory(**run, stack_options=options).tree.children
             if m.label == "optimizer_step")
        for options in (None, "no-fused-adam")
    ]  # fmt: skip
    assert steps[1] - steps[0] == 4 * N // 8


def test_a_loss_that_is_not_compiled_holds_what_its_operations_hold() -> None:
    """Three tensors of logits in fp32; four on tensor-parallel ranks, of a share of the words."""
    logits = 8192 * 128256

    def loss(**options: Any) -> Any:
        tree = memory(recompute="full", stack_options="no-compiled-loss", **options).tree
        moment = next(m for m in tree.children if m.label == "loss_backward")
        return sum(t.value for t in moment.walk() if "1 x head" in t.label)

    assert loss() == pytest.approx(12 * logits, rel=0.02)
    one = {"tp": 8, "accelerators": 64, "sequence_parallel": True}
    stream = 8192 * 4096 * 2  # gathered for the head
    assert loss(**one) == pytest.approx(16 * logits / 8 + stream, rel=0.02)


def test_a_stage_has_buffers_for_the_gradients_of_all_micro_batches() -> None:
    run = {"pp": 2, "grad_accum": 8, "recompute": "full"}
    first, last = (memory(**run, pipeline_stage=which).tree for which in ("first", "last"))
    found = {t.label: t.value for t in first.walk()}
    stream = 8192 * 4096 * 2
    assert found["outputs of the stage"] == 2 * stream
    assert found["buffers for their gradients"] == 8 * stream
    assert "outputs of the stage" not in {t.label for t in last.walk()}


def saved_layer(**options: Any) -> Any:
    """Bytes that one layer keeps, by the label of its run."""
    tree = memory(**options).tree.winner
    return {t.label: t.value for t in tree.walk() if t.label.endswith(" x layer")}


def test_products_in_4_bits_run_again_under_selective_recomputation() -> None:
    """Its product is none that the policy knows: queries, values and the gate go; the layers in bf16 keep theirs."""
    run = {"precision": "fp8", "stack_options": "fp8-recipe=nvfp4,bf16-last-layers=5"}
    found = saved_layer(**run)
    t = 8192
    kept = t * (2 * 4096 * 2 + 32 * 4)  # the input, the attention's output and its log-sums
    products = t * 2 * (4096 + 1024 + 14336)
    assert found["27 x layer"] == pytest.approx(27 * kept, rel=1e-4)
    assert found["5 x layer"] == pytest.approx(5 * (kept + products), rel=1e-4)


@pytest.mark.parametrize("recipe", ["tensorwise", "mxfp8"])
def test_products_in_8_bits_are_kept_as_those_in_16(recipe: str) -> None:
    few = saved_layer(precision="fp8", stack_options=f"fp8-recipe={recipe}")
    assert few == saved_layer()


def test_torchtitan_has_no_recipe_of_transformer_engine() -> None:
    with pytest.raises(InputError, match="tensorwise"):
        memory(precision="fp8", stack_options="fp8-recipe=delayed")


def test_what_sequence_parallel_ranks_gather_for_the_head_waits_for_its_gradient() -> None:
    """And the piece in which it came lies idle, smaller than the logits' gradients."""
    one = {"tp": 8, "accelerators": 64, "recompute": "full", "stack_options": "no-compiled-loss"}
    apart, shared = (memory(**one, sequence_parallel=sp) for sp in (False, True))

    def head(found: Any) -> Any:
        return max(t.value for t in found.tree.walk() if t.label == "running: 1 x head")

    stream = 8192 * 4096 * 2
    # the norm saves an eighth of its input, and the whole that was gathered is there
    assert head(shared) - head(apart) == pytest.approx(stream / 8 + stream - 2 * stream, rel=0.01)


def test_a_pipelines_ends_have_a_layer_less() -> None:
    """Table and head count as layers; what is left over goes to the first stages: 8, 9, 8 and 7 of 32."""
    run = {"pp": 4, "grad_accum": 4, "recompute": "full", "accelerators": 32}
    first, last = (memory(**run, pipeline_stage=which).components for which in ("first", "last"))
    layer = 4096 * 4096 * 2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096
    assert first["gathered_weights"] == 2 * (8 * layer + 128256 * 4096)
    assert last["gathered_weights"] == 2 * (7 * layer + 128257 * 4096)
    said = memory(**run, pipeline_stage="first", stack_options="stage-layers=5+9+9+9").components
    assert said["gathered_weights"] == 2 * (5 * layer + 128256 * 4096)


def test_what_a_layer_lets_go_of_while_it_runs_again_serves_not_all_that_follows() -> None:
    """The allocator has more than the fullest layer, beside what other streams have."""
    run = {"pp": 2, "grad_accum": 4, "pipeline_stage": "first", "recompute": "full"}
    found = memory(**run)
    assert found.moment == "layer_recompute"
    layer = 4096 * 4096 * 2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096
    stage = 16 * layer + 128256 * 4096
    table, cast = 2 * 128256 * 4096, 2 * 128256 * 4096 / 4
    own = 4 * stage / 4 + table + cast + 2 * layer
    beyond = found.peak_reserved_bytes - found.peak_allocated_bytes - own
    assert 0 < beyond < 8192 * 14336 * 2  # less than the widest tensor of a layer


def test_matrices_may_be_gathered_in_8_bits() -> None:
    run = {"precision": "fp8", "stack_options": "fp8-all-gather,ends-in-root"}
    found = {t.label: t.value for t in memory(**run).tree.winner.walk()}
    matrices = 4096 * 4096 * 2 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    assert found["units gathered"] == matrices + 2 * 4096 * 2  # the norms in 16 bits
    assert found["root gathered"] == (128256 + 128257) * 4096 * 2
    piped = memory(**run, pp=2, grad_accum=4, pipeline_stage="first").components
    stage = 16 * (matrices + 2 * 4096 * 2) + 128256 * 4096 * 2
    assert piped["gathered_weights"] == stage


def test_a_norm_that_is_no_kernel_keeps_its_input_in_fp32() -> None:
    """The last one is not compiled with the layers; those keep what they did."""
    run = {"recompute": "full"}
    fused, plain = (memory(**run, stack_options=how).tree for how in (None, "no-fused-norm"))
    stream = 8192 * 4096

    def most(tree: Any, label: str) -> Any:
        return max(t.value for t in tree.walk() if t.label == label)

    more = most(plain, "running: 1 x head") - most(fused, "running: 1 x head")
    # in fp32 and once more, scaled, in 16 bits, instead of as it was
    assert more == pytest.approx((4 + 2 - 2) * stream, rel=1e-3)
    assert most(plain, "32 x layer") == most(fused, "32 x layer")
