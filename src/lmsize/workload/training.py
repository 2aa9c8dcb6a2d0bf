"""What a training run is: everything a user may say about one, and the defaults for the rest."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from lmsize.assumption import Assumption
from lmsize.errors import InputError, nearest_names

Method = Literal["full", "lora", "qlora"]

METHODS = ("full", "lora", "qlora")
PRECISIONS = ("fp32", "tf32", "amp-fp16", "amp-bf16", "bf16", "fp16", "fp8")
RECOMPUTE = ("none", "selective", "full")
ATTENTION = ("eager", "sdpa", "flash")
LOSSES = ("plain", "chunked", "liger", "cut")
OWN_LOSSES = {"litgpt": "chunked", "unsloth": "cut"}  # by stack; the others' is plain
OWN_STYLE_LOSSES = {"litgpt": "chunked"}  # those that a stack's style writes in a way of its own
LENGTHS = ("equal", "varied")
ADAPTERS = ("lora", "rslora", "dora")
PIPELINE_STAGES = ("worst", "first", "last")
DEFAULT_SEQ_LEN = 2048


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """A training run. ``None`` is "not said"; :func:`with_defaults` fills those in.

    Field names are the long options of ``lmsize train`` with ``_`` for ``-``. Sizes are plain
    numbers: bytes, tokens, seconds.

    Attributes:
        accelerators: how many accelerators (``-n``).
        lora_targets: ``attention``, ``all-linear`` or module names, comma-separated.
        adapter: ``lora``, ``rslora`` (another scale) or ``dora`` (a magnitude for every output).
        lora_experts: whether routed experts get adapters as well.
        modules_to_save: modules that are trained whole beside the adapters, comma-separated.
        quant: precision in which the frozen base is stored.
        grad_accum: micro-batches that one rank runs for a step.
        global_batch: sequences a step over all ranks.
        deadline: seconds that the whole run may take.
        etp: tensor parallelism of the experts; None for the same as tp.
        vp: pieces that a pipeline's rank holds of the model (an interleaved schedule).
        stack_options: the stack's own switches, as ``name=value,no-name``.
        loss: how the loss is taken from the last hidden stream (:data:`LOSSES`).
        lengths: of micro-batches: ``equal`` to seq_len, or ``varied``, of which it is the longest.
        pipeline_stage: whose memory is told: the ``worst`` stage's, the ``first``'s or the ``last``'s.
    """

    method: Method = "full"
    precision: str | None = None
    quant: str | None = None
    optimizer: str | None = None
    lora_rank: int | None = None
    lora_targets: str | None = None
    lora_experts: bool = False
    modules_to_save: str | None = None
    adapter: str = "lora"
    micro_batch: int | None = None
    global_batch: int | None = None
    grad_accum: int | None = None
    seq_len: int | None = None
    steps: int | None = None
    tokens: int | None = None
    epochs: float | None = None
    dataset_tokens: int | None = None
    deadline: float | None = None
    accelerators: int | None = None
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int | None = None
    vp: int = 1
    zero: int | None = None
    sequence_parallel: bool = False
    recompute: str | None = None
    attention: str | None = None
    stack: str | None = None
    stack_options: str | None = None
    loss: str | None = None
    lengths: str = "equal"
    pipeline_stage: str = "worst"
    mfu: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, as the report's ``inputs`` have them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not one of `choices`, offering the nearest."""
    if value not in choices:
        near = nearest_names(value, choices, n_names=1)
        raise InputError(what, value, f"one of {', '.join(choices)}", nearest=near)


def with_defaults(
    spec: TrainSpec, *, max_positions: int | None, attention: str = "sdpa"
) -> tuple[TrainSpec, tuple[Assumption, ...]]:
    """The spec with every default filled in, and an assumption for each.

    Args:
        max_positions: the model's longest sequence, if known.
        attention: what the model runs by default.

    Raises:
        InputError: a word that is not a choice, or numbers that contradict each other.
    """
    check_choice("--method", spec.method, METHODS)
    qlora = spec.method == "qlora"
    adapts = spec.method != "full"
    wanted: dict[str, Any] = {
        "precision": "bf16" if qlora else "amp-bf16",
        "quant": "nf4" if qlora else None,
        "optimizer": "adamw",
        "lora_rank": 16 if adapts else None,
        "lora_targets": "all-linear" if adapts else None,
        "micro_batch": 1,
        "seq_len": min(DEFAULT_SEQ_LEN, max_positions or DEFAULT_SEQ_LEN),
        "zero": 0,
        "recompute": "none",
        "attention": attention,
        "stack": "transformers",
        "loss": OWN_LOSSES.get(spec.stack or "", "plain"),
    }
    taken = {k: v for k, v in wanted.items() if v is not None and getattr(spec, k) is None}
    filled = replace(spec, **taken)
    _check(filled)
    stated = tuple(
        Assumption(
            f"default-{key.replace('_', '-')}", f"{key.replace('_', '-')} {value} (the default)"
        )
        for key, value in taken.items()
    )
    return filled, stated


