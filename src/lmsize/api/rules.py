"""The rules of thumb as complete estimates, for ``train`` and ``infer``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from lmsize.api.locate import ModelLike, located
from lmsize.api.textbook import refuse_textbook, textbook_activations
from lmsize.assumption import Assumption, Caution
from lmsize.catalogue import Accelerator, Catalogue
from lmsize.errors import InputError
from lmsize.estimate.answer import (
    COMPONENTS,
    Accelerators,
    Compute,
    Estimate,
    Memory,
    Parameters,
    Serving,
    Time,
)
from lmsize.estimate.rules import (
    DEFAULT_ADAPTER_FRACTION,
    DEFAULT_EFFICIENCY,
    RuleSizes,
    RulesSpec,
    inference_flops,
    inference_memory,
    step_flops,
    training_memory,
)
from lmsize.estimate.running import Rate, bill, deadline_count, peak_rate, step_time
from lmsize.estimate.training import components
from lmsize.estimate.verdict import serving_verdict, training_verdict
from lmsize.formula import Term
from lmsize.layout.degrees import Layout, with_count
from lmsize.model.count import n_params, n_params_active
from lmsize.model.spec import ModelSpec
from lmsize.quantity import format_count
from lmsize.workload.serving import InferSpec, with_serving_defaults
from lmsize.workload.training import Batch, TrainSpec, batch_of, n_steps, with_defaults

INFER_COMPONENTS = ("weights", "activations", "kv_cache")
COMPUTE_TYPE = {"amp-fp16": "fp16", "amp-bf16": "bf16"}


@dataclass(frozen=True, slots=True)
class Subject:
    """The parameters that the rules multiply, and where they came from.

    Attributes:
        n_active: parameters that one token meets: fewer than all in a mixture of experts.
    """

    name: str
    n_params: int
    n_active: int
    model: ModelSpec | None


def rules_training(
    model: ModelLike | None, spec: TrainSpec, rules: RulesSpec, catalogue: Catalogue, *,
    accelerator: str | None, today: date,
) -> Estimate:  # fmt: skip
    """A training run by the rules of thumb.

    Raises:
        InputError: neither a model nor ``--params``, both, or input that makes no sense.
    """
    rules.check()
    subject = _subject(model, rules, catalogue)
    longest = subject.model.max_positions if subject.model else None
    filled, stated = with_defaults(spec, max_positions=longest)
    layout = with_count(Layout(1, spec.tp, spec.pp, spec.cp, spec.ep), spec.accelerators)
    batch = batch_of(filled, dp=layout.dp)
    sizes = _sizes(subject.n_params, filled, rules, catalogue)
    row, assumed = catalogue.accelerator(accelerator) if accelerator is not None else (None, ())
    textbook, told = textbook_activations(
        rules, subject.model, filled, layout, batch, bits=sizes.trained_bits
    )
    frozen = sizes.has_adapters
    flops = step_flops(
        rules, n_params=subject.n_active, n_trained=sizes.n_trained,
        n_sequences=batch.sequences, seq_len=batch.seq_len, frozen=frozen,
    )  # fmt: skip
    time, needed, time_stated = _timed(
        filled, rules, row, flops=flops, batch=batch, n=layout.n_accelerators
    )
    cost, cost_stated, cautions = bill(time.accelerator_hours, row, catalogue, today=today)
    estimate = Estimate(
        engine="rules", task="train",
        inputs=_inputs(subject, filled.as_dict(), rules, row, n=layout.n_accelerators)
        | {"global_batch": batch.sequences, "grad_accum": batch.n_micro},
        parameters=Parameters(subject.n_params, sizes.n_trained, subject.n_active),
        memory=_memory(training_memory(sizes, rules, textbook=textbook), rules, COMPONENTS, row),
        compute=Compute(flops.value, flops.value, flops.value / batch.tokens, (flops,)),
        time=time, cost=cost,
        accelerators=Accelerators(row.name if row else None, layout.n_accelerators, None, needed),
        assumptions=(*assumed, *_kept(stated), *told, *_stated(rules, frozen=frozen), *time_stated, *cost_stated),
        warnings=(*_cautions(rules), *cautions),
    )  # fmt: skip
    return replace(estimate, verdict=training_verdict(estimate, ()))


def _timed(
    spec: TrainSpec, rules: RulesSpec, row: Accelerator | None, *,
    flops: Term, batch: Batch, n: int,
) -> tuple[Time, int | None, tuple[Assumption, ...]]:  # fmt: skip
    """The time of a run on `n` accelerators, and how many would meet its deadline."""
    rate, stated = _rate(rules, spec.mfu, str(spec.precision), row)
    time = step_time(
        rate, model_flops=flops.value, hardware_flops=flops.value, n_accelerators=n,
        n_tokens=batch.tokens, n_steps=n_steps(spec, batch),
    )  # fmt: skip
    needed, time, linear = deadline_count(time, deadline_s=spec.deadline, n_accelerators=n, group=1)
    return time, needed, (*stated, *linear)


def rules_inference(
    model: ModelLike | None, spec: InferSpec, rules: RulesSpec, catalogue: Catalogue, *,
    accelerator: str | None,
) -> Estimate:  # fmt: skip
    """Inference by the rules of thumb: weights, and two FLOPs a parameter and token."""
    rules.check()
    refuse_textbook(rules.activation_bytes)
    subject = _subject(model, rules, catalogue)
    longest = subject.model.max_positions if subject.model else None
    filled, stated = with_serving_defaults(spec, max_positions=longest)
    row, assumed = catalogue.accelerator(accelerator) if accelerator is not None else (None, ())
    bits = _weight_bits(str(filled.precision), filled.quant, catalogue)
    n_tokens = filled.prompt or 1
    flops = inference_flops(rules, n_params=subject.n_active, n_tokens=n_tokens)
    count = filled.accelerators or filled.tp * filled.pp
    rate, rate_stated = _rate(rules, filled.mfu, str(filled.precision), row)
    prefill = step_time(
        rate, model_flops=flops.value, hardware_flops=flops.value,
        n_accelerators=filled.tp * filled.pp, n_tokens=n_tokens, n_steps=None,
    )  # fmt: skip
    estimate = Estimate(
        engine="rules", task="infer",
        inputs=_inputs(subject, filled.as_dict(), rules, row, n=count),
        parameters=Parameters(subject.n_params, 0, subject.n_active),
        memory=_memory(
            inference_memory(n_params=subject.n_params, bits=bits, rules=rules), rules,
            INFER_COMPONENTS, row,
        ),
        compute=Compute(flops.value, flops.value, flops.value / n_tokens, (flops,)),
        serving=Serving(prefill_s=prefill.step_s, trees=prefill.trees),
        accelerators=Accelerators(row.name if row else None, count, None, None),
        assumptions=(*assumed, *_kept(stated), *_stated(rules, frozen=False), *rate_stated),
        warnings=_cautions(rules),
    )  # fmt: skip
    return replace(estimate, verdict=serving_verdict(estimate, ()))


def _subject(model: ModelLike | None, rules: RulesSpec, catalogue: Catalogue) -> Subject:
    if (model is None) == (rules.params is None):
        raise InputError("MODEL", model, "a model or --params, one of them")
    if rules.params is not None:
        name = f"{format_count(rules.params)} parameters"
        return Subject(name, rules.params, rules.params, None)
    found = located(model, catalogue) if model is not None else None
    assert found is not None
    return Subject(found.name, n_params(found), n_params_active(found), found)


def _sizes(n: int, spec: TrainSpec, rules: RulesSpec, catalogue: Catalogue) -> RuleSizes:
    bits = _bits(str(spec.precision), catalogue)
    adapts = spec.method != "full"
    fraction = rules.adapter_fraction or DEFAULT_ADAPTER_FRACTION
    optimizer = catalogue.optimizer(spec.optimizer or "")
    kept = [s for s in optimizer.states if s.shape == "like" and s.place == "device"]
    return RuleSizes(
        n_params=n,
        n_trained=round(n * fraction) if adapts else n,
        n_states=len(kept),
        weight_bits=_weight_bits(str(spec.precision), spec.quant, catalogue),
        trained_bits=bits,
        state_bits=_bits(rules.state_precision or "fp32", catalogue),
        has_adapters=adapts,
    )


def _weight_bits(precision: str, quant: str | None, catalogue: Catalogue) -> float:
    return catalogue.precision(quant, "--quant").bits if quant else _bits(precision, catalogue)


def _bits(precision: str, catalogue: Catalogue) -> float:
    """Bits of a weight: autocast and tf32 keep fp32 weights."""
    stored = "fp32" if precision.startswith("amp-") or precision == "tf32" else precision
    return catalogue.precision(stored).bits


def _rate(
    rules: RulesSpec, mfu: float | None, precision: str, row: Accelerator | None
) -> tuple[Rate | None, tuple[Assumption, ...]]:
    peak, stated = rules.peak_flops, tuple[Assumption, ...]()
    if peak is None and row is not None:
        peak, stated = peak_rate(row, COMPUTE_TYPE.get(precision, precision))
    if peak is None:
        return None, stated
    efficiency = rules.efficiency or mfu
    if efficiency is None:
        text = f"{DEFAULT_EFFICIENCY:.0%} of the peak, the rule's figure; measured runs reach 30 to 55 %"
        stated = (*stated, Assumption("default-efficiency", text))
    return Rate(peak, efficiency or DEFAULT_EFFICIENCY), stated


def _memory(
    peak: Term, rules: RulesSpec, names: tuple[str, ...], row: Accelerator | None
) -> Memory:
    moment = peak.winner
    high = round(peak.value)
    known = components(moment, high)
    low, most = rules.activation_range or (0, 0)
    spread = most - low
    return Memory(
        peak_allocated_bytes=high, low_bytes=high - spread, high_bytes=high,
        capacity_bytes=row.capacity_bytes if row else None, moment=moment.label,
        components={name: known.get(name) for name in names}, tree=peak,
    )  # fmt: skip


def _inputs(
    subject: Subject, used: dict[str, Any], rules: RulesSpec, row: Accelerator | None, *, n: int
) -> dict[str, Any]:
    own = {name: getattr(rules, name) for name in RulesSpec.__dataclass_fields__}
    head = {"model": subject.name, "engine": "rules", "accelerator": row.name if row else None}
    return head | used | {"accelerators": n} | own


def _kept(stated: tuple[Assumption, ...]) -> tuple[Assumption, ...]:
    """Of the defaults, those that the rules look at."""
    unused = (
        "recompute",
        "attention",
        "stack",
        "zero",
        "lora-rank",
        "lora-targets",
        "kv-precision",
    )
    return tuple(a for a in stated if a.code.removeprefix("default-") not in unused)


def _stated(rules: RulesSpec, *, frozen: bool) -> tuple[Assumption, ...]:
    stated = [
        Assumption(
            "rules-of-thumb", "parameters times bytes; no scales, KV cache, main copies or context"
        )
    ]
    if frozen and rules.adapter_fraction is None:
        text = f"adapters are {DEFAULT_ADAPTER_FRACTION:.0%} of the parameters (the default)"
        stated.append(Assumption("default-adapter-fraction", text))
    return tuple(stated)


def _cautions(rules: RulesSpec) -> tuple[Caution, ...]:
    if rules.activation_bytes is None:
        return (
            Caution(
                "activations-missing", "activations are not in the total: give --activation-bytes"
            ),
        )
    return ()
