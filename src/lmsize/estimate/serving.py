"""The analytic engine's answer to a serving question."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from lmsize.assumption import Assumption, Caution
from lmsize.catalogue import Accelerator, Catalogue
from lmsize.compute.work import FORWARD, Tokens, work
from lmsize.errors import InputError
from lmsize.estimate.answer import Accelerators, Compute, Cost, Estimate, Parameters, Serving
from lmsize.estimate.running import bill
from lmsize.estimate.serving_speed import Speed, speed_of
from lmsize.estimate.training import filled_memory
from lmsize.formula import Term
from lmsize.layout.degrees import Layout, check, with_count
from lmsize.memory.serving import ServingSetup, cache_bytes_per_token, serving_peak
from lmsize.model.count import n_params, n_params_active
from lmsize.model.spec import ModelSpec
from lmsize.workload.serving import PREFILL_CHUNK, InferSpec, with_serving_defaults

OUTPUT_TOKENS_BILLED = 1_000_000


@dataclass(frozen=True, slots=True)
class ServingQuestion:
    """What is asked, whole; `spec` has every default filled in."""

    model: ModelSpec
    spec: InferSpec
    setup: ServingSetup
    accelerator: Accelerator | None
    catalogue: Catalogue
    assumptions: tuple[Assumption, ...]
    cautions: tuple[Caution, ...]
    today: date

    def varied(self, **changes: Any) -> ServingQuestion:
        """The same question with some fields of the spec changed (for searches)."""
        spec = replace(self.spec, **changes)
        return replace(self, spec=spec, setup=_setup(self.model, spec, self.catalogue))

    def inputs(self) -> dict[str, Any]:
        """Everything that was used, under the names of the options."""
        name = self.accelerator.name if self.accelerator else None
        used = self.spec.as_dict() | {"accelerators": self.setup.layout.n_accelerators}
        return {"model": self.model.name, "engine": "analytic", "accelerator": name, **used}


def serving_question(
    model: ModelSpec, spec: InferSpec, catalogue: Catalogue, *, accelerator: str | None, today: date
) -> ServingQuestion:
    """Make a question ready.

    Raises:
        InputError: a name that is not known, numbers that contradict each other or the model.
        LayoutError: an illegal layout.
    """
    filled, stated = with_serving_defaults(spec, max_positions=model.max_positions)
    row, assumed = catalogue.accelerator(accelerator) if accelerator is not None else (None, ())
    cautions = _check_context(model, filled.context or 1)
    setup = _setup(model, filled, catalogue)
    text = f"prompts are prefilled in chunks of at most {filled.prefill_chunk} tokens"
    working = [Assumption("prefill-chunk", text)] if spec.prefill_chunk is None else []
    return ServingQuestion(
        model, filled, setup, row, catalogue,
        (*model.assumptions, *assumed, *stated, *working), cautions, today,
    )  # fmt: skip


def _check_context(model: ModelSpec, context: int) -> tuple[Caution, ...]:
    longest = model.max_positions
    if longest is None or context <= longest:
        return ()
    if model.learned_positions:
        expected = f"at most {longest}, the rows of the model's table of positions"
        raise InputError("--context", context, expected, nearest=[longest])
    text = f"{context} tokens are more than the {longest} that the model was made for: the others were not trained"
    return (Caution("beyond-max-positions", text),)


def _setup(model: ModelSpec, spec: InferSpec, catalogue: Catalogue) -> ServingSetup:
    layout = with_count(Layout(1, spec.tp, spec.pp, 1, spec.ep), spec.accelerators)
    check(layout, model, seq_len=1)
    stored = "fp32" if spec.precision == "tf32" else str(spec.precision)
    return ServingSetup(
        model=model, layout=layout, weights=catalogue.precision(stored),
        quant=catalogue.precision(spec.quant, "--quant") if spec.quant else None,
        cache=catalogue.precision(str(spec.kv_precision), "--kv-precision"),
        context=spec.context or 1, prompt=spec.prompt or 1,
        n_sequences=-(-(spec.concurrency or 1) // layout.dp),
        prefill_chunk=spec.prefill_chunk or PREFILL_CHUNK, prompt_logits=spec.prompt_logits,
    )  # fmt: skip


def serving_estimate(question: ServingQuestion) -> Estimate:
    """Memory, cache, prefill and decode of serving; limits and verdict are left to a planner."""
    setup = question.setup
    peak = serving_peak(setup)
    memory, stated = filled_memory(peak, question)
    prompt = Tokens(1, setup.prompt, 1)
    prefill = work("prefill of one prompt", question.model, prompt, FORWARD)
    speed = speed_of(question, peak.winner, prefill)
    tokens_per_s = speed.tokens_per_s * setup.layout.dp if speed.tokens_per_s else None
    hours = (
        OUTPUT_TOKENS_BILLED / tokens_per_s / 3600 * setup.layout.n_accelerators
        if tokens_per_s
        else None
    )
    cost, cost_stated, cautions = bill(
        hours, question.accelerator, question.catalogue, today=question.today
    )
    total, active = n_params(question.model), n_params_active(question.model)
    name = question.accelerator.name if question.accelerator else None
    return Estimate(
        engine="analytic", task="infer", inputs=question.inputs(),
        parameters=Parameters(total, 0, active), memory=memory,
        compute=Compute(prefill.value, prefill.value, prefill.value / setup.prompt, (prefill,)),
        accelerators=Accelerators(name, setup.layout.n_accelerators, None, None),
        cost=cost if hours else Cost(),
        serving=_serving(question, peak.winner, speed, tokens_per_s),
        assumptions=(*question.assumptions, *stated, *speed.stated, *cost_stated, *_billed(hours)),
        warnings=(*question.cautions, *cautions),
    )  # fmt: skip


def _billed(hours: float | None) -> tuple[Assumption, ...]:
    text = "cost, energy and carbon are those of a million output tokens at this load"
    return (Assumption("million-tokens", text),) if hours else ()


def _serving(
    question: ServingQuestion, moment: Term, speed: Speed, tokens_per_s: float | None
) -> Serving:
    cache = moment.child("kv_cache")
    return Serving(
        kv_cache_bytes=round(cache.value) if cache else None,
        kv_cache_bytes_per_token=cache_bytes_per_token(question.model, question.setup.cache),
        prefill_s=speed.prefill_s, decode_s_per_token=speed.decode_s,
        tokens_per_s=tokens_per_s, trees=speed.trees,
    )  # fmt: skip
