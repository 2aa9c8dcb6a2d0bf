"""RecurrentGemma's gated linear recurrence (RG-LRU), a loop over tokens that keeps every state.

transformers 5.23, ``modeling_recurrent_gemma.py``: ``RecurrentGemmaRecurrentBlock``, ``RecurrentGemmaRglru``.
"""

from __future__ import annotations

from collections.abc import Mapping

from lmsize.stacks.named import Modules
from lmsize.stacks.own import Own
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import Setting, Style
from lmsize.tape import kernels, ops
from lmsize.tape.program import Gradient, Program, Tensor

FP32 = 4


def recurrent(
    program: Program, x: Tensor, section: Section, setting: Setting, style: Style
) -> Tensor:
    """A branch through a convolution and the recurrence, opened by another through an activation."""
    modules = Modules(program, tuple(section.parts), setting, style)
    opened = style.activation(program, modules.linear("linear_y", x), setting.conduct.activation)
    inner = modules.conv("conv_1d", modules.linear("linear_x", x), n_rows=setting.micro_batch)
    out = _rglru(modules, ops.narrow(program, inner, numel=opened.numel))
    made = modules.linear("linear_out", ops.mul(program, out, opened))
    program.hold(opened, out)
    return made


def _rglru(modules: Modules, x: Tensor) -> Tensor:
    """Gates of every channel; what comes in is scaled by a root of one less the decay's square."""
    program = modules.program
    laid = ops.copy(program, x, numel=x.numel, name="activations")
    gate, decay = (modules.grouped(f"rg_lru.{name}_gate", laid) for name in ("input", "recurrent"))
    gate, decay = (
        ops.pointwise(
            program, ops.copy(program, y, numel=y.numel), name="sigmoid", saves="output"
        )
        for y in (gate, decay)
    )  # fmt: skip
    rate = program.parameter(
        "recurrent_param",
        x.numel // modules.setting.n_tokens,
        modules.setting.weight_itemsize,
        trained=modules.setting.trains_base,
    )
    rate = ops.raised(program, rate)
    rate = ops.pointwise(program, rate, name="softplus", saves="input")
    log = ops.mul(program, ops.pointwise(program, decay, name="times eight"), rate, small=rate)
    decay = ops.pointwise(program, ops.raised(program, log), name="exp", saves="output")
    twice = ops.pointwise(program, log, name="twice")
    square = ops.pointwise(program, ops.raised(program, twice), name="exp", saves="output")
    inputs = ops.mul(program, x, gate, name="gated inputs")
    left = ops.pointwise(program, square, name="one less")
    root = ops.pointwise(
        program, left, name="bounded root", saves="input", scratch_bytes=2 * left.n_bytes
    )
    root = ops.pointwise(program, ops.pointwise(program, root, name="kept"), name="reset")
    scaled = ops.mul(program, inputs, ops.cast(program, root, x.itemsize), name="scaled inputs")
    kept = ops.pointwise(program, decay, name="where not reset")
    made = _loop(program, scaled, kept)
    program.hold(laid, x, gate, log, decay, square, inputs, root, scaled, kept)
    return made


def _loop(program: Program, x: Tensor, decay: Tensor) -> Tensor:
    """Token by token, in fp32: states are saved, and decays in another type are cast one by one.

    The states are written into one tensor; each writing's gradient is a copy of all of it.
    """
    states = Tensor("states", x.numel, FP32)
    casts = [Tensor("decay in fp32", decay.numel, FP32)] if decay.itemsize != FP32 else []
    made = Tensor("scanned", x.numel, x.itemsize)
    read = casts or [decay]
    return kernels.scan(
        program, [x, decay], made, saves=[states, *read], side=[states, *casts],
        gradients=[Gradient(y, scratch_bytes=made.n_bytes) for y in (x, decay)],
    )  # fmt: skip


OWN: Mapping[str, Own] = {"recurrent_gemma": Own(branches={"scan": recurrent})}
