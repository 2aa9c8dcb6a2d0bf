"""A training question made ready: defaults filled in, names looked up, layout checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from lmsize.assumption import Assumption, Caution
from lmsize.catalogue import Accelerator, Catalogue, Optimizer
from lmsize.errors import InputError, LayoutError
from lmsize.estimate.correction import NONE, Corrections
from lmsize.layout.degrees import Layout, check, with_count
from lmsize.memory.stack_styles import as_built, style_of
from lmsize.memory.training_setup import TrainingSetup
from lmsize.model.parts import Experts
from lmsize.model.spec import ModelSpec
from lmsize.stacks import habits
from lmsize.stacks.derived import has_derived_linears
from lmsize.stacks.few_bits import BLACKWELL, HOPPER
from lmsize.stacks.needs import is_shared_muon, refuse_without_effect
from lmsize.stacks.scope import within_scope
from lmsize.stacks.stack_options import named_switches, read_switches
from lmsize.stacks.switches import Switches
from lmsize.workload.adapters import adapter_model
from lmsize.workload.training import OWN_STYLE_LOSSES, TrainSpec, batch_of, with_defaults

OF_BLACKWELL = frozenset(
    ("B100", "B200", "GB200", "B300", "GB300", "RTX 5090", "RTX PRO 6000 Blackwell")
)
BEFORE_HOPPER = frozenset(
    ("V100", "T4", "A10", "A10G", "L4", "L40", "L40S", "L20", "A30", "A40", "RTX A6000", "RTX 3090",
     "RTX 4090", "RTX 6000 Ada", "A100", "A800", "Titan RTX")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrainingQuestion:
    """What is asked, whole.

    Attributes:
        spec: with every default filled in; what follows from others (the global batch) as asked.
        accelerator: None asks for sizes alone.
        assumptions: what making it ready took for granted; `cautions` what to beware of.
        today: decides whether a price is stale.
        corrections: of the user's own machine.
    """

    model: ModelSpec
    spec: TrainSpec
    setup: TrainingSetup
    accelerator: Accelerator | None
    catalogue: Catalogue
    assumptions: tuple[Assumption, ...]
    cautions: tuple[Caution, ...]
    today: date
    corrections: Corrections = NONE

    def inputs(self) -> dict[str, Any]:
        """Everything that was used, under the names of the options."""
        batch = self.setup.batch
        used = self.spec.as_dict() | {
            "accelerators": self.setup.layout.n_accelerators,
            "global_batch": batch.sequences,
            "grad_accum": batch.n_micro,
        }
        name = self.accelerator.name if self.accelerator else None
        return {"model": self.model.name, "engine": "analytic", "accelerator": name, **used}

    def varied(self, **changes: Any) -> TrainingQuestion:
        """The same question with some fields of the spec changed (for searches)."""
        unpinned = {"global_batch": None, "grad_accum": self.setup.batch.n_micro}
        spec = replace(self.spec, **{**unpinned, **changes})
        setup = _setup(
            self.model,
            spec,
            self.catalogue,
            accelerator=self.accelerator,
            adapters=self.setup.adapters,
        )
        return replace(self, spec=spec, setup=setup)


def layout_of(spec: TrainSpec, model: ModelSpec) -> Layout:
    """The layout that a filled-in spec asks for.

    Raises:
        LayoutError: it is not legal for this model or count.
    """
    asked = Layout(
        1,
        spec.tp,
        spec.pp,
        spec.cp,
        spec.ep,
        spec.zero or 0,
        spec.sequence_parallel,
        spec.etp,
        spec.vp or 1,
    )
    if spec.vp > 1 and spec.pp == 1:
        raise LayoutError(
            "--vp", spec.vp, "pp above 1, whose ranks hold several stages", nearest=[1]
        )
    layout = with_count(asked, spec.accelerators)
    split = read_switches(spec.stack_options, spec.stack).split
    check(layout, model, seq_len=spec.seq_len or 1, split=split)
    return layout


def training_question(
    model: ModelSpec, spec: TrainSpec, catalogue: Catalogue, *, accelerator: str | None, today: date
) -> TrainingQuestion:
    """Make a question ready.

    Raises:
        InputError: a name that is not known, numbers that contradict each other or the model.
        LayoutError: an illegal layout.
    """
    filled, stated = with_defaults(
        spec, max_positions=model.max_positions, attention=_usual_attention(model, spec, catalogue)
    )
    switches = read_switches(filled.stack_options, filled.stack)
    model = as_built(filled.stack or "", model, switches)
    refuse_without_effect(
        named_switches(filled.stack_options, filled.stack), precision=filled.precision,
        recompute=filled.recompute, has_decoder=model.is_encoder_decoder,
        shares_muon=is_shared_muon(filled.optimizer, filled.zero),
    )  # fmt: skip
    row, assumed = catalogue.accelerator(accelerator) if accelerator is not None else (None, ())
    cautions = _check_length(model, filled.seq_len or 1)
    _check_ends(model, switches)
    setup = _setup(model, filled, catalogue, accelerator=row)
    scope = within_scope(setup.recipe.stack, model, catalogue.stack_scopes())
    return TrainingQuestion(
        model, filled, setup, row, catalogue,
        (*model.assumptions, *assumed, *stated, *_defaults_of(spec), *scope, *_of_setup(setup)),
        cautions, today,
    )  # fmt: skip


def _usual_attention(model: ModelSpec, spec: TrainSpec, catalogue: Catalogue) -> str:
    """Eager, where the stack runs transformers' classes and the model's has no other."""
    runs_classes = not spec.stack or catalogue.stack(spec.stack).runs_transformers
    is_eager = runs_classes and model.conduct.model_type in habits.EAGER_ONLY
    return "eager" if is_eager else "sdpa"


def _setup(
    model: ModelSpec, spec: TrainSpec, catalogue: Catalogue, *, accelerator: Accelerator | None,
    adapters: ModelSpec | None = None,
) -> TrainingSetup:  # fmt: skip
    layout = layout_of(spec, model)
    if spec.method != "full" and adapters is None:
        adapters = adapter_model(
            model,
            rank=spec.lora_rank or 1,
            targets=spec.lora_targets or "",
            experts=spec.lora_experts,
            saved=spec.modules_to_save or "",
            kind=spec.adapter,
        )
    optimizer = catalogue.optimizer(spec.optimizer or "")
    capability = _capability(accelerator)
    return TrainingSetup(
        model=model, adapters=adapters, layout=layout, batch=batch_of(spec, dp=layout.dp),
        stack=catalogue.stack(spec.stack or ""),
        recipe=catalogue.recipe(spec.stack or "", spec.precision or ""), optimizer=optimizer,
        fallback=_fallback(optimizer, catalogue),
        quant=catalogue.precision(spec.quant, "--quant") if spec.quant else None,
        recompute=spec.recompute or "", attention=spec.attention or "",
        precision=catalogue.precision, pipeline_stage=spec.pipeline_stage, lengths=spec.lengths,
        switches=read_switches(spec.stack_options, spec.stack).on(capability), capability=capability,
        loss="" if spec.loss == OWN_STYLE_LOSSES.get(spec.stack or "", "plain") else spec.loss or "",
    )  # fmt: skip


def _capability(accelerator: Accelerator | None) -> int:
    """The first number of the compute capability; Hopper's where no accelerator is named."""
    family = accelerator.family if accelerator is not None else ""
    return BLACKWELL if family in OF_BLACKWELL else HOPPER - (family in BEFORE_HOPPER)


