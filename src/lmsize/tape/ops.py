"""The vocabulary: what each operation reads, writes, saves and gives back.

The operations are those of autograd, so that a layer's memory follows from how it is written:
a norm in Python is a cast, a power, a mean, a root and two products; a fused one is one operation.
Casts under autocast happen where torch makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmsize.numbers import larger
from lmsize.tape.program import Gradient, Program, Tensor

FP32 = 4


def view(_program: Program, x: Tensor, *, numel: Any = None) -> Tensor:
    """Another look at the same storage, whose gradient is the same storage too."""
    seen = Tensor(x.name, x.numel if numel is None else numel, x.itemsize, x.needs_grad, x.kind)
    seen.base = x.base
    _program.record("view", [x], seen, gradients=[Gradient(x, "same")])
    return seen


def cast(program: Program, x: Tensor, itemsize: float, *, name: str = "") -> Tensor:
    """The same numbers in another type; itself if it has it."""
    if x.itemsize == itemsize:
        return x
    made = Tensor(name or f"{x.name} cast", x.numel, itemsize)
    made.made_from = (x,) if x.kind == "local" else None
    return program.record("cast", [x], made, gradients=[Gradient(x)])


def lowered(program: Program, x: Tensor) -> Tensor:
    """What autocast makes of the input of a matrix product; casts of leaves are kept."""
    if program.autocast is None or x.itemsize <= program.autocast:
        return x
    made = cast(program, x, program.autocast)
    if x.kind in ("parameter", "shared", "waiting") and x.needs_grad:
        program.cached.append(made)
    return made


def raised(program: Program, x: Tensor) -> Tensor:
    """What autocast makes of the input of an operation that it runs in fp32."""
    return x if program.autocast is None else cast(program, x, FP32)


def linear(
    program: Program, x: Tensor, weight: Tensor, *, n_in: Any, n_out: Any, bias: Tensor | None = None,
    name: str = "", gathers: Any = 1, scatters: Any = 1,
) -> Tensor:  # fmt: skip
    """A matrix product: saves its input for the weight, and its weight for the input.

    Args:
        gathers: ranks whose tokens it gathers for the product, and again for its backward.
        scatters: ranks over which its summed output is divided.
    """
    x, weight = lowered(program, x), lowered(program, weight)
    if bias is not None:
        bias = lowered(program, bias)
    whole_in = x.n_bytes * gathers if _is_spread(gathers) else 0
    made = Tensor(name or weight.name, x.numel * gathers // n_in * n_out // scatters, x.itemsize)
    whole_out = made.n_bytes * scatters if _is_spread(scatters) else 0
    saves = ([x] if weight.needs_grad else []) + ([weight] if x.needs_grad else [])
    gradients = [Gradient(bias)] if bias is not None else []
    reads = [x, weight] if bias is None else [bias, x, weight]
    # Added to the main gradients, the weight's product comes last and still needs what was gathered.
    held = whole_in + whole_out if program.fuses_weight_gradients else 0
    return program.record(
        "linear", reads, made, saves=saves,
        gradients=[*gradients, Gradient(x, scratch_bytes=whole_in + held), Gradient(weight)],
        forward_bytes=whole_in + whole_out, backward_bytes=whole_in + whole_out,
    )  # fmt: skip


def _is_spread(n_ranks: Any) -> bool:
    return not (isinstance(n_ranks, int) and n_ranks == 1)


def grouped_linear(
    program: Program, x: Tensor, weight: Tensor, *, n_in: Any, n_out: Any, name: str = ""
) -> Tensor:
    """A product for each group of rows with a matrix of its own; saves what a linear saves."""
    made = Tensor(name, x.numel // n_in * n_out, x.itemsize)
    saves = ([x] if weight.needs_grad else []) + ([weight] if x.needs_grad else [])
    return program.record(
        "grouped_linear", [x, weight], made, saves=saves, gradients=[Gradient(x), Gradient(weight)]
    )


def matmul(program: Program, a: Tensor, b: Tensor, *, numel: Any, name: str = "") -> Tensor:
    """A product of two activations."""
    a, b = lowered(program, a), lowered(program, b)
    made = Tensor(name, numel, a.itemsize)
    saves = ([a] if b.needs_grad else []) + ([b] if a.needs_grad else [])
    return program.record("matmul", [a, b], made, saves=saves, gradients=[Gradient(a), Gradient(b)])


def add(program: Program, a: Tensor, b: Tensor, *, name: str = "sum") -> Tensor:
    """A sum: saves nothing, and hands its gradient on as it is, cast to the type of each."""
    itemsize = max(a.itemsize, b.itemsize)
    made = Tensor(name, a.numel, itemsize)
    gradients = [Gradient(x, "same" if x.itemsize == itemsize else "new") for x in (a, b)]
    return program.record("add", [a, b], made, gradients=gradients)


def mul(
    program: Program, a: Tensor, b: Tensor, *, small: Tensor | None = None, name: str = "product"
) -> Tensor:
    """A product, number by number: saves each side for the other.

    Args:
        small: the side that is broadcast, whose gradient is first made in full.
    """
    itemsize = max(a.itemsize, b.itemsize)
    made = Tensor(name, b.numel if small is a else a.numel, itemsize, made_from=(a, b))
    saves = ([a] if b.needs_grad else []) + ([b] if a.needs_grad else [])
    gradients = [
        Gradient(x, scratch_bytes=made.n_bytes if x is small or x.itemsize != itemsize else 0)
        for x in (a, b)
    ]
    return program.record("mul", [a, b], made, saves=saves, gradients=gradients)


def pointwise(program: Program, x: Tensor, *, name: str, saves: str = "nothing") -> Tensor:
    """A function of each number, which saves its ``input``, its ``output`` or ``nothing``."""
    made = Tensor(name, x.numel, x.itemsize, made_from=(x,))
    kept = {"input": [x], "output": [made], "nothing": []}[saves]
    return program.record(name, [x], made, saves=kept, gradients=[Gradient(x)])


def in_place(program: Program, x: Tensor, *, name: str) -> Tensor:
    """A function written over what it reads, gradient and all."""
    seen = Tensor(x.name, x.numel, x.itemsize)
    seen.base = x.base
    return program.record(name, [x], seen, gradients=[Gradient(x, "same")])


def mean(program: Program, x: Tensor, *, numel: Any) -> Tensor:
    """A mean over the last dimension."""
    made = Tensor("mean", numel, x.itemsize)
    return program.record("mean", [x], made, gradients=[Gradient(x)])


def copy(program: Program, x: Tensor, *, numel: Any = None, name: str = "") -> Tensor:
    """A copy in another order or with rows repeated; repeated rows sum their gradients."""
    repeats = numel is not None
    made = Tensor(name or x.name, numel if repeats else x.numel, x.itemsize)
    gradient = Gradient(x, "new" if repeats else "same")
    return program.record("copy", [x], made, gradients=[gradient])


def expanded(program: Program, x: Tensor, *, numel: Any) -> Tensor:
    """Rows repeated without a copy; their gradients are summed."""
    seen = Tensor(x.name, numel, x.itemsize)
    seen.base = x.base
    return program.record("expanded", [x], seen, gradients=[Gradient(x)])


def narrow(program: Program, x: Tensor, *, numel: Any) -> Tensor:
    """A part of a tensor: a view, whose gradient is padded to the whole."""
    seen = Tensor(x.name, numel, x.itemsize, x.needs_grad, x.kind)
    seen.base = x.base
    program.record("narrow", [x], seen, gradients=[Gradient(x)])
    return seen


def split(program: Program, x: Tensor, numels: Sequence[Any]) -> tuple[Tensor, ...]:
    """Views that make up a tensor together, whose gradients are put together in one."""
    parts = tuple(Tensor(x.name, numel, x.itemsize, x.needs_grad, x.kind) for numel in numels)
    for part in parts:
        part.base = x.base
    program.record("split", [x], parts[0], gradients=[Gradient(x)], side=parts[1:])
    return parts


def cat(program: Program, parts: Sequence[Tensor], *, name: str = "cat") -> Tensor:
    """Tensors one after another; each gets a view of the gradient."""
    made = Tensor(name, sum(p.numel for p in parts), max(p.itemsize for p in parts))
    return program.record("cat", parts, made, gradients=[Gradient(p, "same") for p in parts])


def softmax(program: Program, x: Tensor, *, itemsize: float) -> Tensor:
    """A softmax over the last dimension, in the type asked for; saves its output."""
    return pointwise(program, cast(program, x, itemsize), name="softmax", saves="output")


def dropout(program: Program, x: Tensor, frac: float) -> Tensor:
    """Dropout: saves a mask of one byte a number; nothing happens at a rate of 0."""
    if not frac:
        return x
    made, mask = Tensor(f"{x.name} dropped", x.numel, x.itemsize), Tensor("mask", x.numel, 1)
    return program.record("dropout", [x], made, saves=[mask], gradients=[Gradient(x)], side=[mask])


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


def fused_attention(
    program: Program, q: Tensor, k: Tensor, v: Tensor, *, numel: Any, n_log_sums: Any,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Attention in one kernel: saves its inputs, its output and a log-sum-exp a row and head.

    Args:
        bias: added to the scores; a copy that only this operation reads.
    """
    q, k, v = (lowered(program, x) for x in (q, k, v))
    made = Tensor("attention", numel, q.itemsize)
    sums = Tensor("log-sum-exp", n_log_sums, FP32)
    side = [sums, Tensor("seed", 1, 8), Tensor("offset", 1, 8)]
    side += [bias] if bias is not None else []
    return program.record(
        "attention", [q, k, v], made, saves=[q, k, v, made, *side],
        gradients=[Gradient(q), Gradient(k), Gradient(v)], side=side,
    )  # fmt: skip


