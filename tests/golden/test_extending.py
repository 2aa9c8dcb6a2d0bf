"""The layer that the docs add by composing operations runs, and keeps what its operations say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmsize.model.conduct import Conduct
from lmsize.model.parts import AttentionCore, Linear, Norm
from lmsize.model.spec import Block
from lmsize.stacks.layer import layer_program
from lmsize.stacks.setting import Setting
from lmsize.stacks.transformers import STYLE
from lmsize.tape.pieces import piece

PAGE = Path(__file__).parents[2] / "docs/extending.md"


def test_the_documented_layer_runs() -> None:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    code = found[1]
    assert code.count("\n") < 40
    h, f, t = 4096, 8192, 512
    parts: dict[str, Any] = {name: Linear(name, h, h) for name in ("q", "k", "v", "gate", "out")}
    parts |= {"up": Linear("up", h, f), "down": Linear("down", f, h)}
    parts |= {"norm": Norm("norm", h), "norm2": Norm("norm2", h)}
    names: dict[str, Any] = {
        "parts": parts, "core": AttentionCore(32, 32, 128, 128), "style": STYLE,
        "setting": Setting(micro_batch=1, seq_len=t, weight_itemsize=2, conduct=Conduct()),
    }  # fmt: skip
    exec(code, names)
    norms, attention, gate, mlp = 2 * (8 * h + 4), 8 * h + 4 * 32, 4 * h, 4 * f
    # The attention's output is kept by its kernel, the gate by its sigmoid, and their product.
    assert names["kept"] == t * (norms + attention + gate + mlp) + 1024


def test_the_documented_class_of_its_own_runs() -> None:
    """Its program is what ``lmsize.stacks.layer`` makes of a block whose model type it is for."""
    _, code, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    h, t = 4096, 512
    projections = (Linear(f"self_attn.{name}_proj", h, h) for name in ("q", "k", "v", "o"))
    block = Block("layer", (
        Norm("input_layernorm", h), *projections, AttentionCore(32, 32, 128, 128),
        Norm("self_attn.attn_sub_norm", h),
    ))  # fmt: skip
    setting = Setting(
        micro_batch=1, seq_len=t, weight_itemsize=2, conduct=Conduct(model_type="model_type")
    )
    style = replace(STYLE, own=names["OWN"].__getitem__)
    program = layer_program(block, setting, style, width=h, itemsize=2, needs_grad=True)
    norms, attention = 2 * (8 * h + 4), 8 * h + 4 * 32
    assert piece(program).saved == t * (norms + attention) + 1024
