"""The rules of thumb that people calculate with, to the digit: parameters times bytes.

No KV cache, no scales of quantisation, no main copies, no driver context; GB is 10^9 bytes.
docs/article.md says where each of them misleads.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from lmsize.errors import InputError
from lmsize.formula import Term, formula, given, maximum, total
from lmsize.source import Source
from lmsize.workload.training import check_choice

ARTICLE = Source("Language Model Training Resource Expectation", "2025-01-15")
KAPLAN = Source(
    "Scaling Laws for Neural Language Models", "section 2.1", "https://arxiv.org/abs/2001.08361"
)
DEFAULT_EFFICIENCY = 0.8
DEFAULT_ADAPTER_FRACTION = 0.02


@dataclass(frozen=True, slots=True)
class RulesSpec:
    """What only the rules of thumb take; field names are the options'.

    Attributes:
        params: number of parameters, in place of a model.
        adapter_fraction: adapter parameters as a fraction of the model's.
        activation_bytes: both ends of a range, or ``textbook``: the published formula for a
            standard layer (in training, of a model).
        state_precision: type of each optimizer state, ``fp32`` or ``fp16``.
        leave_out: ``gradients``, to leave them out of the total.
        peak_flops: FLOP/s of one accelerator; `efficiency` the share of it that is reached.
    """

    params: int | None = None
    adapter_fraction: float | None = None
    activation_bytes: tuple[int, int] | Literal["textbook"] | None = None
    state_precision: str | None = None
    leave_out: str | None = None
    flops_per_sequence: float | None = None
    peak_flops: float | None = None
    efficiency: float | None = None

    def check(self) -> None:
        """Refuse words that are not choices."""
        if self.state_precision is not None:
            check_choice("--state-precision", self.state_precision, ("fp32", "fp16"))
        if self.leave_out is not None:
            check_choice("--leave-out", self.leave_out, ("gradients",))

    @property
    def activation_range(self) -> tuple[int, int] | None:
        """The range that was given; None where there is none."""
        given_bytes = self.activation_bytes
        return None if isinstance(given_bytes, str) else given_bytes

    def refuse_without_rules(self) -> None:
        """Refuse options that another engine would ignore."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                option = f"--{field.name.replace('_', '-')}"
                raise InputError(option, value, "no value without --engine rules")


@formula(source=ARTICLE)
def rule_bytes(*, n_numbers: Any, n_per_number: Any, bits: Any) -> Any:
    """Bytes of numbers by the rule of thumb: how many, times bits over 8.

    Assumes: no padding, no scales, one accelerator holds everything.
    Valid for: orders of magnitude.
    """
    return n_numbers * n_per_number * bits / 8


@formula(source=KAPLAN)
def rule_flops(*, n_params: Any, n_tokens: Any, flops_per_param: Any) -> Any:
    """FLOPs by the rule of thumb: 6 a parameter and token to train, 2 to infer.

    Assumes: attention scores cost nothing, embeddings as much as a matrix.
    Valid for: dense models with short sequences.
    """
    return flops_per_param * n_params * n_tokens


@formula(source=ARTICLE)
def batch_flops(*, flops_per_sequence: Any, n_sequences: Any) -> Any:
    """FLOPs of a batch from those of one sequence.

    Assumes: all sequences cost the same.
    Valid for: padded batches.
    """
    return flops_per_sequence * n_sequences


@dataclass(frozen=True, slots=True)
class RuleSizes:
    """The numbers that the rules of thumb multiply.

    Attributes:
        n_trained: trained parameters (the adapters', if there are any).
        n_states: optimizer states a trained parameter.
        weight_bits: of the base model; `trained_bits` of adapters and gradients.
    """

    n_params: int
    n_trained: int
    n_states: int
    weight_bits: float
    trained_bits: float
    state_bits: float
    has_adapters: bool


def training_memory(sizes: RuleSizes, rules: RulesSpec, *, textbook: Term | None = None) -> Term:
    """Components by the rules of thumb; what is not known or left out is None and not summed.

    Args:
        textbook: the activations, where the published formula gives them.
    """
    trained = sizes.n_trained
    terms = [
        rule_bytes.term(
            "weights", n_numbers=sizes.n_params, n_per_number=1, bits=sizes.weight_bits
        ),
        given("gradients", None, "bytes")
        if rules.leave_out == "gradients"
        else rule_bytes.term(
            "gradients", n_numbers=trained, n_per_number=1, bits=sizes.trained_bits
        ),
        rule_bytes.term(
            "optimizer_states",
            n_numbers=trained,
            n_per_number=sizes.n_states,
            bits=sizes.state_bits,
        ),
        textbook or _activations(rules),
        rule_bytes.term(
            "adapter_weights", n_numbers=trained, n_per_number=1, bits=sizes.trained_bits
        )
        if sizes.has_adapters
        else given("adapter_weights", None, "bytes"),
    ]
    return _summed("backward", terms)


def inference_memory(*, n_params: int, bits: float, rules: RulesSpec) -> Term:
    """Weights, and activations if a figure for them was given."""
    weights = rule_bytes.term("weights", n_numbers=n_params, n_per_number=1, bits=bits)
    return _summed("forward", [weights, _activations(rules)])


def _activations(rules: RulesSpec) -> Term:
    high = rules.activation_range[1] if rules.activation_range else None
    return given("activations", high, "bytes")


def _summed(moment: str, terms: list[Term]) -> Term:
    known = [term for term in terms if term.value is not None]
    return maximum("peak", [total(moment, known)])


def step_flops(
    rules: RulesSpec, *, n_params: int, n_trained: int, n_sequences: int, seq_len: int, frozen: bool
) -> Term:
    """FLOPs of a step: from the figure for a sequence, else 6 (frozen base: 4) a parameter.

    Args:
        n_params: those that a token meets: in a mixture of experts, the active ones.
    """
    if rules.flops_per_sequence is not None:
        return batch_flops.term(
            "step", flops_per_sequence=rules.flops_per_sequence, n_sequences=n_sequences
        )
    n_tokens = n_sequences * seq_len
    base = rule_flops.term(
        "base", n_params=n_params, n_tokens=n_tokens, flops_per_param=4 if frozen else 6
    )
    if not frozen:
        return base
    adapters = rule_flops.term("adapters", n_params=n_trained, n_tokens=n_tokens, flops_per_param=6)
    return total("step", [base, adapters], unit="FLOP")


def inference_flops(rules: RulesSpec, *, n_params: int, n_tokens: int) -> Term:
    """FLOPs of one prompt: the figure for a sequence, else 2 a parameter and token."""
    if rules.flops_per_sequence is not None:
        return batch_flops.term(
            "prefill", flops_per_sequence=rules.flops_per_sequence, n_sequences=1
        )
    return rule_flops.term("prefill", n_params=n_params, n_tokens=n_tokens, flops_per_param=2)
