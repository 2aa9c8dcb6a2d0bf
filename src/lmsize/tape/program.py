"""A program: operations in the order in which they run, over tensors that have only a size.

Sizes are numbers or NumPy arrays over candidates; which operation follows which never depends on
them, so that one program serves a million layouts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from lmsize.numbers import ceil_div

# Operations whose backward reads its inputs from memory, so that a compiler keeps them as they are.
WHOLE_INPUTS = frozenset(("linear", "scaled_mm", "grouped_linear", "matmul", "attention"))
GRANULE = 512  # bytes that an accelerator's allocator gives at least, and in multiples of
GradKind = Literal["new", "same", "saved"]


def rounded_bytes(n_bytes: Any) -> Any:
    """What an accelerator's allocator gives for a request."""
    return ceil_div(n_bytes, GRANULE) * GRANULE


@dataclass(slots=True, eq=False)
class Tensor:
    """A tensor: a size, a number type and the storage it lies in.

    Attributes:
        itemsize: bytes of one number.
        base: the tensor whose storage this one is a view of; itself for most.
        kind: ``local`` tensors come and go with the program; a ``parameter`` and what was
            ``given`` (masks) are held elsewhere and counted there. The gradient of a ``waiting``
            parameter is kept until that of its other use, ``shared``, is added to it.
        made_from: what it can be computed from again, number by number; None if it is dear.
        needs_grad: whether a gradient flows to it.
    """

    name: str
    numel: Any
    itemsize: float
    needs_grad: bool = False
    kind: Literal["local", "parameter", "shared", "waiting", "given"] = "local"
    base: Tensor = field(init=False)
    made_from: tuple[Tensor, ...] | None = None
    _n_bytes: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.base = self

    @property
    def n_bytes(self) -> Any:
        """What an accelerator's allocator gives for it."""
        if self._n_bytes is None:
            self._n_bytes = rounded_bytes(self.numel * self.itemsize)
        return self._n_bytes

    @property
    def is_counted(self) -> bool:
        """Whether its storage belongs to the program."""
        return self.base.kind == "local"


class Gradient(NamedTuple):
    """What an operation's backward gives to one of its inputs.

    Attributes:
        kind: a ``new`` tensor of the input's size, the ``same`` storage as the output's, or the
            ``saved`` one, overwritten.
        scratch_bytes: what the node holds besides while it makes it.
        form_bytes: a first form, which is what the node makes; the engine makes this one of it once
            the node is done (a sum over broadcast dimensions, a cast: ``validate_outputs``); None
            where there is none.
    """

    to: Tensor
    kind: GradKind = "new"
    scratch_bytes: Any = 0
    form_bytes: Any = None


