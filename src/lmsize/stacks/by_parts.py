"""A branch whose code has no program of its own: its parts in order, each fed by what fits it.

A part reads the newest tensor of the width that it takes; attention the newest queries, keys and
values of the sizes of its heads; two tensors of one width before a matrix that takes that width are
an activation times its gate. A recurrence is one kernel that saves what it reads, as those of
flash-linear-attention and mamba_ssm do.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmsize.model.parts import AttentionCore, Conv, Experts, Linear, Norm, Part, Scan
from lmsize.stacks.experts import routed_experts
from lmsize.stacks.indexed import picked
from lmsize.stacks.linears import applied
from lmsize.stacks.mlp import gated_mlp
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import Setting, Style, normed, parameter
from lmsize.tape import kernels, ops
from lmsize.tape.program import Program, Tensor


@dataclass(slots=True)
class _Made:
    """A tensor, its numbers a token, and whether a part has read it."""

    tensor: Tensor
    width: int
    is_read: bool = False


def by_parts(
    program: Program, x: Tensor, section: Section, setting: Setting, style: Style, *, width: int
) -> Tensor:
    """From the normed stream of that width to what the branch adds to it."""
    walk = _Walk(program, x, width, setting, style)
    walk.index = section.index
    for part in section.parts:
        walk.take(part)
    return walk.result()


class _Walk:
    """Tensors made so far, the newest last."""

    def __init__(
        self, program: Program, x: Tensor, width: int, setting: Setting, style: Style
    ) -> None:
        self._program, self._setting, self._style = program, setting, style
        self._made = [_Made(x, width, is_read=True)]
        self._width = width
        self.index: list[Part] = []

    def take(self, part: Part) -> None:
        """Run a part on what fits it."""
        if isinstance(part, Linear) and part.per_token >= 1:
            self._linear(part)
        elif isinstance(part, Conv):
            self._conv(part)
        elif isinstance(part, Norm):
            self._norm(part)
        elif isinstance(part, AttentionCore):
            self._core(part)
        elif isinstance(part, Scan):
            self._scan(part)
        elif isinstance(part, Experts):
            found = self._of(part.matrices[0][1])
            weights = self._of(part.n_experts)
            made = routed_experts(
                self._program, found, self._chosen(weights, part), part, setting=self._setting,
                style=self._style,
            )  # fmt: skip
            self._put(made, part.matrices[-1][2])

    def result(self) -> Tensor:
        """The newest of the stream's width; others of that width that nothing read are gates."""
        made = self._of(self._width)
        for left in self._unread(self._width):
            opened = ops.pointwise(self._program, left, name="sigmoid", saves="output")
            made = ops.mul(self._program, made, opened)
        return made

    def _put(self, tensor: Tensor, width: int) -> None:
        self._made.append(_Made(tensor, width))

    def _of(self, width: int) -> Tensor:
        """The newest tensor of that width, or else a part of a wider one, or else one repeated."""
        fits = [m for m in self._made if m.width == width]
        wider = [m for m in self._made if m.width > width]
        found = (fits or wider or self._made)[-1]
        found.is_read = True
        numel = self._setting.n_tokens * width
        if found.width == width:
            return found.tensor
        if found.width > width:
            return ops.narrow(self._program, found.tensor, numel=numel)
        return ops.copy(self._program, found.tensor, numel=numel)

    def _unread(self, width: int) -> list[Tensor]:
        found = [m for m in self._made if m.width == width and not m.is_read]
        for made in found:
            made.is_read = True
        return [made.tensor for made in found]

    def _linear(self, part: Linear) -> None:
        n_in, n_out = part.n_in * part.n_modules, part.n_out * part.n_modules
        waiting = self._unread(n_in)
        if len(waiting) > 1:
            gate, other = waiting[-2:]
            kind = self._setting.conduct.activation
            x = gated_mlp(self._program, gate, lambda: other, kind, self._style)
        else:
            x = waiting[0] if waiting else self._of(n_in)
        if part.n_modules == 1:
            self._put(applied(self._program, x, part, self._setting), n_out)
            return
        weight = parameter(
            self._program, part.name, part.n_in * part.n_out * part.n_modules, self._setting
        )
        lower = ops.lowered(self._program, ops.cast(self._program, x, weight.itemsize))
        numel = self._setting.n_tokens * n_out
        low = ops.lowered(self._program, weight)
        self._put(ops.grouped_linear(self._program, lower, low, numel=numel), n_out)

    def _conv(self, part: Conv) -> None:
        weight = parameter(
            self._program, part.name, part.n_out * part.n_in // part.n_groups * part.kernel,
            self._setting,
        )  # fmt: skip
        x = ops.lowered(self._program, self._of(part.n_in))
        made = kernels.convolution(
            self._program, x, ops.lowered(self._program, weight),
            numel=self._setting.n_tokens * part.n_out, name=part.name,
        )  # fmt: skip
        self._put(self._style.activation(self._program, made, "silu"), part.n_out)

    def _norm(self, part: Norm) -> None:
        """Of a tensor of its width, or of heads of it."""
        found = next((m for m in reversed(self._made) if m.width % part.width == 0), self._made[-1])
        rows = self._setting.n_tokens * max(1, found.width // part.width)
        found.tensor = normed(
            self._program, found.tensor, part, self._setting, self._style, n_rows=rows
        )

    def _core(self, part: AttentionCore) -> None:
        """A core without values is an indexer: it only scores."""
        q, k = self._of(part.n_heads * part.head_dim), self._of(part.n_kv_heads * part.head_dim)
        if not part.v_head_dim:
            return
        if self.index:
            self._pick()
        v = self._of(part.n_kv_heads * part.v_head_dim)
        self._put(self._style.core(self._program, (q, k, v), part, self._setting),
                  part.n_heads * part.v_head_dim)  # fmt: skip

    def _pick(self) -> None:
        """The mask of an indexer, which reads the branch's input and the queries' bottleneck."""
        reads = next(p for p in self.index if isinstance(p, Linear) and p.name.endswith("wq_b"))
        core = next(p for p in self.index if isinstance(p, AttentionCore))
        mask = picked(
            self._program, self._made[0].tensor, self._of(reads.n_in), self.index,
            core.head_dim // 2, setting=self._setting, style=self._style,
        )  # fmt: skip
        self._program.in_branch.append(mask)

    def _scan(self, part: Scan) -> None:
        """One kernel over all that waits; gives values of the width of the widest of them."""
        waiting = [m for m in self._made if not m.is_read] or self._made[-1:]
        for made in waiting:
            made.is_read = True
        width = part.width if part.kind else max(m.width for m in waiting)
        reads = [m.tensor for m in waiting]
        out = Tensor("scanned", self._setting.n_tokens * width, reads[0].itemsize)
        self._put(kernels.scan(self._program, reads, out), width)

    def _chosen(self, scores: Tensor, bank: Experts) -> Tensor:
        t = self._setting.n_tokens * bank.top_k
        probs = ops.softmax(self._program, scores, itemsize=4)
        return ops.gather(self._program, probs, numel=t, n_rows=t, name="weights")
