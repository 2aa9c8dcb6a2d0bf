"""How blocks are placed: by the stack's style as its switches have it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lmsize
from lmsize.memory import stack_styles
from lmsize.memory.blocks import _made
from lmsize.stacks import megatron
from lmsize.stacks.megatron_switches import MegatronSwitches

if TYPE_CHECKING:
    import pytest

RUN: dict[str, Any] = {
    "stack": "megatron", "seq_len": 4096, "recompute": "full", "search": False,
    "method": "lora", "calibration": False,
}  # fmt: skip


def kept(stack_options: str | None = None) -> int:
    memory = lmsize.train("llama-3.1-8b", **RUN, stack_options=stack_options).memory
    return memory.components["activations"] or 0


def test_a_switched_style_counts_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a switch changes of offloading, of adapters or of recomputation is what blocks do."""

    def offloading(switches: MegatronSwitches) -> megatron.Style:
        return replace(megatron.style(switches), offloads=switches.deterministic)

    usual = kept()
    monkeypatch.setitem(stack_styles.SWITCHED, "megatron", offloading)
    _made.cache_clear()
    try:
        assert kept() == usual
        stream = 4096 * 4096 * 2
        assert usual - kept("deterministic") >= 30 * stream
    finally:
        _made.cache_clear()
