"""MobileBERT: layers that work at a narrower width than the stream's, several MLPs each.

transformers 5.23, ``modeling_mobilebert.py``: ``MobileBertLayer``, ``NoNorm``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lmsize.model.parts import Linear, Part
from lmsize.model.spec import Block
from lmsize.stacks.named import Modules
from lmsize.stacks.own import Own
from lmsize.stacks.setting import Setting, Style
from lmsize.tape import ops
from lmsize.tape.program import Op, Program, Tensor

BESIDE = "cls.predictions.dense"


def layer(program: Program, stream: Tensor, block: Block, setting: Setting, style: Style) -> Tensor:
    """Two bottlenecks, attention, MLPs, and back to the stream's width."""
    modules = Modules.of(program, block, setting, style)
    narrow = asked = stream
    if modules.has("bottleneck.input.dense"):
        narrow = asked = _normed(
            modules, "bottleneck.input", modules.linear("bottleneck.input.dense", stream)
        )
    if modules.has("bottleneck.attention.dense"):
        asked = _normed(
            modules, "bottleneck.attention", modules.linear("bottleneck.attention.dense", stream)
        )
    q, k = (modules.linear(f"attention.self.{name}", asked) for name in ("query", "key"))
    v = modules.linear("attention.self.value", stream)
    out = style.core(program, (q, k, v), modules.core, setting)
    program.hold(q, k, v, asked)
    x = _added(modules, "attention.output", out, narrow)
    at = 0
    while modules.has(f"ffn.{at}.intermediate.dense"):
        x = _mlp(modules, f"ffn.{at}.", x)
        at += 1
    x = _mlp(modules, "", x)
    if modules.has("output.bottleneck.dense"):
        rate = setting.conduct.hidden_dropout
        x = ops.dropout(program, modules.linear("output.bottleneck.dense", x), rate)
        x = _normed(modules, "output.bottleneck", ops.add(program, x, stream))
    program.hold(narrow)
    return x


def _mlp(modules: Modules, of: str, x: Tensor) -> Tensor:
    inner = modules.linear(f"{of}intermediate.dense", x)
    kind = modules.setting.conduct.activation
    inner = modules.style.activation(modules.program, inner, kind)
    return _added(modules, f"{of}output", inner, x)


def _added(modules: Modules, name: str, x: Tensor, residual: Tensor) -> Tensor:
    total = ops.add(modules.program, modules.linear(f"{name}.dense", x), residual)
    return _normed(modules, name, total)


def _normed(modules: Modules, name: str, x: Tensor) -> Tensor:
    """``x * weight + bias``, which is all that ``NoNorm`` does."""
    part = modules.find(f"{name}.LayerNorm")
    assert part is not None
    shape = next(iter(part.parameters())).n_params
    weight, bias = (
        modules.vector(f"{name}.LayerNorm.{leaf}", shape) for leaf in ("weight", "bias")
    )
    scaled = ops.mul(modules.program, x, weight, small=weight)
    return ops.add(modules.program, scaled, bias, is_row=True)


def ending(
    program: Program, x: Tensor, block: Block, setting: Setting, style: Style
) -> tuple[Tensor, tuple[Part, ...]]:
    """The head's matrix is two, the narrow table turned and one of its own, joined for each product."""
    del style
    beside = next((p for p in block.parts if isinstance(p, Linear) and p.name == BESIDE), None)
    if beside is None:
        return x, block.parts
    last = block.parts.index(beside) + 1
    decoder = block.parts[last]
    assert isinstance(decoder, Linear)
    whole = replace(decoder, n_in=decoder.n_in + beside.n_out)
    joined = Tensor("joined tables", whole.n_in * whole.n_out, setting.weight_itemsize)
    # Autocast casts it for the product; else the product saves it, in the place of a parameter.
    kept = (joined,) if program.autocast is None and setting.trains_base else ()
    program.ops.append(Op("joined tables", (), (joined,), saves=kept))
    return x, (*block.parts[: last - 1], whole, *block.parts[last + 1 :])


OWN: Mapping[str, Own] = {"mobilebert": Own(layer=layer, ending=ending)}
