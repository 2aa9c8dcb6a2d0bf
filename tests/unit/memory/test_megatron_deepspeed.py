"""Megatron's own layers under DeepSpeed's optimizer and pipeline."""

from __future__ import annotations

from typing import Any

import lmsize

RUN: dict[str, Any] = {
    "stack": "deepspeed", "accelerators": 8, "tp": 4, "zero": 1, "precision": "fp16", "seq_len": 2048,
    "attention": "eager", "accelerator": "a100-80gb", "search": False, "calibration": False,
    "optimizer": "adam",
}  # fmt: skip
MEGATRON = {"stack_options": "layers=megatron"}
TOKENS, HEADS, WIDTH = 2048, 32 // 4, 4096


def memory(model: str = "bloom-7b1", **options: Any) -> Any:
    return lmsize.train(model, **RUN | options).memory


def kept_of_a_layer(**options: Any) -> float:
    """Bytes that one layer keeps for its backward, at the fullest moment that has any."""
    leaves = (t for t in memory(**options).tree.walk() if t.label == "30 x layer")
    return max(float(t.inputs["layer_bytes"]) for t in leaves if "n_in_flight" in t.inputs)


def test_scores_stay_in_16_bits() -> None:
    """Of pairs of tokens the fused softmax saves its output; of tokens each product its input, once.

    A rank has the stream before both norms and after them whole, a quarter of the rest: three widths of
    queries, keys and values, one of what attends, and four before and after GELU.
    """
    stream, scores = TOKENS * WIDTH * 2, HEADS * TOKENS * TOKENS * 2
    of_norms = 2 * 2 * TOKENS * 4  # a mean and a deviation a row
    expected = scores + 4 * stream + (3 + 1 + 4 + 4) * stream // 4 + of_norms
    assert kept_of_a_layer(**MEGATRON) == expected
    assert kept_of_a_layer() > expected + scores


def test_what_is_held_of_the_model_is_deepspeeds() -> None:
    theirs, own = memory().components, memory(**MEGATRON).components
    for name in ("weights", "main_weights", "optimizer_states"):
        assert own[name] == theirs[name]


def test_checkpoints_keep_the_stream_alone() -> None:
    run = {"recompute": "full", "global_batch": 8}
    assert kept_of_a_layer(**MEGATRON, **run) == TOKENS * WIDTH * 2


def test_the_last_stage_keeps_logits_and_a_clone() -> None:
    """Those of a rank's share of the vocabulary, in fp32: the stage's output and the softmax."""
    run = {"pp": 2, "tp": 2, "accelerators": 4, "pipeline_stage": "last", "recompute": "full"}
    tree = memory(**MEGATRON, **run, model="bloom-560m").tree
    kept = max(t.value for t in tree.walk() if t.label == "running: 1 x head")
    logits = TOKENS * 250880 // 2 * 4
    assert 2 * logits < kept < 2.1 * logits
