"""Ways to take the loss that a run may choose, whatever its stack: logits whole, in chunks, or never.

Each goes from the last hidden stream to the loss through the output projection. The stack's own
way is its style's (:class:`lmsize.stacks.setting.Style`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lmsize.model.parts import Linear
from lmsize.numbers import ceil_div, next_power_of_two, smaller
from lmsize.stacks import transformers
from lmsize.stacks.linears import applied
from lmsize.stacks.setting import Setting, parameter
from lmsize.tape import ops
from lmsize.tape.program import Gradient, Program, Tensor

FP32 = 4
N_CHUNKS = 8  # torchtune's num_output_chunks
Loss = Callable[[Program, Tensor, Linear, Setting, bool], Tensor]


def plain(program: Program, x: Tensor, linear: Linear, setting: Setting, upcasts: bool) -> Tensor:
    """Logits of all tokens, cast to fp32 where the class does; torch's cross-entropy."""
    logits = capped(program, applied(program, x, linear, setting), setting)
    made = transformers.loss(program, logits, upcasts=upcasts, n_tokens=setting.n_tokens)
    program.hold(logits)
    return made


def chunked(program: Program, x: Tensor, linear: Linear, setting: Setting, upcasts: bool) -> Tensor:
    """Logits of all tokens in the compute type; only one chunk of them in fp32 at a time.

    torchtune's ``CEWithChunkedOutputLoss``: log-probabilities of all chunks are saved, in fp32.
    The gradients of the chunks take their place one by one.
    """
    del upcasts
    logits = capped(program, applied(program, x, linear, setting), setting)
    probs, made = Tensor("log-probabilities", logits.numel, FP32), Tensor("loss", 1, FP32)
    chunk = ceil_div(logits.numel, N_CHUNKS) * FP32
    program.record(
        "chunked cross-entropy", [logits], made, saves=[probs], gradients=[Gradient(logits, "saved")],
        side=[probs], forward_bytes=chunk if logits.itemsize < FP32 else 0, backward_bytes=2 * chunk,
    )  # fmt: skip
    program.hold(logits)
    return made


def liger(program: Program, x: Tensor, linear: Linear, setting: Setting, upcasts: bool) -> Tensor:
    """Liger's fused linear cross-entropy: gradients are made in the forward, chunk by chunk.

    A chunk's logits are as large as the stream (``fused_linear_cross_entropy_forward``), and are
    overwritten by their gradients. What is saved are the gradients of the stream and of the
    weight, each in its own type.
    """
    del upcasts
    weight = parameter(program, linear.name, linear.n_in * linear.n_out, setting, tied=linear.tied)
    t = setting.n_tokens
    n_rows = smaller(next_power_of_two(ceil_div(t, ceil_div(linear.n_out, linear.n_in))), t)
    logits = n_rows * linear.n_out * setting.compute_itemsize
    gradients = [Tensor("gradient of the stream", x.numel, x.itemsize)]
    if weight.needs_grad:
        gradients.append(Tensor("gradient of the head", weight.numel, weight.itemsize))
    losses, made = Tensor("losses", t, FP32), Tensor("loss", 1, FP32)
    return program.record(
        "linear_cross_entropy", [x, weight], made, saves=gradients,
        gradients=[Gradient(x, "saved"), Gradient(weight, "saved")], side=[*gradients, losses],
        forward_bytes=logits + _cast_weight(program, weight),
    )  # fmt: skip


def cut(program: Program, x: Tensor, linear: Linear, setting: Setting, upcasts: bool) -> Tensor:
    """Apple's cut cross-entropy: logits exist only inside the kernel, forward and backward.

    Saved are the stream, a log-sum-exp a token and the mean logit of each word, by which the
    backward orders the vocabulary (int64 from the sort, then int32).
    """
    del upcasts
    weight = parameter(program, linear.name, linear.n_in * linear.n_out, setting, tied=linear.tied)
    x, weight = ops.lowered(program, x), ops.lowered(program, weight)
    made = Tensor("loss", 1, FP32)
    sums = Tensor("log-sum-exp", setting.n_tokens, FP32)
    means = Tensor("mean logits", linear.n_out, FP32)
    return program.record(
        "linear_cross_entropy", [x, weight], made, saves=[x, weight, sums, means],
        gradients=[Gradient(x), Gradient(weight)], side=[sums, means],
        backward_bytes=linear.n_out * 12,
    )  # fmt: skip


def capped(program: Program, logits: Tensor, setting: Setting) -> Tensor:
    """Gemma's soft cap of logits, where a kernel does not do it."""
    if not setting.conduct.final_softcap:
        return logits
    curve = ops.pointwise(program, logits, name="over cap")
    curve = ops.pointwise(program, curve, name="tanh", saves="output")
    return ops.pointwise(program, curve, name="times cap")


def _cast_weight(program: Program, weight: Tensor) -> float:
    """Autocast's copy of the weight for one chunk's product; it is not cached in a function."""
    is_cast = program.autocast is not None and program.autocast < weight.itemsize
    return weight.numel * program.autocast if is_cast and program.autocast else 0


LOSSES: Mapping[str, Loss] = {"plain": plain, "chunked": chunked, "liger": liger, "cut": cut}
