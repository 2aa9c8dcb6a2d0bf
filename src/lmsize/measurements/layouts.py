"""Degrees of parallelism, sharding and the stack that a row's cells name."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lmsize.measurements.cells import count, is_set, switch
from lmsize.measurements.draft import Draft
from lmsize.measurements.frameworks import Framework
from lmsize.measurements.switches import stage_layers
from lmsize.measurements.unmodelled import UnmodelledError
from lmsize.measurements.words import read

UNEVEN = (
    "account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split",
    "decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers",
    "pipeline_model_parallel_layout",
)  # fmt: skip
# Stacks whose interleaved schedule is modelled, and whether layers may be left over.
INTERLEAVED = {"megatron": False, "torchtitan": True}
LAUNCHED = re.compile(r"\b(?:yaml|config(?:uration)?) devices=(\d{1,5})\b")
ZERO = {"none": 0, "ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3, "fsdp": 3, "hsdp": 3,
        "layers": 0, "tensors": 0}  # fmt: skip


def read_layout(draft: Draft, n_layers: int) -> None:
    """Degrees, number of accelerators, ZeRO stage and stack.

    Raises:
        UnmodelledError: the sharding cannot be read, or the degrees do not make the number.
    """
    n_stated, dp = _n_launched(draft), count(draft.row, "dp")
    sharding = _sharding(draft, many=(dp or n_stated or 1) > 1)
    degrees = _degrees(draft)
    if sharding == "layers":
        degrees, dp = degrees | {"pp": max(degrees["pp"], n_stated or 1)}, None
        draft.assume("row-layers-split", "layers split over the accelerators, as pipeline stages")
    if sharding == "tensors" and degrees["tp"] == 1:
        degrees, dp = degrees | {"tp": n_stated or 1}, None
        draft.assume("row-tensors-split", "operators split over the accelerators, as tp")
    group = degrees["tp"] * degrees["pp"] * degrees["cp"]
    n = n_stated or group * (dp or 1)
    if n % group:
        raise UnmodelledError(f"layout: {n} accelerators are no multiple of tp * pp * cp = {group}")
    if dp is not None and dp * group != n and not _dp_with_cp(dp, degrees, n):
        draft.assume("row-dp", f"dp {n // group}: the stated {dp} does not make {n} accelerators")
    draft.options |= {k: v for k, v in degrees.items() if v > 1}
    draft.options |= {"accelerators": n, "zero": ZERO[sharding]}
    draft.options["stack"] = _stack(draft.framework, sharding, switch(draft.row, "compile"))
    _read_variants(draft, degrees, n)
    _read_parts(draft, n_layers)
    if sharding == "hsdp":
        draft.assume("row-hsdp", "hybrid sharding taken as sharding over every rank")


def _n_launched(draft: Draft) -> int | None:
    """Accelerators of the run: what its configuration launches, if that is fewer than there were."""
    n_stated = count(draft.row, "n_gpus")
    said = LAUNCHED.search(draft.row.get("notes", ""))
    if said is None or n_stated is None or not 1 < int(said[1]) < n_stated:
        return n_stated
    draft.assume("row-devices", f"{said[0]} of the machine's {n_stated}, as its configuration says")
    return int(said[1])


def _degrees(draft: Draft) -> dict[str, int]:
    """tp, pp, cp and ep by the columns, or by launch options that say more."""
    extra = draft.extra
    found = {name: count(draft.row, name) or 1 for name in ("tp", "pp", "cp", "ep")}
    said = (count(extra, name) or 1 for name in ("context_parallel_size", "sequence_parallel_size"))
    found["cp"] = max(found["cp"], *said)
    found["ep"] = max(found["ep"], count(extra, "expert_model_parallel_size") or 1)
    return found


def _read_variants(draft: Draft, degrees: Mapping[str, int], n: int) -> None:
    """The experts' own tensor parallelism, and sequence parallelism."""
    row, extra = draft.row, draft.extra
    etp = count(extra, "expert_tensor_parallel_size")
    if etp is None and degrees["ep"] > 1 and (n // degrees["pp"] // degrees["tp"]) % degrees["ep"]:
        etp = 1
        draft.assume("row-etp", "experts whole on their ranks (etp 1): ep is no divisor of dp * cp")
    if etp is not None and degrees["ep"] > 1 and etp != degrees["tp"]:
        draft.options["etp"] = etp
    is_sp = switch(row, "sequence_parallel")
    if is_sp is None:
        is_sp = is_set(extra, "sequence_parallel")
    if is_sp and degrees["tp"] > 1:
        draft.options["sequence_parallel"] = True


def _read_parts(draft: Draft, n_layers: int) -> None:
    """Parts of a stage, where the stack's schedule is modelled."""
    vp, pp = count(draft.row, "vp") or 1, draft.options.get("pp", 1)
    parts = stage_layers(draft.extra.get("pipeline_model_parallel_layout", ""))
    if parts and len(parts) % pp == 0:
        vp = len(parts) // pp
    stack = draft.options["stack"]
    if vp == 1 or pp == 1 or stack not in INTERLEAVED:
        return
    is_uneven = INTERLEAVED[stack] or any(key in draft.extra for key in UNEVEN)
    if n_layers % (pp * vp) and not is_uneven:
        draft.assume(
            "row-vp", f"vp {vp} left out: it does not divide {n_layers} layers with pp {pp}"
        )
        return
    draft.options["vp"] = vp


def _dp_with_cp(dp: int, degrees: Mapping[str, int], n: int) -> bool:
    """Some sources count the context-parallel ranks in dp."""
    return dp * degrees["tp"] * degrees["pp"] == n


def _sharding(draft: Draft, *, many: bool) -> str:
    cell = draft.row.get("sharding", "")
    if is_set(draft.extra, "use_megatron_fsdp"):
        return "fsdp"
    if not cell and is_set(draft.extra, "use_distributed_optimizer"):
        return "zero1"
    if not cell:
        found = draft.framework.sharding if many else "none"
        if many:
            draft.assume("row-sharding", f"{found}, {draft.framework.name}'s usual: none stated")
        return found
    meaning = read("sharding", cell).meaning
    if meaning is None:
        raise UnmodelledError(f"sharding {cell!r} is not read")
    own = draft.framework
    if meaning == "none" and not many and own.stack == own.zero_stack:
        draft.assume("row-sharding", f"{own.sharding}, {own.name}'s usual, with nothing to share")
        return own.sharding  # the engine works by it on one accelerator as well
    return meaning


def _stack(frame: Framework, sharding: str, compiles: bool | None) -> str:
    if compiles and frame.compiled_stack:
        return frame.compiled_stack
    if sharding.startswith("zero") and frame.zero_stack:
        return frame.zero_stack
    if sharding in ("fsdp", "hsdp") and frame.fsdp_stack:
        return frame.fsdp_stack
    return frame.stack
