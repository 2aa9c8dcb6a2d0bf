"""The answer to a question, in the shape of the JSON contract."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from lmsize.assumption import Assumption, Caution
from lmsize.formula import Term

SCHEMA = "lmsize/estimate/1"
# Named in every answer; null where a run has none. An answer may have more (kv_cache ...).
COMPONENTS = (
    "weights", "gradients", "optimizer_states", "activations", "adapter_weights", "temporaries",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parameters:
    """Counts of parameters."""

    total: int | None = None
    trainable: int | None = None
    active_per_token: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the accelerator that needs most; `components` sum to the allocated peak.

    Attributes:
        peak_allocated_bytes: live tensors; `peak_reserved_bytes` what the caching allocator
            holds; `peak_device_bytes` what the driver reports.
        capacity_bytes: what a process can use of the accelerator asked about.
        moment: the instant of the step at which it peaks.
        reduction_factor: in a comparison, the first row's peak over this one's.
    """

    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    peak_device_bytes: int | None = None
    low_bytes: int | None = None
    high_bytes: int | None = None
    capacity_bytes: int | None = None
    moment: str | None = None
    reduction_factor: float | None = None
    components: dict[str, int | None] = field(default_factory=dict)
    tree: Term | None = None


@dataclass(frozen=True, slots=True)
class Compute:
    """FLOPs of one step over all accelerators (serving: of one prompt's prefill)."""

    model_flops_per_step: float | None = None
    hardware_flops_per_step: float | None = None
    flops_per_token: float | None = None
    trees: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class Time:
    """Seconds and rates."""

    step_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    tokens_per_s_per_accelerator: float | None = None
    mfu: float | None = None
    hfu: float | None = None
    total_s: float | None = None
    accelerator_hours: float | None = None
    trees: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class Accelerators:
    """Which and how many, and how many it would take."""

    name: str | None = None
    count: int | None = None
    min_to_fit: int | None = None
    needed_for_deadline: int | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """Money, electricity and carbon of the whole run (serving: of a million output tokens)."""

    usd: float | None = None
    usd_as_of: str | None = None
    energy_kwh: float | None = None
    co2e_kg: float | None = None
    trees: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest that still fit, all else unchanged."""

    max_micro_batch: int | None = None
    max_seq_len: int | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """What serving needs and yields."""

    kv_cache_bytes: int | None = None
    kv_cache_bytes_per_token: float | None = None
    max_context_tokens: int | None = None
    max_concurrency: int | None = None
    prefill_s: float | None = None
    decode_s_per_token: float | None = None
    tokens_per_s: float | None = None
    trees: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it fits, how likely, and one sentence that says so."""

    fits: bool | None = None
    probability: float | None = None
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One engine's whole answer; :meth:`as_dict` is the JSON contract.

    Attributes:
        task: ``train`` or ``infer``; only the latter has `serving` filled.
        inputs: everything that was used, defaults included, under the names of the options.
    """

    engine: str
    task: str
    inputs: dict[str, Any]
    parameters: Parameters = Parameters()
    memory: Memory = field(default_factory=Memory)
    compute: Compute = Compute()
    time: Time = Time()
    accelerators: Accelerators = Accelerators()
    cost: Cost = Cost()
    limits: Limits = Limits()
    serving: Serving = Serving()
    verdict: Verdict = Verdict()
    assumptions: tuple[Assumption, ...] = ()
    warnings: tuple[Caution, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The estimate as plain data, ready for ``json.dumps``."""
        named = {f.name: as_plain(getattr(self, f.name)) for f in fields(self) if f.name != "task"}
        memory = named["memory"]
        memory["components"] = dict.fromkeys(COMPONENTS) | memory["components"]
        return {"schema": SCHEMA, **named}


def as_plain(value: Any) -> Any:
    """Dataclasses, terms and tuples -> what JSON knows."""
    if isinstance(value, Term):
        return value.as_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: as_plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(member) for member in value]
    return value