@dataclass(slots=True, eq=False)
class Op:
    """One operation, forward and backward.

    Attributes:
        reads: its inputs; `writes` its outputs (the first is what gradients come back to).
        saves: what autograd keeps for its backward.
        clings: what its node holds as an attribute of its own, which autograd does not let go of
            after the backward, nor a checkpoint reach: it lives as long as the graph.
        gradients: in the order in which the backward makes them.
        forward_bytes: temporaries of the forward; `backward_bytes` of the backward.
        makes: the storages that `writes` add; `keeps` those of `saves`, and `holds` of `clings`,
            that belong to the program, each once.
    """

    name: str
    reads: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]
    saves: tuple[Tensor, ...] = ()
    gradients: tuple[Gradient, ...] = ()
    forward_bytes: Any = 0
    backward_bytes: Any = 0
    clings: tuple[Tensor, ...] = ()
    makes: tuple[Tensor, ...] = field(init=False)
    keeps: tuple[Tensor, ...] = field(init=False)
    holds: tuple[Tensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.makes = tuple([t for t in self.writes if t.base is t and t.kind == "local"])
        self.keeps, self.holds = storages(self.saves), storages(self.clings)


def storages(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Those that tensors lie in and that belong to their program, each once."""
    if not tensors:
        return ()
    return tuple(dict.fromkeys([t.base for t in tensors if t.base.kind == "local"]))


@dataclass(frozen=True, slots=True)
class Segment:
    """Operations whose tensors are let go of after the forward, and made again for the backward.

    Attributes:
        start, stop: which operations.
        back: the operation before whose backward they are there again.
        outputs: whether what later operations save of them goes as well.
        spared: names of tensors that stay.
    """

    start: int
    stop: int
    back: int
    outputs: bool
    spared: frozenset[str] = frozenset()


class Program:
    """A block under construction: operations append themselves (:mod:`lmsize.tape.ops`).

    Attributes:
        autocast: itemsize that matrix products cast their inputs to; None without autocast.
        fuses_weight_gradients: products add to gradients that are there, and make no tensor.
        is_compiled: what is cheap to compute again is not saved, but what it is made from.
        trains_base: whether parameters of activations get gradients.
        learns: whether autograd follows what is recorded.
        weights: ``made`` or ``read`` where blocks share their weights: whether this is the first of
            them; `is_last` whether it is the last, which makes their gradients first.
        memory: what another tower hands to every block of this one.
        bias: what is added to the scores of the attention that comes next; None for nothing.
        handed: what is made here and read by later blocks too, which is there until the last of
            them has run.
        awaited: what later blocks read as well, whose gradients they have begun.
        segments: what is recomputed though the block as a whole is not.
        module_keeps: what a module of the block keeps by name until it runs again. Where it was made by a run
            from a detached leaf, the leaf and its gradient stay with it.
        cached: casts of parameters that autocast keeps until the forward ends.
        inner: what the last projection of a branch read.
        casts: by tensor and itemsize, the last that was made.
        named: what local variables of the block's own code still name when it ends.
        returned: what the last attention gave beside its output, which the block names until the next.
        returns_at: the number of operations of the model itself, after which the script has its
            outputs and lets go of those of the micro-batch before; None for all.
        in_branch: what the code of a branch names until its sum with the stream is taken.
        names_rows: whether the model names what was looked up, and not what the layers are given.
        lingering: what a block hands back beside its output, until the next one has run.
    """

    def __init__(
        self, *, autocast: float | None = None, fuses_weight_gradients: bool = False,
        is_compiled: bool = False, trains_base: bool = True, weights: str = "", is_last: bool = False,
    ) -> None:  # fmt: skip
        self.trains_base = trains_base
        self.learns = True
        self.ops: list[Op] = []
        self.autocast = autocast
        self.fuses_weight_gradients = fuses_weight_gradients
        self.is_compiled = is_compiled
        self.weights, self.is_last = weights, is_last
        self.cached: list[Tensor] = []
        self.segments: list[Segment] = []
        self.module_keeps: Tensor | None = None
        self.inputs: list[Tensor] = []
        self.memory: Tensor | None = None
        self.bias: Tensor | None = None
        self.handed: list[Tensor] = []
        self.awaited: list[Tensor] = []
        self.casts: dict[tuple[int, float], Tensor] = {}
        self.named: list[Tensor] = []
        self.returned: tuple[Tensor, ...] = ()
        self.inner: Tensor | None = None
        self.returns_at: int | None = None
        self.outputs: list[Tensor] = []
        self.in_branch: list[Tensor] = []
        self.names_rows = False
        self.lingering: list[Tensor] = []

    def input(self, name: str, numel: Any, itemsize: float, *, needs_grad: bool) -> Tensor:
        """The tensor that the block before hands over."""
        tensor = Tensor(name, numel, itemsize, needs_grad)
        self.inputs.append(tensor)
        return tensor

    def given(
        self, name: str, numel: Any, itemsize: float, *, needs_grad: bool, awaited: bool
    ) -> Tensor:
        """What every block of a tower reads; held elsewhere, its gradient here.

        Args:
            awaited: whether blocks that are undone before have begun its gradient.
        """
        tensor = Tensor(name, numel, itemsize, needs_grad, "given")
        if awaited and needs_grad:
            self.awaited.append(tensor)
        return tensor

    def hand_on(self, tensor: Tensor) -> None:
        """Later blocks read it too."""
        self.handed.append(tensor)
        if tensor.needs_grad:
            self.awaited.append(tensor)

    def parameter(
        self, name: str, numel: Any, itemsize: float, *, trained: bool,
        kind: Literal["parameter", "shared", "waiting"] = "parameter",
    ) -> Tensor:  # fmt: skip
        """A weight, held elsewhere; its gradient is made here, or added to what there is."""
        if self.weights and kind == "parameter":
            kind = "waiting" if self.is_last else "shared"
        return Tensor(name, numel, itemsize, trained, kind)

    def record(
        self, name: str, reads: Sequence[Tensor], write: Tensor, *,
        saves: Sequence[Tensor] = (), gradients: Sequence[Gradient] = (),
        forward_bytes: Any = 0, backward_bytes: Any = 0, side: Sequence[Tensor] = (),
        clings: Sequence[Tensor] = (),
    ) -> Tensor:  # fmt: skip
        """Append an operation and give its output back.

        Args:
            side: further outputs that only its own backward reads (masks, log-sum-exps).
            clings: what stays with its node after the backward.
        """
        wanted = tuple(g for g in gradients if g.to.needs_grad and self.learns)
        write.needs_grad = bool(wanted)
        if self.is_compiled and name not in WHOLE_INPUTS:
            saves = [dear for tensor in saves for dear in _dear(tensor)]
        if self.fuses_weight_gradients and wanted:
            wanted = tuple(g for g in wanted if g.to.kind == "local")
        kept = tuple(saves) if write.needs_grad else ()
        self.ops.append(
            Op(
                name, tuple(reads), (write, *side), kept, wanted, forward_bytes, backward_bytes,
                tuple(clings) if write.needs_grad else (),
            )
        )  # fmt: skip
        return write

    def recompute(
        self, start: int, *, stop: int | None = None, outputs: bool = False,
        spared: Iterable[str] = (),
    ) -> None:  # fmt: skip
        """Let go of what the operations from `start` on make, until the last so far is undone.

        Unless `outputs` go as well, what they are given is saved, as a checkpoint saves it.
        """
        last = len(self.ops)
        until = last if stop is None else stop
        if not outputs:
            first = self.ops[start]
            self.ops[start] = replace(first, saves=(*first.saves, *given_to(self.ops[start:until])))
        self.segments.append(Segment(start, until, last - 1, outputs, frozenset(spared)))

    def hold(self, *tensors: Tensor) -> None:
        """Local variables of a function that ends here: what they name lived until now."""
        self.ops.append(Op("return", tensors, ()))

    def end_branch(self) -> None:
        """The sum with the stream is taken, and the branch's local variables go."""
        self.hold(*self.in_branch)
        self.in_branch.clear()


def given_to(ops: Sequence[Op]) -> list[Tensor]:
    """What operations read of what others made before, each storage once, where a gradient flows to it."""
    made = {t.base for op in ops for t in op.writes}
    found = {
        t.base: t for op in ops if op.writes for t in op.reads
        if t.is_counted and t.needs_grad and t.base not in made
    }  # fmt: skip
    return list(found.values())


def _dear(tensor: Tensor) -> list[Tensor]:
    """The tensors from which a compiler computes `tensor` again."""
    if tensor.made_from is None:
        return [tensor]
    return [dear for source in tensor.made_from for dear in _dear(source)]
