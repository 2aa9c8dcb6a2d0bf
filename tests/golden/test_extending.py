"""The layer that the docs add by composing operations runs, and keeps what its operations say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lmsize.model.conduct import Conduct
from lmsize.model.parts import AttentionCore, Linear, Norm
from lmsize.stacks.setting import Setting
from lmsize.stacks.transformers import STYLE

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
