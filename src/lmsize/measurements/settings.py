"""A row of a training measurement -> the question that a user would ask.

Every default taken is an assumption on that row's answer. Nothing here knows a source: only what
cells say, and what a framework does where they are silent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lmsize.assumption import Assumption
from lmsize.measurements.architecture import architecture, columns_of
from lmsize.measurements.cells import count, is_set, options, rate
from lmsize.measurements.draft import Draft
from lmsize.measurements.frameworks import Framework, framework
from lmsize.measurements.layouts import read_layout
from lmsize.measurements.megatron import megatron_model, speaks_megatron
from lmsize.measurements.megatron_t5 import is_megatron_t5, t5_model
from lmsize.measurements.methods import read_method, read_numbers
from lmsize.measurements.switches import read_switches
from lmsize.measurements.unmodelled import UnmodelledError
from lmsize.measurements.words import read
from lmsize.memory.stack_styles import as_built
from lmsize.model.spec import ModelSpec

OPTIMIZER_OFFLOAD = "optimizer_cpu_offload"
OFFLOADS = (OPTIMIZER_OFFLOAD, "fine_grained_activation_offloading", "cpu_offloading")
ON_HOST = ("unsloth",)  # stacks whose checkpoints wait on the host
# "The longest Alpaca sample", "3234±2548 tokens": batches of other lengths come too.
UNEQUAL = re.compile(r"\blongest \w+ sample\b|\d ?± ?\d+ tokens\b", re.IGNORECASE)
BATCH_OF_RANK = re.compile(
    r"\bbatch(?:[ _-]size)? per (?:dp|rank|gpu|device)\D{0,3}(\d{1,6})\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Question:
    """A call of :func:`lmsize.train`, as a row asks it.

    Attributes:
        accelerator: its name, "" if none is stated.
        options: the long options of ``lmsize train``; only what the row or its framework says.
        stated: what was taken for granted to put the row as a question.
    """

    model: ModelSpec
    accelerator: str
    options: Mapping[str, Any]
    stated: tuple[Assumption, ...]


def question(row: Mapping[str, str]) -> Question:
    """The question that a row asks.

    Raises:
        UnmodelledError: its architecture, method, sharding, precision or optimizer cannot be
            read, or lmsize does not model it.
    """
    extra = options(row.get("extra_config", ""))
    frame, is_known = framework(row.get("framework", ""))
    model, stated = _model(row, extra, frame)
    draft = Draft(row, extra, frame, {}, list(stated))
    if not is_known:
        draft.assume(
            "row-framework", f"{row.get('framework') or 'no framework'!s}: as {frame.name}"
        )
    elif frame.near:
        draft.assume("row-framework", f"{frame.name} taken as {frame.stack}, the nearest stack")
    read_layout(draft, model.n_layers)
    read_method(draft, as_built(str(draft.options["stack"]), model))
    _lengths(draft)
    _batch(draft)
    read_numbers(draft)
    _kernels(draft)
    read_switches(draft, model)
    if is_set(draft.extra, "use_liger_kernel"):
        draft.options["loss"] = "liger"
    _refuse_offload(draft)
    model = _with_dropout(model, draft)
    name = row["gpu_norm"] if "gpu_norm" in row else row.get("gpu", "")
    return Question(model, name, draft.options, tuple(draft.stated))


def _model(
    row: Mapping[str, str], extra: Mapping[str, str], frame: Framework
) -> tuple[ModelSpec, tuple[Assumption, ...]]:
    """The model that the columns and the label describe, or launch arguments that say more."""
    said = columns_of(row, extra)
    if frame.stack == "megatron" and speaks_megatron(said, extra):
        return megatron_model(said, extra), ()
    if frame.stack == "megatron" and is_megatron_t5(said, extra):
        return t5_model(said, extra), ()
    return architecture(said)


def _lengths(draft: Draft) -> None:
    seq_len = count(draft.row, "seq_len")
    if seq_len:
        draft.options["seq_len"] = seq_len
    if UNEQUAL.search(draft.row.get("notes", "")):
        draft.options["lengths"] = "varied"


def _batch(draft: Draft) -> None:
    row, o = draft.row, draft.options
    dp = o["accelerators"] // (o.get("tp", 1) * o.get("pp", 1) * o.get("cp", 1))
    micro, accum, whole = (count(row, c) for c in ("micro_batch", "grad_accum", "global_batch"))
    if micro is None and whole and accum and whole % (dp * accum) == 0:
        micro = whole // (dp * accum)
    each = BATCH_OF_RANK.search(row.get("extra_config", ""))
    if micro is None and accum is None and each:
        if draft.framework.runs_batch_whole and o.get("pp", 1) == 1:
            micro = int(each[1])
        else:  # how a rank cuts its batch is not said: micro-batches of 1, as below
            accum = int(each[1])
    if micro is None:
        micro = 1
        draft.assume("row-micro-batch", "micro-batch 1: none stated")
    pp = o.get("pp", 1)
    if draft.framework.cuts_batch and pp > 1 and micro % pp == 0 and (accum or 1) == 1:
        draft.assume(
            "row-pipeline-batch", f"a rank's batch of {micro} in {pp} micro-batches, one a stage"
        )
        micro, accum = micro // pp, pp
    o["micro_batch"] = micro
    if whole and whole % (micro * dp) == 0:
        o["global_batch"] = whole
    elif accum:
        o["grad_accum"] = accum
    if whole and "global_batch" not in o:
        text = f"global batch {whole} is no multiple of micro-batch * dp = {micro * dp}: left out"
        draft.assume("row-global-batch", text)


def _kernels(draft: Draft) -> None:
    """Attention and recomputation: an unknown word takes the framework's usual."""
    row, extra, frame = draft.row, draft.extra, draft.framework
    named = extra.get("attn_impl") or extra.get("attention_backend") or ""
    cell = row.get("flash_attention", "") or named
    meaning = read("attention", cell).meaning if cell else None
    if meaning is None:
        draft.assume("row-attention", _usual(frame.attention, frame, cell))
    draft.options["attention"] = meaning or frame.attention
    cell = row.get("recompute", "") or extra.get("recompute_granularity", "")
    meaning = read("recompute", cell).meaning if cell else None
    if meaning is None:
        draft.assume("row-recompute", _usual(frame.recompute, frame, cell))
    is_none = extra.get("recompute_method") == "block" and extra.get("recompute_num_layers") == "0"
    draft.options["recompute"] = "none" if is_none else meaning or frame.recompute


