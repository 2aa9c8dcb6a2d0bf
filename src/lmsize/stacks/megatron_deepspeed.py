"""Megatron's own layers as Megatron-DeepSpeed has them: DeepSpeed's ZeRO and pipeline around them.

The layers are those of Megatron core's ``local`` implementation: fused norms, softmax and bias with GELU,
one matrix for queries, keys and values, a share of the vocabulary's logits on each rank. No product adds
to a main gradient by itself: autograd does, to gradients of the weights' type.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lmsize.stacks import megatron
from lmsize.tape import ops
from lmsize.tape.program import Gradient, Op, Program, Tensor

FP32 = 4


def loss(program: Program, logits: Tensor, *, upcasts: bool, n_tokens: Any) -> Tensor:
    """Cross-entropy over a share of the vocabulary, in place on a clone of the logits in fp32.

    The pipeline's last module takes logits to fp32, which its buffers name until they are undone; the
    softmax is written over a clone, and the gradient over the softmax.

    Source: bigscience-workshop/Megatron-DeepSpeed, megatron/model/gpt_model.py (``float16_to_fp32``),
    megatron/mpu/cross_entropy.py (``vocab_parallel_logits.clone()``); DeepSpeed runtime/pipe/engine.py.
    """
    del upcasts, n_tokens
    raised = ops.cast(program, logits, FP32, name="logits in fp32")
    program.ops.append(Op("output of the stage", (raised,), (), saves=(raised,)))
    probs = ops.in_place(program, ops.copy(program, raised, name="clone"), name="softmax")
    made = Tensor("loss", 1, FP32)
    return program.record(
        "cross_entropy", [probs], made, saves=[probs], gradients=[Gradient(probs, "saved")]
    )


STYLE = replace(megatron.STYLE, loss=loss, fuses_weight_gradients=False)
