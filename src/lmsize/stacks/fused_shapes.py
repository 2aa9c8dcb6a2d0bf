"""The matrices of a block as Megatron has them: queries, keys and values in one, gate and values too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmsize.layout.degrees import Layout
from lmsize.model.parts import Linear
from lmsize.model.spec import Block
from lmsize.stacks.further import parts_of
from lmsize.stacks.latent import is_latent
from lmsize.stacks.local import local_linear, local_section
from lmsize.stacks.sections import Section, sections

Shape = tuple[Any, Any]


def fused_shapes(block: Block, layout: Layout) -> Iterator[Shape]:
    """(inputs, outputs) of each matrix on one rank; every expert's once."""
    if block.role == "head":
        for part in block.parts:
            if isinstance(part, Linear):
                local = local_linear(part, layout)
                yield local.n_in, local.n_out
    if block.role == "further":
        further = parts_of(block)
        joined = local_linear(further.joined, layout)
        yield joined.n_in, joined.n_out
        block = further.layer
    if block.role == "layer":
        for section in sections(block):
            yield from _of_section(local_section(section, layout))


def _of_section(section: Section) -> Iterator[Shape]:
    if section.experts is not None:
        yield from ((n_in, n_out) for _, n_in, n_out in section.experts.matrices)
    ups, downs = section.linears, section.outputs
    if section.core is None and ups:
        *ups, last = ups
        downs = [last, *downs]
    if is_latent(section):
        yield from ((part.n_in, part.n_out) for part in ups)
    elif ups:
        yield ups[0].n_in, sum(part.n_out for part in ups)
    yield from ((part.n_in, part.n_out) for part in downs)