def _with_dropout(model: ModelSpec, draft: Draft) -> ModelSpec:
    """The rates that the framework's own options give, where it does not take the model's."""
    usual = draft.framework.dropout
    if usual is None:
        return model
    stated = {key: rate(draft.extra.get(f"{key}_dropout")) for key in ("hidden", "attention")}
    if None in stated.values():
        text = f"dropout {usual:g} where the options do not say, {draft.framework.name}'s default"
        draft.assume("row-dropout", text)
    hidden, attention = (usual if found is None else found for found in stated.values())
    conduct = replace(
        model.conduct, hidden_dropout=hidden, attention_dropout=attention, embedding_dropout=hidden
    )
    return replace(model, conduct=conduct)


def _usual(value: str, frame: Framework, cell: str) -> str:
    said = f"{cell!r} is not known" if cell else "none stated"
    return f"{value}, {frame.name}'s usual: {said}"


def _refuse_offload(draft: Draft) -> None:
    cell = draft.row.get("offload", "")
    meaning = read("offload", cell).meaning if cell else "none"
    if meaning == "activations" and draft.options["stack"] in ON_HOST:
        meaning = "none"  # as the stack does it
    is_switch = draft.options["stack"] == "megatron" and is_set(draft.extra, OPTIMIZER_OFFLOAD)
    if meaning == "optimizer" and is_switch:
        meaning = "none"  # told by the stack's switches
    if meaning is None or meaning != "none":
        raise UnmodelledError(f"offload {cell!r} is not modelled")
    shard = draft.row.get("sharding", "").lower()
    if "offload" in shard or any(
        is_set(draft.extra, key) for key in OFFLOADS if not (is_switch and key == OPTIMIZER_OFFLOAD)
    ):
        raise UnmodelledError("offload to the host is not modelled")
