"""A row of a serving measurement -> the call of :func:`lmsize.infer` that a user would make.

Every default taken is an assumption on that row's answer. Nothing here knows a source: only what
cells say, and what an engine does where they are silent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmsize.assumption import Assumption
from lmsize.catalogue import built_in
from lmsize.errors import InputError
from lmsize.measurements.architecture import architecture, columns_of
from lmsize.measurements.cells import count, number, options
from lmsize.measurements.engines import ServingEngine, serving_engine
from lmsize.measurements.settings import Question
from lmsize.measurements.unmodelled import UnmodelledError
from lmsize.measurements.words import REMARK, read

# "CPU/disk offload 24.4 GB", "CPU 14.1", "lowest offloading device: disk": but not "CPU 0".
OFFLOADED = re.compile(
    r"\b(?:cpu|disk|host|nvme|ram)\b[^;,.\d]{0,24}0*\.?0*[1-9]"
    r"|\boffload\w*\s+(?:device|to)\W{1,3}(?:cpu|disk|host|nvme)", re.IGNORECASE,
)  # fmt: skip
# "moe_tp 2 moe_ep 4", as people write degrees in prose.
DEGREE = re.compile(r"\b(attention_dp|moe_tp|moe_ep)\W{1,2}(\d{1,5})\b", re.IGNORECASE)
# How weights are stored -> (--precision that it is computed in, --quant); None keeps the row's own.
STORED: Mapping[str, tuple[str | None, str | None]] = {
    "none": (None, None), "fp8": ("fp8", None), "w8a8": ("fp8", None),
    "fp8-block128": ("fp8", "fp8-block128"), "mxfp8": ("fp8", "mxfp8"),
    "nvfp4": ("fp8", "nvfp4"), "int8-w8a8": (None, "int8"),
}  # fmt: skip
FOUR_BIT_ARITHMETIC = ("nvfp4",)


@dataclass(slots=True)
class ServingDraft:
    """A row that is being read.

    Attributes:
        extra: the launch options in ``extra_config``; `cell` what names the engine.
        options: of ``lmsize infer``, as they become known.
    """

    row: Mapping[str, str]
    extra: Mapping[str, str]
    cell: str
    engine: ServingEngine
    options: dict[str, Any]
    stated: list[Assumption]

    def assume(self, code: str, text: str) -> None:
        self.stated.append(Assumption(code, text))


def serving_question(row: Mapping[str, str]) -> Question:
    """The question that a row asks, its options those of ``lmsize infer``.

    Raises:
        UnmodelledError: its architecture, precision or quantisation cannot be read, its degrees
            do not make its number of accelerators, or weights lie on the host.
    """
    extra = options(row.get("extra_config", ""))
    _refuse_offload(row)
    model, stated = architecture(columns_of(row, extra))
    cell = row.get("engine", "") or row.get("framework", "")
    draft = ServingDraft(row, extra, cell, serving_engine(cell), {}, list(stated))
    if draft.engine.name == "other":
        said = f"engine {cell!r} is not known" if cell else "no engine stated"
        draft.assume("row-engine", f"{said}: taken as most servers are")
    _read_types(draft)
    _read_layout(draft)
    _read_lengths(draft)
    name = row["gpu_norm"] if row.get("gpu_norm") else row.get("gpu", "")
    return Question(model, name, draft.options, tuple(draft.stated))


def _refuse_offload(row: Mapping[str, str]) -> None:
    cell = row.get("offload", "")
    if cell and read("offload", cell).meaning != "none":
        raise UnmodelledError(f"offload {cell!r} is not modelled")
    if OFFLOADED.search(row.get("notes", "")):
        raise UnmodelledError("offload to the host or to disk is not modelled")


def _read_types(draft: ServingDraft) -> None:
    """What weights are stored and computed in, and the type of the cache.

    Raises:
        UnmodelledError: one of them cannot be read.
    """
    cell = draft.row.get("precision", "")
    stored = _stored(draft.row.get("quant", ""))
    precision = read("precision", cell).meaning if cell else None
    if cell and precision in (None, "unread"):
        # "int4", "Q4_K_M": the column of the precision names how weights are stored.
        stored, precision = stored or _stored(cell), None
    if precision == "fp4":
        stored, precision = stored or "nvfp4", None
    computed, quant = STORED.get(stored or "none", (None, stored))
    if stored in FOUR_BIT_ARITHMETIC:
        draft.assume("row-fp4", f"{stored}: products taken at the rate of fp8")
    if stored == "int8-w8a8":
        draft.assume("row-int8", "products of int8 taken at the rate of the 16-bit type")
    if computed is None and precision is None:
        computed = draft.engine.precision
        draft.assume("row-precision", f"{computed}, {draft.engine.name}'s usual: none stated")
    if precision in ("bf16", "fp16") and read("mixing", cell).meaning == "amp":
        computed = "fp32"
        draft.assume("row-autocast", f"{cell}: weights stay fp32 under autocast; no copies counted")
    draft.options["precision"] = computed or precision
    if quant is not None:
        draft.options["quant"] = quant
    _read_cache(draft)


def _stored(cell: str) -> str | None:
    """How weights are stored: a word of the table, or a type of the catalogue (GGUF's kinds).

    None where the cell is empty or names none at all ("gemm ; moe").
    """
    if not cell:
        return None
    found = read("serving_quant", cell)
    if found.meaning is not None:
        return found.meaning
    if not found.unknown:
        return None
    try:
        return built_in().precision(REMARK.sub(" ", cell).strip(), "--quant").name
    except InputError:
        raise UnmodelledError(f"quant {cell!r} is not read") from None


def _read_cache(draft: ServingDraft) -> None:
    cell = draft.row.get("kv_cache_dtype", "") or draft.extra.get("kv_cache_dtype", "")
    kind = read("kv", cell).meaning if cell else "auto"
    if kind is None:
        raise UnmodelledError(f"kv_cache_dtype {cell!r} is not read")
    if kind != "auto":
        draft.options["kv_precision"] = kind
    elif not cell:
        draft.assume("row-kv-precision", "cache in the type of attention: none stated")


def _read_layout(draft: ServingDraft) -> None:
    """Degrees and number of accelerators.

    Raises:
        UnmodelledError: the degrees do not make the number.
    """
    row, engine = draft.row, draft.engine
    said = {name.lower(): int(n) for name, n in DEGREE.findall(row.get("notes", ""))}
    tp, pp, n = (count(row, name) for name in ("tp", "pp", "n_gpus"))
    dp = count(row, "dp") or said.get("attention_dp") or 1
    if n and n > 1 and (tp or 1) * (pp or 1) * dp == 1:
        if engine.spread == "layers":
            pp = n
            draft.assume("row-layers-split", f"layers of {n} accelerators one after the other")
        elif tp is None:
            tp = n
            draft.assume("row-tensors-split", f"tp {n}, {engine.name}'s usual: none stated")
    tp, pp = tp or 1, pp or 1
    n = n or tp * pp * dp
    if n % (tp * pp):
        raise UnmodelledError(f"layout: {n} accelerators are no multiple of tp * pp = {tp * pp}")
    degrees = {"tp": tp, "pp": pp, "ep": _expert_degree(draft, tp, said)}
    draft.options |= {name: degree for name, degree in degrees.items() if degree > 1}
    draft.options["accelerators"] = n


def _expert_degree(draft: ServingDraft, tp: int, said: Mapping[str, int]) -> int:
    """The degree that divides experts as the row does: tensor ranks share each expert's matrices,
    which puts as many bytes on each as whole experts spread over the same ranks.
    """
    ep = count(draft.row, "ep") or said.get("moe_ep") or 1
    shards = ep * (said.get("moe_tp") or 1)
    if ep == 1 or shards % tp:
        return ep
    if shards // tp != ep:
        draft.assume("row-ep", f"experts over {shards} ranks: ep {shards // tp} beside tp {tp}")
    return shards // tp


def _read_lengths(draft: ServingDraft) -> None:
    """Sequences in flight, and the lengths of prompts and outputs."""
    row, engine = draft.row, draft.engine
    batch = count(row, "batch_size")
    if batch is None:
        draft.assume("row-batch", "one sequence: none stated")
    prompt, output = (_length(row, name) for name in ("prompt_len", "output_len"))
    if prompt is None:
        # Figures that state an output alone are of generating from next to nothing.
        prompt = engine.prompt or (1 if output else None)
        if prompt is not None:
            draft.assume("row-prompt", f"prompts of {prompt} tokens: none stated")
    if output is None and engine.output is not None:
        output = engine.output
        draft.assume("row-output", f"{output} tokens generated, {engine.name}'s usual")
    if prompt is None or output is None:
        draft.assume("row-lengths", "lengths of prompts or outputs are not stated: the defaults")
    draft.options |= {
        key: max(1, value)
        for key, value in (("concurrency", batch or 1), ("prompt", prompt), ("output", output))
        if value is not None
    }
    if engine.whole_prompts and prompt is not None:
        draft.options["prefill_chunk"] = max(1, prompt) * (batch or 1)
    if engine.eager:
        draft.options["eager"] = True
    if engine.keeps_prompt_logits(draft.cell):
        draft.options["prompt_logits"] = True


def _length(row: Mapping[str, str], column: str) -> int | None:
    """A length in tokens, which may be a mean; 0 is one."""
    value = number(row, column)
    return None if value is None else round(value)
