"""A block's modules by the names that its class has for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmsize.model.parts import AttentionCore, Conv, Experts, Linear, Norm, Part, Plain
from lmsize.model.spec import Block
from lmsize.stacks.experts import routed_experts
from lmsize.stacks.linears import applied
from lmsize.stacks.local import local_part
from lmsize.stacks.setting import Setting, Style, normed, parameter
from lmsize.tape import kernels, ops
from lmsize.tape.program import Program, Tensor


@dataclass(slots=True)
class Modules:
    """What a class's ``forward`` calls: its modules, as one rank has them, on tensors of a program."""

    program: Program
    parts: tuple[Part, ...]
    setting: Setting
    style: Style

    @classmethod
    def of(cls, program: Program, block: Block, setting: Setting, style: Style) -> Modules:
        """Those of a block, as one tensor-parallel rank has them."""
        parts = tuple(local_part(part, setting.layout) for part in block.parts)
        return cls(program, parts, setting, style)

    def find(self, name: str) -> Part | None:
        """The part of that path, or else one whose path ends so; None if there is none."""
        fits = [p for p in self.parts if _is_called(p, name)]
        return next((p for p in fits if getattr(p, "name", "") == name), fits[0] if fits else None)

    def has(self, name: str) -> bool:
        """Whether the block has such a module."""
        return self.find(name) is not None

    def linear(self, name: str, x: Tensor) -> Tensor:
        """A linear layer, with its adapter if it has one."""
        part = self.find(name)
        assert isinstance(part, Linear), name
        return applied(self.program, x, part, self.setting)

    def raised_linear(self, name: str, x: Tensor) -> Tensor:
        """``F.linear(x.float(), weight.float())``."""
        part = self.find(name)
        assert isinstance(part, Linear), name
        raised = ops.cast(self.program, x, 4)
        weight = ops.cast(
            self.program,
            parameter(self.program, part.name, part.n_in * part.n_out, self.setting),
            4,
        )
        return ops.linear(self.program, raised, weight, n_in=part.n_in, n_out=part.n_out)

    def norm(self, name: str, x: Tensor, *, n_rows: Any = None) -> Tensor:
        """A norm of tokens, or of `n_rows` rows."""
        part = self.find(name)
        assert isinstance(part, Norm), name
        return normed(self.program, x, part, self.setting, self.style, n_rows=n_rows)

    def plain(self, name: str) -> Tensor:
        """Any other parameter."""
        part = self.find(name)
        assert isinstance(part, Plain | Conv | Linear), name
        weight = next(iter(part.parameters()))
        return parameter(self.program, part.name, weight.n_params, self.setting)

    def grouped(self, name: str, x: Tensor) -> Tensor:
        """A product for each group of channels (``baddbmm``), with a bias if it has one."""
        part = self.find(name)
        assert isinstance(part, Linear), name
        n = part.n_modules
        weight = ops.lowered(self.program, self.vector(part.name, n * part.n_in * part.n_out))
        bias = self.vector(f"{part.name}.bias", n * part.n_out) if part.bias else None
        return ops.grouped_linear(
            self.program, ops.lowered(self.program, x), weight, numel=x.numel // part.n_in * part.n_out,
            bias=None if bias is None else ops.lowered(self.program, bias), name=name,
        )  # fmt: skip

    def experts(self, name: str, x: Tensor, weights: Tensor) -> Tensor:
        """A bank of experts over tokens, each weighted."""
        part = self.find(name)
        assert isinstance(part, Experts), name
        return routed_experts(
            self.program, x, weights, part, setting=self.setting, style=self.style
        )

    def conv(self, name: str, x: Tensor, *, n_rows: Any = 0) -> Tensor:
        """A convolution along the sequence, of any groups; of kernel 1 and one group, a matrix.

        Args:
            n_rows: sequences whose ends it pads by its kernel, less one.
        """
        part = self.find(name)
        assert isinstance(part, Conv | Linear), name
        bias = self.vector(f"{part.name}.bias", part.n_out) if part.bias else None
        lower = [
            None if y is None else ops.lowered(self.program, y) for y in (x, self.plain(name), bias)
        ]
        assert lower[0] is not None
        assert lower[1] is not None
        padding = n_rows * (part.kernel - 1) if isinstance(part, Conv) else 0
        numel = (x.numel // part.n_in + padding) * part.n_out
        return kernels.convolution(
            self.program, lower[0], lower[1], numel=numel, bias=lower[2], name=name
        )

    def vector(self, name: str, numel: Any) -> Tensor:
        """A parameter by its full path."""
        return parameter(self.program, name, numel, self.setting)

    @property
    def core(self) -> AttentionCore:
        """Of the block's attention."""
        return next(p for p in self.parts if isinstance(p, AttentionCore))


def _is_called(part: Part, name: str) -> bool:
    own = getattr(part, "name", "")
    return bool(own == name or own.endswith(f".{name}"))