def _fallback(optimizer: Optimizer, catalogue: Catalogue) -> Optimizer | None:
    return catalogue.optimizer(optimizer.fallback) if optimizer.fallback else None


def _check_length(model: ModelSpec, seq_len: int) -> tuple[Caution, ...]:
    longest = model.max_positions
    if longest is None or seq_len <= longest:
        return ()
    if model.learned_positions:
        expected = f"at most {longest}, the rows of the model's table of positions"
        raise InputError("--seq-len", seq_len, expected, nearest=[longest])
    text = f"{seq_len} tokens are more than the {longest} that the model was made for: the others were not trained"
    return (Caution("beyond-max-positions", text),)


def _check_ends(model: ModelSpec, switches: Switches) -> None:
    """Refuse more layers in 16 bits than there are, as Megatron's configuration does."""
    n_layers = sum(
        run.n_layers
        for tower, run in model.runs()
        if run.block.role == "layer" and tower.stream != "idle"
    )
    asked = sum(switches.bf16_ends.values())
    if asked > n_layers:
        expected = f"at most {n_layers} together, the model's layers"
        raise InputError("--stack-options bf16-first-layers and bf16-last-layers", asked, expected)


def _defaults_of(spec: TrainSpec) -> tuple[Assumption, ...]:
    stated = []
    if spec.accelerators is None:
        n = spec.tp * spec.pp * spec.cp
        text = "one accelerator" if n == 1 else f"{n} accelerators, as tp * pp * cp ask"
        stated.append(Assumption("default-accelerators", f"{text} (the default)"))
    if spec.global_batch is None and spec.grad_accum is None:
        stated.append(Assumption("default-grad-accum", "no gradient accumulation (the default)"))
    return tuple(stated)


