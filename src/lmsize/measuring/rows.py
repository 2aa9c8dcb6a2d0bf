"""What came of a case -> rows in the columns of measurements."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version

from lmsize.catalogue import built_in
from lmsize.errors import LmsizeError
from lmsize.measurements.columns import COLUMNS
from lmsize.measuring.architecture import architecture_columns
from lmsize.measuring.case import Case
from lmsize.measuring.outcome import Measured
from lmsize.model.spec import ModelSpec
from lmsize.workload.training import batch_of

SOURCE = "lmsize measure"
GIB = 2**30
# Elsewhere a bare "bf16" often means autocast: these words do not.
PRECISION_WORDS = {"bf16": "bf16-true", "fp16": "fp16-true"}
Row = dict[str, str]


def rows_of(case: Case, found: Measured) -> list[Row]:
    """One row for each peak, the time in the first; a single row for what gave no peak."""
    common = {**_configuration(case), **_origin(case, found)}
    if not found.peaks:
        notes = _notes(case, found.reason)
        return [_row({**common, "id": _id(case, found, found.outcome), "notes": notes})]
    rows = []
    for peak, speed in zip(found.peaks, _speeds(case, found), strict=False):
        measured = {
            "id": _id(case, found, peak.kind),
            "measured_peak_gib": f"{peak.n_bytes / GIB:.9g}",
            "metric_definition": peak.definition,
            "reported_value": f"{peak.n_bytes} bytes",
            **speed,
        }
        rows.append(_row({**common, **measured}))
    return rows


def case_key(row: Row) -> str | None:
    """The key of the case that a row came from; None for rows of other origin."""
    match = re.search(r"(?:^|; )case=([0-9a-f]+)(?:;|$)", row.get("extra_config") or "")
    return match[1] if match else None


def _row(values: dict[str, object]) -> Row:
    """The cells that say something, in the order of the columns."""
    return {name: str(values[name]) for name in COLUMNS if values.get(name) not in (None, "")}


def _configuration(case: Case) -> dict[str, object]:
    spec, n = case.spec, case.n_processes
    batch = batch_of(spec, dp=n)
    adapts = spec.method != "full"
    return {
        "model": case.label, **architecture_columns(case.architecture), "seq_len": batch.seq_len,
        "micro_batch": batch.micro_batch, "grad_accum": batch.n_micro,
        "global_batch": batch.sequences, "n_gpus": n, "dp": n, "tp": 1, "pp": 1, "cp": 1, "ep": 1,
        "sequence_parallel": "no", "sharding": _sharding(case), "precision": PRECISION_WORDS.get(spec.precision or "", spec.precision),
        "optimizer": _optimizer(case), "recompute": spec.recompute,
        "flash_attention": spec.attention, "method": spec.method,
        "lora_rank": spec.lora_rank if adapts else None,
        "lora_targets": spec.lora_targets if adapts else None, "quant": spec.quant,
        "offload": "none", "compile": "no",
    }  # fmt: skip


def _optimizer(case: Case) -> str | None:
    fused = case.spec.optimizer == "adamw" and case.optimizer_impl == "fused"
    return "adamw-fused" if fused else case.spec.optimizer


def _sharding(case: Case) -> str:
    if case.n_processes == 1:
        return "none"
    return {2: "fsdp zero2", 3: "fsdp2"}.get(case.spec.zero or 0, "ddp")


def _origin(case: Case, found: Measured) -> dict[str, object]:
    facts = found.facts
    stack = [f"{name} {facts[name]}" for name in ("transformers", "torch") if name in facts]
    circumstances = {"case": case.key, **_shape_facts(case.architecture), **facts}
    circumstances |= {"lora_experts": "yes"} if case.spec.lora_experts else {}
    if case.clip_grad_norm is not None:
        circumstances["clip_grad_norm"] = f"{case.clip_grad_norm:g}"
    return {
        "source_repo_or_url": SOURCE, "source_path_or_section": case.command,
        "source_commit": version("lmsize"), "gpu": found.device_name,
        "gpu_norm": "" if case.device == "cpu" else catalogue_name(found.device_name),
        "gpu_memory_gib": f"{found.capacity_bytes / GIB:.6g}" if found.capacity_bytes else None,
        "framework": f"{' / '.join(stack)} (lmsize measure)", "outcome": found.outcome,
        "quality": "C" if _is_bound(case) else "A", "notes": _notes(case), "extra_config": "; ".join(f"{k}={v}" for k, v in circumstances.items()),
    }  # fmt: skip


def _shape_facts(model: ModelSpec) -> dict[str, str]:
    """What no column has room for: the class, and whether input and output share one embedding."""
    return {"class": model.architecture, "tied_embeddings": str(model.is_tied).lower()}


def _is_bound(case: Case) -> bool:
    """Whether the peak is an upper bound only.

    The CPU allocator's events come from the step's own thread: what the threads of communication
    release seems to stay.
    """
    return case.device == "cpu" and case.n_processes > 1


def _notes(case: Case, reason: str = "") -> str:
    bound = "upper bound: releases by communication threads are not seen" if _is_bound(case) else ""
    return "; ".join(text for text in (case.note, bound, reason) if text)


def _speeds(case: Case, found: Measured) -> Iterator[dict[str, object]]:
    """The time of a step for the first row, nothing for the others."""
    step_s = found.median_step_s
    if step_s is not None:
        tokens = batch_of(case.spec, dp=case.n_processes).tokens
        yield {
            "measured_step_time_s": f"{step_s:.6g}",
            "measured_tokens_per_s_per_gpu": f"{tokens / step_s / case.n_processes:.6g}",
            "derived": "measured_tokens_per_s_per_gpu=tokens of a step/step time",
        }
    while True:
        yield {}


def catalogue_name(device_name: str) -> str:
    """The catalogue's name of an accelerator where it knows the driver's, else the driver's."""
    try:
        return built_in().accelerator(device_name)[0].name
    except LmsizeError:
        return device_name


def _id(case: Case, found: Measured, suffix: str) -> str:
    device = re.sub(r"[^a-z0-9]+", "-", found.device_name.lower()).strip("-") or case.device
    return f"lmsize-{device[:40].strip('-')}-{case.key}-{suffix.lower()}"
