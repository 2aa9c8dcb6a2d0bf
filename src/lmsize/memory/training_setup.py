"""Everything that the memory of a training step depends on, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lmsize.catalogue import Optimizer, Precision, Recipe
from lmsize.layout.degrees import Layout
from lmsize.memory.blocks import not_understood
from lmsize.memory.standing import HOPPER
from lmsize.model.spec import ModelSpec
from lmsize.stacks.switches import USUAL, Switches
from lmsize.workload.training import Batch

KEEPS_GRADIENTS = ("megatron", "deepspeed")  # in buffers of their own, from step to step


@dataclass(frozen=True, slots=True)
class TrainingSetup:
    """Everything that the memory of a step depends on.

    Attributes:
        adapters: the model of its adapters; None trains the base itself.
        fallback: steps the tensors that `optimizer` does not handle.
        quant: the number type of the frozen base's linears; None leaves them as they are.
        precision: looks a number type up by name.
        switches: of the stack; `capability` the compute capability of the accelerator.
        pipeline_stage: whose peak is meant: ``worst``, ``first`` or ``last``.
        loss: how the loss is taken, if not as the stack does.
    """

    model: ModelSpec
    adapters: ModelSpec | None
    layout: Layout
    batch: Batch
    recipe: Recipe
    optimizer: Optimizer
    fallback: Optimizer | None
    quant: Precision | None
    recompute: str
    attention: str
    precision: Callable[[str], Precision]
    pipeline_stage: str = "worst"
    switches: Switches = USUAL
    capability: int = HOPPER
    loss: str = ""

    @property
    def has_buckets(self) -> bool:
        """Whether gradients are reduced through a second copy, as torch's DDP does by default."""
        shared = self.layout.n_replicas > 1 and self.layout.zero == 0
        return shared and self.recipe.stack == "transformers"

    @property
    def sums_in_fp32(self) -> bool:
        """Whether DeepSpeed's BF16_Optimizer adds gradients up in an fp32 copy, whole on each rank."""
        return (
            self.recipe.stack == "deepspeed" and self.recipe.weights == "bf16"
            and self.layout.zero < 2
        )  # fmt: skip

    @property
    def blocks_by_parts(self) -> list[str]:
        """Blocks without a program of their own, which are taken part by part."""
        return not_understood(self.model)

    def shards(self, stage: int, *, expert: bool = False) -> int:
        """Over how many ranks ZeRO divides what `stage` divides."""
        whole = self.layout.shards(stage, expert=expert)
        return max(1, whole // self.switches.optimizer_instances) if stage == 1 else whole

    @property
    def gathers_weights(self) -> bool:
        """Whether blocks run on weights gathered for them from all ranks."""
        return self.layout.zero > 2 and self.layout.n_replicas > 1

    @property
    def accumulates(self) -> bool:
        """Whether gradients are there before a backward begins."""
        return self.batch.n_micro > 1 or self.recipe.stack in KEEPS_GRADIENTS

    @property
    def most_recomputed(self) -> int | None:
        """Layers of a stage that full recomputation by block takes in; None for all."""
        each = self.switches.recompute_layers
        return None if each is None else each * self.layout.vp

    @property
    def defers_reduction(self) -> bool:
        """Whether gradients add up whole on every rank until the step's last micro-batch."""
        return self.gathers_weights and self.recipe.defers_reduction and self.batch.n_micro > 1

    @property
    def flattens(self) -> bool:
        """Whether gradients cover the frozen weights that are sharded with trained ones."""
        return self.gathers_weights and self.recipe.flattens

    @property
    def shards_gradients(self) -> bool:
        """Whether each block's gradients are divided over the ranks as soon as they are made."""
        return self.layout.zero > 1 and self.layout.n_replicas > 1