def _check(spec: TrainSpec) -> None:
    check_choice("--precision", str(spec.precision), PRECISIONS)
    check_choice("--recompute", str(spec.recompute), RECOMPUTE)
    check_choice("--attention", str(spec.attention), ATTENTION)
    check_choice("--loss", str(spec.loss), LOSSES)
    check_choice("--lengths", spec.lengths, LENGTHS)
    check_choice("--pipeline-stage", spec.pipeline_stage, PIPELINE_STAGES)
    check_choice("--adapter", spec.adapter, ADAPTERS)
    if spec.method == "full" and spec.adapter != "lora":
        raise InputError("--adapter", spec.adapter, "no value with --method full")
    if spec.method == "full":
        for name in ("quant", "lora_rank", "lora_targets", "lora_experts", "modules_to_save"):
            if getattr(spec, name) not in (None, False):
                option = f"--{name.replace('_', '-')}"
                raise InputError(option, getattr(spec, name), "no value with --method full")
    if spec.method == "lora" and spec.quant is not None:
        raise InputError("--quant", spec.quant, "--method qlora, whose frozen base is quantised")
    if spec.zero not in (0, 1, 2, 3):
        raise InputError("--zero", spec.zero, "a ZeRO stage from 0 to 3")
    said = [n for n in ("steps", "tokens", "epochs") if getattr(spec, n) is not None]
    if len(said) > 1:
        raise InputError(f"--{said[1]}", getattr(spec, said[1]), f"no value beside --{said[0]}")
    if spec.deadline is not None and not said:
        expected = "the length of the run beside it: --steps, --tokens or --epochs"
        raise InputError("--deadline", f"{spec.deadline:g} s", expected)
    if (spec.epochs is None) != (spec.dataset_tokens is None):
        given = "epochs" if spec.dataset_tokens is None else "dataset_tokens"
        other = "dataset-tokens" if given == "epochs" else "epochs"
        value = f"{getattr(spec, given):g}"
        raise InputError(f"--{given.replace('_', '-')}", value, f"--{other} beside it")


@dataclass(frozen=True, slots=True)
class Batch:
    """How a step's sequences come together: ``sequences = micro_batch * n_micro * dp``."""

    micro_batch: int
    n_micro: int
    dp: int
    seq_len: int

    @property
    def sequences(self) -> int:
        return self.micro_batch * self.n_micro * self.dp

    @property
    def tokens(self) -> int:
        """Tokens that one optimizer step sees, over all ranks."""
        return self.sequences * self.seq_len


def batch_of(spec: TrainSpec, *, dp: int) -> Batch:
    """The batch of a filled-in spec on `dp` data-parallel ranks.

    Raises:
        InputError: a global batch that micro-batch and dp do not divide, or one that
            contradicts the accumulation.
    """
    micro, seq_len = spec.micro_batch or 1, spec.seq_len or 1
    per_round = micro * dp
    if spec.global_batch is None:
        return Batch(micro, spec.grad_accum or 1, dp, seq_len)
    if spec.global_batch % per_round:
        multiple = spec.global_batch // per_round * per_round
        nearest = [n for n in (multiple, multiple + per_round) if n]
        expected = f"a multiple of micro-batch * dp = {per_round}"
        raise InputError("--global-batch", spec.global_batch, expected, nearest=nearest)
    n_micro = spec.global_batch // per_round
    if spec.grad_accum not in (None, n_micro):
        raise InputError(
            "--grad-accum", spec.grad_accum, f"{n_micro}, which --global-batch implies"
        )
    return Batch(micro, n_micro, dp, seq_len)


def n_steps(spec: TrainSpec, batch: Batch) -> int | None:
    """Optimizer steps of the whole run; None if nothing was said about its length."""
    if spec.steps is not None:
        return spec.steps
    tokens = spec.tokens
    if spec.epochs is not None and spec.dataset_tokens is not None:
        tokens = round(spec.epochs * spec.dataset_tokens)
    return None if tokens is None else -(-tokens // batch.tokens)
