"""Everything that the memory of a training step depends on, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lmsize.catalogue import Optimizer, Precision, Recipe, Stack
from lmsize.layout.degrees import Layout
from lmsize.memory.stack_styles import not_understood, style_of
from lmsize.model.spec import ModelSpec
from lmsize.numbers import larger
from lmsize.stacks.few_bits import HOPPER, torchao, transformer_engine
from lmsize.stacks.switches import USUAL, Switches
from lmsize.tape.casts import Casts
from lmsize.workload.training import Batch

FP8_CASTS: dict[str, Callable[..., Casts]] = {
    "transformer-engine": transformer_engine, "torchao": torchao,
}  # fmt: skip


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
        lengths: ``equal``, or ``varied`` where the batch's length is the longest, met once.
    """

    model: ModelSpec
    adapters: ModelSpec | None
    layout: Layout
    batch: Batch
    stack: Stack
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
    lengths: str = "equal"

    @property
    def base_type(self) -> str:
        """The number type of what is not quantised of the base.

        peft's ``prepare_model_for_kbit_training`` takes it to fp32, but not that of a GPTQ model.
        """
        is_raised = self.quant is not None and not self.unpacks
        return self.recipe.unquantised if is_raised else self.recipe.weights

    @property
    def unpacks(self) -> bool:
        """Whether products run on weights that GPTQ's layers unpack in plain torch."""
        return self.quant is not None and self.quant.name.startswith("gptq")

    @property
    def has_main_copies(self) -> bool:
        """Whether the step works on fp32 copies of what is trained, which is in 16 bits itself."""
        in_16bit = self.adapters is None or self.recipe.adapters == self.recipe.weights
        return bool(self.recipe.main_weights) and in_16bit

    @property
    def gradient_type(self) -> str:
        """The type in which gradients add up: beside main copies adapters' are as any weight's."""
        if self.adapters is not None and not self.has_main_copies:
            return self.recipe.adapters
        in_16bit = self.switches.grad_reduce_in_bf16
        return self.recipe.weights if in_16bit else self.recipe.gradients

    @property
    def unreduced_type(self) -> str:
        """The type in which whole gradients wait for the last micro-batch.

        FSDP2's are those of the weights as gathered, in the reduction's type if that is another
        (torch/distributed/fsdp/_fully_shard/_fsdp_param.py, to_accumulated_grad_if_needed).
        """
        in_units = (self.recipe.reduced or self.recipe.gathered) if self.is_in_units else ""
        return in_units or self.gradient_type

    @property
    def has_buckets(self) -> bool:
        """Whether gradients are reduced through a second copy, as torch's DDP does by default."""
        return self.stack.ddp_buckets and self.layout.zero == 0 and self.layout.n_replicas > 1

    @property
    def sums_in_fp32(self) -> bool:
        """Whether DeepSpeed's BF16_Optimizer adds gradients up in an fp32 copy, whole on each rank.

        Source: DeepSpeed runtime/engine.py, get_data_types: the default where ZeRO is off.
        """
        asked = self.switches.fp32_sums
        sums = self.layout.zero == 0 if asked is None else asked and self.layout.zero < 2
        return self.stack.flat_steps and self.recipe.weights == "bf16" and sums

    @property
    def blocks_by_parts(self) -> list[str]:
        """Blocks without a program of their own, which are taken part by part."""
        return not_understood(self.model, style_of(self.recipe.stack, self.switches))

    @property
    def casts(self) -> Casts | None:
        """How products in few bits keep their operands, where the stack's way is known."""
        casts = FP8_CASTS.get(self.stack.fp8_casts)
        if casts is None or self.recipe.compute != "fp8":
            return None
        return casts(
            self.switches.fp8_recipe, capability=self.capability,
            stores_weights=self.switches.fp8_param_gather,
        )  # fmt: skip

    @property
    def main_weights(self) -> str | None:
        """The type of the optimizer's own copy of the weights; None for none."""
        is_rest = self.switches.precision_aware and not self.switches.fp8_param_gather
        return self.recipe.weights if is_rest else self.recipe.main_weights

    @property
    def optimizer_share(self) -> float:
        """What of the optimizer's copies and states lies on the accelerator."""
        return 1 - self.switches.optimizer_offload

    @property
    def foreach_copies(self) -> float | None:
        """Copies that torch's step over all tensors at once makes, in the run's version of torch."""
        older = self.optimizer.older_foreach_copies if self.switches.older_foreach else None
        return self.optimizer.foreach_copies if older is None else older

    def shards(self, stage: int, *, expert: bool = False) -> Any:
        """Over how many ranks ZeRO divides what `stage` divides."""
        layout = self.layout
        if self.sums_in_fp32:  # BF16_Optimizer has its states divided, whatever the stage
            layout = replace(layout, zero=larger(1, layout.zero))
        whole = layout.shards(stage, expert=expert)
        return larger(1, whole // self.switches.optimizer_instances) if stage == 1 else whole

    @property
    def units(self) -> tuple[str, ...]:
        """Roles of the blocks that FSDP2 shares one by one."""
        return ("layer",) if self.switches.ends_in_root else self.stack.units

    @property
    def shares_by_fsdp2(self) -> bool:
        """Whether FSDP2 shares weights, gradients and states over the ranks, at stages 2 and 3."""
        return bool(self.stack.units) and self.layout.zero > 1 and self.layout.n_replicas > 1

    @property
    def lays_out_by_stream(self) -> bool:
        """Whether what each stream asks of the allocator is followed block by block."""
        return self.adapters is None and self.shares_by_fsdp2

    @property
    def is_in_units(self) -> bool:
        """Whether it does so layer by layer."""
        return self.shares_by_fsdp2 and not self.stays_whole

    @property
    def stays_whole(self) -> bool:
        """Whether weights stay gathered, and gradients whole, from the first micro-batch to the last.

        torchtitan under a pipeline: ``reshard_after_forward`` is off, and its stages reshard and
        reduce with the last micro-batch alone.
        """
        return self.shares_by_fsdp2 and self.stack.whole_under_pipeline and self.layout.pp > 1

    @property
    def gathers_weights(self) -> bool:
        """Whether blocks run on weights gathered for them from all ranks."""
        return self.shares_by_fsdp2 or (self.layout.zero > 2 and self.layout.n_replicas > 1)

    @property
    def weights_stage(self) -> int:
        """The ZeRO stage from which weights are divided: FSDP2 divides them at 2 too, and gathers."""
        return 2 if self.shares_by_fsdp2 else 3

    @property
    def accumulates(self) -> bool:
        """Whether gradients are there before a backward begins."""
        return self.batch.n_micro > 1 or self.stack.holds_gradients

    @property
    def most_recomputed(self) -> int | None:
        """Layers of a stage that full recomputation by block takes in; None for all."""
        each = self.switches.recompute_layers
        return None if each is None else each * self.layout.vp

    @property
    def defers_reduction(self) -> bool:
        """Whether gradients add up whole on every rank until the step's last micro-batch."""
        defers = self.stack.defers_reduction or self.stays_whole
        return self.gathers_weights and defers and self.batch.n_micro > 1

    @property
    def flattens(self) -> bool:
        """Whether gradients cover the frozen weights that are sharded with trained ones."""
        return self.gathers_weights and self.stack.flattens

    @property
    def shards_gradients(self) -> bool:
        """Whether each gradient is divided over the ranks as soon as it is made."""
        return self.layout.zero > 1 and self.layout.n_replicas > 1 and not self.is_in_units