def embedding(program: Program, table: Tensor, *, numel: Any) -> Tensor:
    """Rows of a table; the ids that it saves are the step's input."""
    made = Tensor(table.name, numel, table.itemsize)
    return program.record("embedding", [table], made, gradients=[Gradient(table)])


def nll_loss(program: Program, log_probs: Tensor, targets: Tensor | None = None) -> Tensor:
    """The mean of the targets' negative log-probabilities: saves them and the targets."""
    made = Tensor("loss", 1, log_probs.itemsize)
    total = Tensor("total weight", 1, log_probs.itemsize)
    kept = [log_probs] if targets is None else [log_probs, targets]
    return program.record(
        "nll_loss", kept, made, saves=[*kept, total], gradients=[Gradient(log_probs)], side=[total]
    )  # fmt: skip


def quantised_linear(
    program: Program, x: Tensor, *, n_weights: Any, n_in: Any, n_out: Any, name: str = "",
    keeps_input: bool = False, n_copies: int = 1,
) -> Tensor:  # fmt: skip
    """A product with a frozen weight of few bits, dequantised whole for it, forward and backward.

    Args:
        keeps_input: it saves its input too, which no backward reads.
        n_copies: of the whole weight: two where it is dequantised in one type and cast to another.
    """
    made = Tensor(name, x.numel // n_in * n_out, x.itemsize)
    whole = n_copies * Tensor("dequantised weight", n_weights, x.itemsize).n_bytes
    return program.record(
        "quantised_linear", [x], made, saves=[x] if keeps_input else [],
        gradients=[Gradient(x, scratch_bytes=whole)], forward_bytes=whole,
    )  # fmt: skip


def integer_linear(
    program: Program, x: Tensor, *, n_weights: Any, n_in: Any, n_out: Any, name: str = ""
) -> Tensor:
    """A product in int8 (LLM.int8); the weight dequantised whole for its backward.

    Its input is an attribute of the node (``ctx.tensors``), not a saved tensor. Rows of the input are made int8 from an fp16 copy; sums are int32, then fp16, then its type.
    """
    n_rows = x.numel // n_in
    made = Tensor(name, n_rows * n_out, x.itemsize)
    rows = Tensor("rows in int8", x.numel, 1).n_bytes + Tensor("their scales", n_rows, FP32).n_bytes
    half = Tensor("rows in fp16", x.numel, 2).n_bytes
    sums = Tensor("sums", made.numel, 4).n_bytes
    lower = Tensor("sums in fp16", made.numel, 2).n_bytes
    whole = Tensor("dequantised weight", n_weights, x.itemsize).n_bytes
    return program.record(
        "integer_linear", [x], made, keeps=[x], gradients=[Gradient(x, scratch_bytes=whole)],
        forward_bytes=rows + larger(half - made.n_bytes, sums + lower),
    )  # fmt: skip


def gather(program: Program, x: Tensor, *, numel: Any, n_rows: Any, name: str = "") -> Tensor:
    """Rows in another order, or some of them several times: saves which (8 bytes a row)."""
    made, rows = Tensor(name or x.name, numel, x.itemsize), Tensor("rows", n_rows, 8)
    return program.record(
        "gather", [x], made, saves=[rows], gradients=[Gradient(x)], side=[rows]
    )  # fmt: skip


def total(program: Program, x: Tensor, *, numel: Any, name: str = "total") -> Tensor:
    """A sum over a dimension, whose gradient is a view spread out again."""
    made = Tensor(name, numel, x.itemsize)
    return program.record("total", [x], made, gradients=[Gradient(x, "same")])