def _of_adapters(setup: TrainingSetup) -> Assumption:
    """The type and the dropout of adapters, which the stack decides."""
    stack = setup.recipe.stack
    dropout = style_of(stack, setup.switches).adapting.dropout
    said = f"a dropout of {dropout:.0%}" if dropout else "no dropout"
    text = f"adapters as {stack} makes them by default: {setup.recipe.adapters}, {said}"
    return Assumption("peft-defaults", text)


def _raised_by(setup: TrainingSetup) -> str:
    """Who takes what is not quantised to fp32, where that is done."""
    is_raised = setup.base_type == "fp32" != setup.recipe.weights
    return (
        ", as peft's prepare_model_for_kbit_training leaves it"
        if is_raised and setup.stack.prepares_kbit
        else ""
    )


def _of_setup(setup: TrainingSetup) -> tuple[Assumption, ...]:
    """What the memory model takes for granted for this setup."""
    stated = [_of_adapters(setup)] if setup.adapters is not None else []
    if by_parts := setup.blocks_by_parts:
        text = (
            f"no program of their own: {', '.join(by_parts)}; their parts are taken one after the "
            "other, each fed by what fits it"
        )
        stated.append(Assumption("activations-by-parts", text))
    if setup.quant is not None:
        text = f"what is not quantised (embeddings, norms, head) is kept in {setup.base_type}{_raised_by(setup)}"
        stated.append(Assumption("kbit-preparation", text))
        if any(isinstance(p, Experts) for _, r in setup.model.runs() for p in r.block.parts):
            text = "routed experts are quantised like linears; transformers 5 with bitsandbytes leaves fused experts as they are"
            stated.append(Assumption("experts-quantised", text))
        if has_derived_linears(setup.model):
            text = "transformers does not quantise this model's linears, which are of a class of their own"
            stated.append(Assumption("linears-left", text))
    if any(tower.stream == "idle" for tower in setup.model.towers):
        text = "towers that no text token passes through hold weights, but no gradients or states"
        stated.append(Assumption("idle-towers", text))
    if setup.has_buckets:
        text = "DDP reduces gradients through buckets of their size (gradient_as_bucket_view=False)"
        stated.append(Assumption("ddp-buckets", text))
    if setup.optimizer.paged:
        text = "paged optimizer states move to the host under pressure and are not counted"
        stated.append(Assumption("paged-states", text))
    if setup.layout.zero == 3 and not (setup.is_in_units or setup.stays_whole or setup.flattens):
        text = "ZeRO-3 holds one block whole at a time, its weights and its gradients"
        stated.append(Assumption("zero3-gather", text))
    if setup.layout.pp > 1 and setup.model.is_tied:
        text = "the last stage keeps a copy of its own of the tied embedding"
        stated.append(Assumption("tied-head-copy", text))
    return tuple(stated)
