"""What all layers of a tower read: masks, and tables of rotary positions."""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import AttentionCore
from lmsize.model.spec import ModelSpec, Tower
from lmsize.stacks import habits
from lmsize.stacks.ends import Masks
from lmsize.stacks.sdpa import is_masked
from lmsize.stacks.setting import Setting

Windows = tuple[AttentionCore, ...]


def rotary_numel(setting: Setting, windows: Windows) -> Any:
    """Numbers of a table of cosines, of each kind of attention where they differ."""
    if not setting.conduct.rotary:
        return 0
    if setting.conduct.rotary_by_kind and windows:
        return setting.seq_len * sum(core.head_dim for core in windows)
    return setting.seq_len * setting.head_dim


def masks_of(setting: Setting, windows: Windows) -> Masks:
    """A mask for each kind of attention: to add, of every sequence; or of booleans, for all alike."""
    pairs = setting.seq_len * setting.seq_len
    masked = [core for core in windows if core.causal or is_masked(core, setting)]
    if setting.attention == "eager":
        fills = setting.conduct.model_type in habits.FILLS_SCORES
        numel = len(masked) * setting.micro_batch * pairs
        return Masks(numel, itemsize=1, is_saved=True) if fills else Masks(numel)
    return Masks(sum(is_masked(core, setting) for core in masked) * pairs, itemsize=1)


def windows_of(tower: Tower) -> Windows:
    """One layer's attention to itself of each window."""
    cores = (p for run in tower.runs for p in run.block.parts if isinstance(p, AttentionCore))
    return tuple({(core.window, core.causal): core for core in cores if not core.cross}.values())


def head_dim(model: ModelSpec) -> int:
    """Width of a query head of the first attention core; 0 without one."""
    cores = (p for _, run in model.runs() for p in run.block.parts if isinstance(p, AttentionCore))
    return next((core.head_dim for core in cores), 0)
