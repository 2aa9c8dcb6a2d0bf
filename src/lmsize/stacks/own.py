"""What classes of transformers write otherwise than Llama's, as programs (:mod:`lmsize.stacks.classes`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lmsize.model.parts import Part
from lmsize.model.spec import Block
from lmsize.stacks.sections import Kind, Section, is_plain, sections
from lmsize.tape.program import Program, Tensor

if TYPE_CHECKING:
    from lmsize.stacks.setting import Setting, Style

Branch = Callable[[Program, Tensor, Section, "Setting", "Style"], Tensor]


def _as_it_is(
    _program: Program, x: Tensor, block: Block, _setting: Setting, _style: Style
) -> tuple[Tensor, tuple[Part, ...]]:
    return x, block.parts


@dataclass(frozen=True, slots=True)
class Own:
    """The pieces that a family's classes write for themselves; what is None or absent is as usual.

    Every function takes the program, the tensor or block it works on, the setting and the style.

    Attributes:
        branches: by kind, from what a branch reads to what it adds to the stream.
        layer: a whole layer, from stream to stream; told its block.
        tables: what comes before the layers; told its block and the use of the vocabulary's table,
            gives the stream and the leaf that asks for gradients where tables are frozen.
        ending: what is done to the stream before the last norm; gives it with the parts that are left.
        shares: whether every layer reads something made before them that gets a gradient.
    """

    branches: Mapping[Kind, Branch] = field(default_factory=dict)
    layer: Callable[[Program, Tensor, Block, Setting, Style], Tensor] | None = None
    tables: Callable[..., tuple[Tensor, Tensor | None]] | None = None
    ending: Callable[..., tuple[Tensor, tuple[Part, ...]]] = _as_it_is
    shares: bool = False


USUAL = Own()


def none(_model_type: str) -> Own:
    """Of a stack whose classes are its own."""
    return USUAL


def is_understood(block: Block, written: Own) -> bool:
    """Whether every branch of a layer has a program of its own."""
    if block.role != "layer" or written.layer is not None:
        return True
    return all(s.kind in written.branches or is_plain(s) for s in sections(block))
