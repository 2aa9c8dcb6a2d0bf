"""LFM's short convolutions, opened by a gate on either side.

transformers 5.23, ``modeling_lfm2.py`` and ``modeling_lfm3.py``: ``ShortConv.forward`` in plain torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from lmsize.stacks.named import Modules
from lmsize.stacks.own import Own
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import Setting, Style
from lmsize.tape import ops
from lmsize.tape.program import Program, Tensor


def short_conv(
    program: Program, x: Tensor, section: Section, setting: Setting, style: Style
) -> Tensor:
    """``C * conv(B * x)``, of three projections in one; the convolution pads as it goes."""
    modules = Modules(program, tuple(section.parts), setting, style)
    both = modules.linear("conv.in_proj", x)
    numel = both.numel // 3
    b, c, inner = ops.split(program, both, (numel, numel, numel))
    opened = ops.mul(program, b, inner, name="opened")
    conv = modules.conv("conv.conv", opened, n_rows=setting.micro_batch)
    seen = ops.narrow(program, conv, numel=numel)
    out = ops.mul(program, c, seen, name="gated")
    program.hold(both, opened, conv)
    return modules.linear("conv.out_proj", out)


OWN: Mapping[str, Own] = {
    name: Own(branches={"scan": short_conv}) for name in ("lfm2", "lfm2_moe", "lfm3", "lfm3_text")
}
