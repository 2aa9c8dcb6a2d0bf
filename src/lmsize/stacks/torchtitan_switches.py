"""What torchtitan compiles, and what its versions did otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from lmsize.layout.split import Split
from lmsize.stacks.few_bits import TORCHAO
from lmsize.stacks.options import choice, count, flag, layers
from lmsize.stacks.switches import Switches


@dataclass(frozen=True, slots=True)
class TorchtitanSwitches(Switches):
    """What torchtitan has; what other stacks have too is said there.

    Attributes:
        fp8_recipe: of torchao's linears; what is not asked for is ``tensorwise``.
        fp8_all_gather: ``enable_fsdp_float8_all_gather``.
        ends_in_root: until July 2025.
        compile: it compiles its layers.
        compiled_loss: the loss too (``compile.components``).
        fused_norm: ``nn.RMSNorm`` is one kernel where it is not compiled (since torch 2.9).
    """

    fp8_recipe: str = choice("delayed", TORCHAO)
    fp8_all_gather: bool = flag(default=False)
    bf16_first_layers: int | None = count()
    bf16_last_layers: int | None = count()
    stage_layers: tuple[int, ...] = layers()
    ends_in_root: bool = flag(default=False)
    compile: bool = flag(default=True)
    compiled_loss: bool = flag(default=True)
    fused_norm: bool = flag(default=True)

    @property
    def split(self) -> Split:
        """Table and head are counted as layers (its pipeline_parallel.py)."""
        return Split(embedding=True, loss=True, spills=True, parts=self.stage_layers)
