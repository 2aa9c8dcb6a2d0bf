"""The vocabulary's kernels: operations that a library computes in one go, and what each saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmsize.tape.ops import lowered, raised
from lmsize.tape.program import Gradient, Program, Tensor

FP32 = 4


def layer_norm(
    program: Program, x: Tensor, weight: Tensor | None, bias: Tensor | None, *, n_rows: Any
) -> Tensor:
    """The fused LayerNorm: saves its input, a mean and a deviation a row; fp32 under autocast."""
    x = raised(program, x)
    made = Tensor("norm", x.numel, x.itemsize)
    rows = [Tensor("row means", n_rows, FP32), Tensor("row deviations", n_rows, FP32)]
    parameters = [p for p in (weight, bias) if p is not None]
    gradients = [Gradient(x), *(Gradient(p) for p in parameters)]
    return program.record(
        "layer_norm", [x, *parameters], made, saves=[x, *rows], gradients=gradients, side=rows
    )


def convolution(
    program: Program, x: Tensor, weight: Tensor, *, numel: Any, bias: Tensor | None = None,
    name: str = "",
) -> Tensor:  # fmt: skip
    """A convolution: its one node saves input and weight, whichever of them asks for a gradient."""
    made = Tensor(name, numel, x.itemsize)
    inputs = [x, weight] if bias is None else [x, weight, bias]
    return program.record(
        "grouped_linear", inputs, made, saves=[x, weight],
        gradients=[Gradient(one) for one in inputs],
    )  # fmt: skip


def embedding(
    program: Program, table: Tensor, *, numel: Any, gradient: Gradient | None = None
) -> Tensor:  # fmt: skip
    """Rows of a table; the ids that it saves are the step's input.

    Args:
        gradient: the table's, if it is not made as it is kept.
    """
    made = Tensor(table.name, numel, table.itemsize)
    return program.record("embedding", [table], made, gradients=[gradient or Gradient(table)])


def fused_attention(
    program: Program, q: Tensor, k: Tensor, v: Tensor, *, numel: Any, n_log_sums: Any,
    bias: Tensor | None = None, forward_bytes: Any = 0, backward_bytes: Any = 0,
) -> Tensor:  # fmt: skip
    """Attention in one kernel: saves its inputs, its output and a log-sum-exp a row and head.

    Args:
        bias: added to the scores.
        forward_bytes, backward_bytes: what it holds besides while it runs.
    """
    q, k, v = (lowered(program, x) for x in (q, k, v))
    made = Tensor("attention", numel, q.itemsize)
    sums = Tensor("log-sum-exp", n_log_sums, FP32)
    side = [sums, Tensor("seed", 1, 8), Tensor("offset", 1, 8)]
    reads = [q, k, v] if bias is None else [q, k, v, bias]
    return program.record(
        "attention", reads, made, saves=[*reads, made, *side],
        gradients=[Gradient(x) for x in reads], side=side,
        forward_bytes=forward_bytes, backward_bytes=backward_bytes,
    )  # fmt: skip


def scan(
    program: Program, reads: Sequence[Tensor], made: Tensor, *, saves: Sequence[Tensor] | None = None,
    gradients: Sequence[Gradient] | None = None, side: Sequence[Tensor] = (), forward_bytes: Any = 0,
) -> Tensor:  # fmt: skip
    """A recurrence along the sequence: saves what it reads, if it is one kernel.

    Args:
        saves: of a loop over tokens, which keeps its states (`side`) as well.
        gradients: in its order; by default a new tensor for each input.
    """
    return program.record(
        "scan", reads, made, saves=reads if saves is None else saves, side=side,
        gradients=[Gradient(x) for x in reads] if gradients is None else gradients,
        forward_bytes=forward_bytes,
    )  # fmt: skip


def nll_loss(program: Program, log_probs: Tensor, targets: Tensor | None = None) -> Tensor:
    """The mean of the targets' negative log-probabilities: saves them and the targets."""
    made = Tensor("loss", 1, log_probs.itemsize)
    total = Tensor("total weight", 1, log_probs.itemsize)
    kept = [log_probs] if targets is None else [log_probs, targets]
    return program.record(
        "nll_loss", kept, made, saves=[*kept, total], gradients=[Gradient(log_probs)], side=[total]
    )  # fmt: skip


def quantised_linear(
    program: Program, x: Tensor, made: Tensor, *, saves: Sequence[Tensor] = (),
    side: Sequence[Tensor] = (), forward_bytes: Any = 0, backward_bytes: Any = 0,
    clings: Sequence[Tensor] = (),
) -> Tensor:  # fmt: skip
    """A product with a frozen weight of few bits, which is no tensor of the program.

    Args:
        forward_bytes, backward_bytes: what it holds besides while it runs.
        clings: what its node holds as attributes, as long as the graph is there.
    """
    gradients = [Gradient(x, scratch_bytes=backward_bytes)]
    return program.record(
        "quantised_linear", [x], made, saves=saves, gradients=gradients, side=side,
        forward_bytes=forward_bytes, clings=clings,
    )  # fmt: skip
