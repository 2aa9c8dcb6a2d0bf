"""The vocabulary: what each operation reads, writes, saves and gives back.

The operations are those of autograd, so that a layer's memory follows from how it is written:
a norm in Python is a cast, a power, a mean, a root and two products; a fused one is one operation.
Casts under autocast happen where torch makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmsize.tape.casts import Casts, both, operands, record_cast
from lmsize.tape.program import Gradient, GradKind, Program, Tensor

FP32 = 4


def view(_program: Program, x: Tensor, *, numel: Any = None) -> Tensor:
    """Another look at the same storage, whose gradient is the same storage too."""
    seen = Tensor(x.name, x.numel if numel is None else numel, x.itemsize, x.needs_grad, x.kind)
    seen.base = x.base
    _program.record("view", [x], seen, gradients=[Gradient(x, "same")])
    return seen


def cast(program: Program, x: Tensor, itemsize: float, *, name: str = "") -> Tensor:
    """The same numbers in another type; itself if it has it. A compiler casts the same but once."""
    if x.itemsize == itemsize:
        return x
    known = program.casts.get((id(x), itemsize)) if program.is_compiled else None
    if known is not None:
        return known
    made = Tensor(name or f"{x.name} cast", x.numel, itemsize)
    made.made_from = (x,) if x.kind == "local" else None
    program.casts[id(x), itemsize] = made
    return program.record("cast", [x], made, gradients=[Gradient(x)])


def lowered(program: Program, x: Tensor) -> Tensor:
    """What autocast makes of the input of a matrix product; casts of leaves are kept."""
    if program.autocast is None or x.itemsize <= program.autocast:
        return x
    is_leaf = x.kind in ("parameter", "shared", "waiting") and x.needs_grad
    if is_leaf and program.weights == "read":  # the first block's cast, whose gradient it gets
        return program.given(
            f"{x.name} cast",
            x.numel,
            program.autocast,
            needs_grad=True,
            awaited=not program.is_last,
        )
    if is_leaf and program.weights:
        x.kind = "parameter"
    made = cast(program, x, program.autocast)
    if is_leaf:
        program.cached.append(made)
        if program.weights:
            program.hand_on(made)
    return made


def raised(program: Program, x: Tensor) -> Tensor:
    """What autocast makes of the input of an operation that it runs in fp32."""
    return x if program.autocast is None else cast(program, x, FP32)


def linear(
    program: Program, x: Tensor, weight: Tensor, *, n_in: Any, n_out: Any, bias: Tensor | None = None,
    name: str = "", gathers: Any = 1, scatters: Any = 1, casts: Casts | None = None,
    in_buffer: bool = False,
) -> Tensor:  # fmt: skip
    """A matrix product: saves its input for the weight, and its weight for the input.

    Args:
        gathers: ranks whose tokens it gathers for the product, and again for its backward.
        in_buffer: gathers them in a buffer that is there anyway; only the gradient of all their
            tokens is made, and lies there until that of the weight is.
        scatters: ranks over which its summed output is divided.
        casts: how operands are cast to fewer bits for it; None where they are not.
    """
    x, weight = lowered(program, x), lowered(program, weight)
    if bias is not None:
        bias = lowered(program, bias)
    of_whole = x.n_bytes * gathers if _is_spread(gathers) else 0
    whole_in = 0 if in_buffer else of_whole
    made = Tensor(name or weight.name, x.numel * gathers // n_in * n_out // scatters, x.itemsize)
    whole_out = made.n_bytes * scatters if _is_spread(scatters) else 0
    gradients = [Gradient(bias)] if bias is not None else []
    reads = [x, weight] if bias is None else [bias, x, weight]
    if casts is not None:
        few = operands(casts, x, made.numel * scatters, n_ranks=gathers)
        gradients += [
            Gradient(x, scratch_bytes=whole_in + few.backward_bytes),
            Gradient(weight, scratch_bytes=few.backward_bytes),
        ]
        return record_cast(
            program, casts.product, reads, made, gradients=gradients, few=few,
            forward_bytes=whole_out,
        )  # fmt: skip
    # Added to the main gradients, the weight's product comes last and still needs what was gathered.
    held = whole_in + whole_out if program.fuses_weight_gradients else 0
    gradients += [
        Gradient(x, scratch_bytes=of_whole + held),
        Gradient(weight, scratch_bytes=of_whole if in_buffer else 0),
    ]
    return program.record(
        "linear", reads, made, saves=both(x, weight), gradients=gradients,
        forward_bytes=whole_in + whole_out, backward_bytes=whole_in + whole_out,
    )  # fmt: skip


def _is_spread(n_ranks: Any) -> bool:
    return not (isinstance(n_ranks, int) and n_ranks == 1)


def grouped_linear(
    program: Program, x: Tensor, weight: Tensor, *, numel: Any, bias: Tensor | None = None,
    name: str = "", casts: Casts | None = None,
) -> Tensor:  # fmt: skip
    """Products with a matrix for each group, of rows (experts) or of channels (convolutions).

    Saves what a linear saves.
    """
    made = Tensor(name, numel, x.itemsize)
    inputs = [x, weight] if bias is None else [x, weight, bias]
    gradients = [Gradient(one) for one in inputs]
    if casts is not None:
        few = operands(casts, x, made.numel, n_ranks=1)
        held = [Gradient(g.to, scratch_bytes=few.backward_bytes) for g in gradients]
        return record_cast(program, "grouped_linear", inputs, made, gradients=held, few=few)
    return program.record(
        "grouped_linear", inputs, made, saves=both(x, weight), gradients=gradients
    )


def matmul(program: Program, a: Tensor, b: Tensor, *, numel: Any, name: str = "") -> Tensor:
    """A product of two activations."""
    a, b = lowered(program, a), lowered(program, b)
    made = Tensor(name, numel, a.itemsize)
    return program.record(
        "matmul", [a, b], made, saves=both(a, b), gradients=[Gradient(a), Gradient(b)]
    )


def add(
    program: Program, a: Tensor, b: Tensor, *, name: str = "sum", is_row: bool = False
) -> Tensor:
    """A sum: saves nothing, and hands its gradient on as it is, cast to the type of each.

    Args:
        is_row: `b` is one row, added to all, over which its gradient is summed.
    """
    itemsize = max(a.itemsize, b.itemsize)
    made = Tensor(name, a.numel, itemsize)
    gradients = [
        Gradient(x, "new" if x.itemsize != itemsize or (is_row and x is b) else "same")
        for x in (a, b)
    ]
    return program.record("add", [a, b], made, gradients=gradients)


def mul(
    program: Program, a: Tensor, b: Tensor, *, small: Tensor | tuple[Tensor, ...] = (),
    numel: Any = None, name: str = "product",
) -> Tensor:  # fmt: skip
    """A product, number by number: saves each side for the other.

    Args:
        small: the side that is broadcast, or both.
        numel: of the product, where both are broadcast.
    """
    itemsize = max(a.itemsize, b.itemsize)
    broadcast = small if isinstance(small, tuple) else (small,)
    if numel is None:
        numel = b.numel if broadcast == (a,) else a.numel
    made = Tensor(name, numel, itemsize, made_from=(a, b))
    gradients = [
        Gradient(x, form_bytes=made.n_bytes if x in broadcast or x.itemsize != itemsize else None)
        for x in (a, b)
    ]
    return program.record("mul", [a, b], made, saves=both(a, b), gradients=gradients)


def pointwise(
    program: Program, x: Tensor, *, name: str, saves: str = "nothing", n_masked: Any = None,
    scratch_bytes: Any = 0, itemsize: float | None = None,
) -> Tensor:  # fmt: skip
    """A function of each number, which saves its ``input``, its ``output`` or ``nothing``.

    Args:
        n_masked: bytes of a mask that it saves as well, made for it.
        scratch_bytes: what its backward holds besides while it makes the gradient.
        itemsize: of the output, if not the input's.
    """
    made = Tensor(name, x.numel, itemsize or x.itemsize, made_from=(x,))
    kept = {"input": [x], "output": [made], "nothing": []}[saves]
    side = [Tensor("mask", n_masked, 1)] if n_masked is not None else []
    gradients = [Gradient(x, scratch_bytes=scratch_bytes)]
    return program.record(name, [x], made, saves=[*kept, *side], gradients=gradients, side=side)


def power(program: Program, x: Tensor, *, name: str) -> Tensor:
    """A power: saves its input.

    Its backward is one expression, ``grad * (exponent * x ** (exponent - 1))``, whose parts live to
    its end (``pow_backward``).
    """
    return pointwise(program, x, name=name, saves="input", scratch_bytes=2 * x.n_bytes)


def in_place(program: Program, x: Tensor, *others: Tensor, name: str) -> Tensor:
    """A function written over the first that it reads, gradient and all."""
    seen = Tensor(x.name, x.numel, x.itemsize)
    seen.base = x.base
    gradients = [Gradient(t, "same" if t.itemsize == x.itemsize else "new") for t in (x, *others)]
    return program.record(name, [x, *others], seen, gradients=gradients)


def mean(program: Program, x: Tensor, *, numel: Any) -> Tensor:
    """A mean over the last dimension."""
    return total(program, x, numel=numel, name="mean", kind="new")


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


def softmax(program: Program, x: Tensor, *, itemsize: float, reads_half: bool = False) -> Tensor:
    """A softmax over the last dimension, in the type asked for; saves its output.

    Args:
        reads_half: its kernel takes fp16 and gives fp32, without a copy (``half_to_float``).
    """
    x = x if reads_half and itemsize > x.itemsize else cast(program, x, itemsize)
    return pointwise(program, x, name="softmax", saves="output", itemsize=itemsize)


def dropout(program: Program, x: Tensor, frac: float) -> Tensor:
    """Dropout: saves a mask of one byte a number; nothing happens at a rate of 0."""
    if not frac:
        return x
    made, mask = Tensor(f"{x.name} dropped", x.numel, x.itemsize), Tensor("mask", x.numel, 1)
    return program.record("dropout", [x], made, saves=[mask], gradients=[Gradient(x)], side=[mask])


def gather(
    program: Program, x: Tensor, *, numel: Any, n_rows: Any, name: str = "",
    keeps_input: bool = False,
) -> Tensor:  # fmt: skip
    """Rows in another order, or some of them several times: saves which (8 bytes a row).

    Args:
        keeps_input: of ``torch.gather``, which saves what it picks from for its shape.
    """
    made, rows = Tensor(name or x.name, numel, x.itemsize), Tensor("rows", n_rows, 8)
    return program.record(
        "gather", [x], made, saves=[rows, x] if keeps_input else [rows], gradients=[Gradient(x)], side=[rows]
    )  # fmt: skip


def total(
    program: Program, x: Tensor, *, numel: Any, name: str = "total", kind: GradKind = "same"
) -> Tensor:
    """A sum over a dimension, whose gradient is a view spread out again (or of another `kind`)."""
    made = Tensor(name, numel, x.itemsize)
    return program.record(name, [x], made, gradients=[Gradient(x, kind)])
