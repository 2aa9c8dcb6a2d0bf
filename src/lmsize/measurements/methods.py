"""Method, adapters, precision and optimizer that a row's cells name."""

from __future__ import annotations

from lmsize.measurements.cells import count
from lmsize.measurements.draft import Draft
from lmsize.measurements.targets import lora_targets, saved_modules
from lmsize.measurements.unmodelled import UnmodelledError
from lmsize.measurements.words import read
from lmsize.model.parts import Experts
from lmsize.model.spec import ModelSpec

METHODS = {"full": "full", "lora": "lora", "qlora": "qlora", "dora": "lora", "rslora": "lora",
           "galore": "full", "galore-quantised": "full"}  # fmt: skip
METHOD_OPTIMIZERS = {"galore": "galore-adamw", "galore-quantised": "galore-adamw8bit"}


def read_method(draft: Draft, model: ModelSpec) -> None:
    """Full, LoRA or QLoRA; for the latter two, what is adapted and how the base is stored.

    Raises:
        UnmodelledError: another method, or one that cannot be read.
    """
    cell = draft.row.get("method", "")
    said = read("method", cell or _method_in_label(draft.row.get("model", "")))
    if cell and said.meaning not in METHODS:
        raise UnmodelledError(f"method {cell!r} is not modelled: full, lora and qlora are")
    rlhf = draft.extra.get("rlhf_type", "")
    if rlhf:
        raise UnmodelledError(f"method {rlhf!r} is not modelled: full, lora and qlora are")
    quant = _quant(draft)
    adapts = bool(count(draft.row, "lora_rank"))
    method = METHODS[said.meaning] if said.meaning else "lora" if adapts else "full"
    if not cell:
        draft.assume("row-method", f"{method}: no method stated")
    if method == "lora" and quant is not None:
        method = "qlora"
    draft.options["method"] = method
    if said.meaning in ("dora", "rslora"):
        draft.assume("row-adapter", f"{said.meaning} taken as plain LoRA")
    if method == "qlora" and quant is not None:
        draft.options["quant"] = quant
    if method != "full":
        _read_adapters(draft, model)


def _quant(draft: Draft) -> str | None:
    """The type that the frozen base is stored in; None where it is not quantised."""
    cell = draft.row.get("quant", "")
    if not cell:
        return None
    meaning = read("quant", cell).meaning
    if meaning is None:
        raise UnmodelledError(f"quant {cell!r} is not read")
    return None if meaning == "none" else meaning


def _read_adapters(draft: Draft, model: ModelSpec) -> None:
    rank = count(draft.row, "lora_rank") or count(draft.extra, "lora_rank")
    if rank:
        draft.options["lora_rank"] = rank
    cell = draft.row.get("lora_targets", "") or draft.extra.get("target_modules", "")
    saved = saved_modules(cell, model)
    if saved:
        draft.options["modules_to_save"] = saved
    targets = lora_targets(cell, model)
    if targets:
        draft.options["lora_targets"] = targets
    elif cell:
        draft.assume("row-targets", f"targets {cell!r} are not known: every linear is adapted")
    has_experts = any(
        isinstance(part, Experts) for _, run in model.runs() for part in run.block.parts
    )
    adapts_all = draft.options.get("lora_targets", "all-linear") == "all-linear"
    if draft.options["stack"] == "megatron" and has_experts and adapts_all:
        draft.options["lora_experts"] = True  # experts' products are linears of its own there


def _method_in_label(label: str) -> str:
    """A method that the model's label names ("Llama-2-70B (LoRA fine-tune)"), else nothing."""
    return next((word for word in ("qlora", "lora") if word in label.lower()), "")


def read_numbers(draft: Draft) -> None:
    """Precision and optimizer.

    Raises:
        UnmodelledError: one of them cannot be read.
    """
    cell = draft.row.get("precision", "")
    if draft.options["method"] == "qlora" and read("quant", cell).meaning is not None:
        draft.options.setdefault("quant", read("quant", cell).meaning)
        cell = ""  # the type of the frozen base: what is computed in is not stated
    kind = read("precision", cell).meaning if cell else "bf16"
    if kind is None or kind == "unread":
        raise UnmodelledError(f"precision {cell!r} is not read")
    if not cell:
        draft.assume("row-precision", "bf16: no precision stated")
    if kind == "fp4":
        draft.assume("row-fp4", f"{cell} taken as fp8: training in 4 bits is not modelled")
        kind = "fp8"
    if kind in ("bf16", "fp16") and not _is_pure(draft, cell, kind):
        kind = f"amp-{kind}"
    if draft.options["method"] == "qlora":
        kind = kind.removeprefix("amp-")  # what is not quantised has a type of its own
    draft.options["precision"] = kind
    draft.options["optimizer"] = _optimizer(draft)


def _is_pure(draft: Draft, cell: str, kind: str) -> bool:
    """Whether a 16-bit type holds weights, gradients and states, or is autocast's alone: as the
    cell says, else as the states' type implies, else as the framework does.
    """
    frame, adapts = draft.framework, draft.options["method"] != "full"
    mixing = read("mixing", cell).meaning
    if mixing is not None:
        return mixing == "pure"
    states = read("precision", draft.row.get("optimizer_state_dtype", "")).meaning
    if states is not None and not adapts:
        return states in ("bf16", "fp16")
    pure = (frame.adapted_16bit if adapts else frame.bare_16bit) == "pure"
    if draft.options["stack"] == "transformers":
        use = "weights in it" if pure else "autocast over fp32 weights"
        draft.assume("row-16bit", f"{kind} taken as {use}, {frame.name}'s usual")
    return pure


def _optimizer(draft: Draft) -> str:
    method = read("method", draft.row.get("method", "")).meaning
    if method in METHOD_OPTIMIZERS:
        return METHOD_OPTIMIZERS[method]
    cell = draft.row.get("optimizer", "")
    if not cell:
        frame = draft.framework
        draft.assume("row-optimizer", f"{frame.optimizer}, {frame.name}'s usual: none stated")
        return frame.optimizer
    meaning = read("optimizer", cell).meaning
    if meaning is None:
        raise UnmodelledError(f"optimizer {cell!r} is not read")
    return meaning
