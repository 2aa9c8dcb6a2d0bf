"""Launch arguments -> the switches of a stack (``--stack-options``): Megatron's own, torchtitan's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from lmsize.measurements.cells import count, is_set, number, switch
from lmsize.measurements.draft import Draft
from lmsize.model.spec import ModelSpec
from lmsize.numbers import ceil_div
from lmsize.stacks.few_bits import RECIPES, TORCHAO
from lmsize.stacks.megatron_switches import (
    BACKENDS,
    CP_KINDS,
    DISPATCHERS,
    MODULES,
    ROUTER_TYPES,
    STATE_TYPES,
)
from lmsize.stacks.needs import is_shared_muon, without_effect
from lmsize.stacks.stack_options import named_switches

REPEATED_GROUP = re.compile(r"\(([^()]*)\)\*(\d{1,3})")
REPEATED = re.compile(r"([EtmL])\*(\d{1,3})")
MOST_REPEATS = 200
MONTH = re.compile(r"(?<!\d)20\d\d(?:0[1-9]|1[0-2])(?!\d)")  # 202412, as files of results are named
GATHERED = re.compile(r"\bfp8 all-?gather\b", re.IGNORECASE)
TORCH = re.compile(r"\b(?:py)?torch[ =v]*(\d)\.(\d{1,2})\b", re.IGNORECASE)
OLDER_FOREACH = (2, 1)  # the first version of torch whose Adam makes one copy
SUMMED = re.compile(r"\baccumulat\w+ grad\w* in fp32\b", re.IGNORECASE)
LAYERS = re.compile(r"\blayers (\d{1,3})-(\d{1,3})\b", re.IGNORECASE)
COUNTS = {
    "decoder_seq_length": "decoder-seq-length",
    "decoder_first_pipeline_num_layers": "first-stage-layers",
    "decoder_last_pipeline_num_layers": "last-stage-layers",
    "num_layers_in_first_pipeline_stage": "first-stage-layers",
    "num_layers_in_last_pipeline_stage": "last-stage-layers",
    "microbatch_group_size_per_virtual_pipeline_stage": "microbatch-group",
    "wgrad_deferral_limit": "deferral-limit", "mtp_num_layers": "mtp-layers",
}  # fmt: skip
BF16_ENDS = {
    "num_layers_at_start_in_bf16": "bf16-first-layers",
    "num_layers_at_end_in_bf16": "bf16-last-layers",
}
FLAGS = {
    "account_for_embedding_in_pipeline_split": "account-for-embedding",
    "account_for_loss_in_pipeline_split": "account-for-loss",
    "deterministic_mode": "deterministic", "no_gradient_accumulation_fusion": "no-gradient-fusion",
    "grad_reduce_in_bf16": "grad-reduce-in-bf16",
    "no_create_attention_mask_in_dataloader": "no-dataloader-mask",
    "no_masked_softmax_fusion": "no-softmax-fusion", "no_rope_fusion": "no-rope-fusion",
    "attention_softmax_in_fp32": "fp32-softmax", "apply_query_key_layer_scaling": "fp32-softmax",
    "overlap_moe_expert_parallel_comm": "overlaps-experts",
    "moe_router_fusion": "router-fusion", "moe_permute_fusion": "permute-fusion",
    "moe_pad_expert_input_to_capacity": "pads-to-capacity",
    "moe_router_padding_for_fp8": "router-padding",
    "moe_router_padding_for_quantization": "router-padding",
    "no_use_layer_wise_param_layout": "whole-tensors",
    "defer_embedding_wgrad_compute": "deferred-head", "tp_comm_overlap": "tp-comm-overlap",
}  # fmt: skip


def stage_layers(text: str) -> tuple[int, ...]:
    """Layers of each part of ``--pipeline-model-parallel-layout`` (``Et*3|(tt|)*6tL``); () for none."""
    for pattern in (REPEATED_GROUP, REPEATED):
        text = pattern.sub(lambda found: found[1] * min(int(found[2]), MOST_REPEATS), text)
    known = text and set(text) <= set("EtmL|, ")
    return tuple(part.count("t") for part in text.split("|")) if known else ()


def read_switches(draft: Draft, model: ModelSpec) -> None:
    """The switches that a row's launch arguments set, and whether it compiles."""
    if draft.options["stack"] == "torchtitan":
        found = list(_of_titan(draft, model.n_layers))
        draft.options |= {"stack_options": ",".join(found)} if found else {}
    if draft.options["stack"] == "deepspeed":
        found = [*draft.framework.stack_options, *_filled(draft, model.n_layers), *_summed(draft)]
        found += _of_torch(draft) if "no-fused-adam" in found else ()
        draft.options |= {"stack_options": ",".join(found)} if found else {}
    if draft.options["stack"] in ("transformers", "litgpt"):
        found = [*draft.framework.stack_options, *_of_torch(draft)]
        draft.options |= {"stack_options": ",".join(found)} if found else {}
    if draft.options["stack"] != "megatron":
        return
    found = _with_effect(draft, model, [*draft.framework.stack_options, *_switches(draft.extra)])
    if found:
        draft.options["stack_options"] = ",".join(found)


def _with_effect(draft: Draft, model: ModelSpec, found: Sequence[str]) -> list[str]:
    """The switches of a row that change something; launch scripts also set others."""
    idle = without_effect(
        named_switches(",".join(found), "megatron"), precision=draft.options["precision"],
        recompute=draft.options.get("recompute"), has_decoder=model.is_encoder_decoder,
        shares_muon=is_shared_muon(draft.options.get("optimizer"), draft.options.get("zero")),
    )  # fmt: skip
    return [item for item in found if item.partition("=")[0].replace("-", "_") not in idle]


def _of_torchao(said: str, precision: str, n_layers: int) -> Iterator[str]:
    """How products are scaled, and which layers' are ("nvfp4 (layers 0-26)")."""
    if precision != "fp8":
        return
    recipe = next((name for name in TORCHAO if name in said.lower()), None)
    if recipe:
        yield f"fp8-recipe={recipe}"
    if GATHERED.search(said):
        yield "fp8-all-gather"
    layers = LAYERS.search(said)
    if layers:
        first, last = int(layers[1]), n_layers - 1 - int(layers[2])
        yield from (f"bf16-first-layers={first}",) if first else ()
        yield from (f"bf16-last-layers={last}",) if last > 0 else ()


def _of_titan(draft: Draft, n_layers: int) -> Iterator[str]:
    """What is not compiled, and what the framework did at the row's time."""
    compiles = switch(draft.row, "compile") is not False
    if not compiles:
        yield "no-compile"
    month = MONTH.search(draft.row.get("source_path_or_section", ""))
    for name, until in draft.framework.until:
        if month is not None and month[0] < until and (compiles or "compile" not in name):
            draft.assume("row-version", f"a version of {month[0]}: {name}")
            yield name
    yield from _of_torchao(draft.row.get("precision", ""), draft.options["precision"], n_layers)


def _filled(draft: Draft, n_layers: int) -> Iterator[str]:
    """Layers of each stage where they do not divide evenly: filled up from the first.

    Embeddings at both ends count as a layer each where that comes out evenly, as the number was chosen
    for it (``type:transformer|embedding``), and else not at all (``type:transformer``).
    """
    pp = draft.options.get("pp", 1)
    if not draft.framework.fills_stages or pp == 1 or n_layers % pp == 0:
        return
    counted = 1 if (n_layers + 2) % pp == 0 else 0
    each = ceil_div(n_layers + 2 * counted, pp)
    counts = [each - counted, *[each] * (pp - 2)]
    counts.append(n_layers - sum(counts))
    if min(counts) > 0:
        how = "embeddings count as one" if counted else "the last has what is left"
        draft.assume("row-stages", f"{counts[0]} layers on the first stage: {how}")
        yield f"stage-layers={'+'.join(map(str, counts))}"


def _of_torch(draft: Draft) -> Iterator[str]:
    """What the version of torch that a row names does otherwise."""
    cells = (draft.row.get(name, "") for name in ("framework", "notes"))
    named = TORCH.search(" ".join(cells))
    if named is not None and (int(named[1]), int(named[2])) < OLDER_FOREACH:
        draft.assume("row-version", f"{named[0]}: older-foreach")
        yield "older-foreach"


def _summed(draft: Draft) -> Iterator[str]:
    """Gradients that the row says are added up in fp32, whatever the stage of ZeRO."""
    if SUMMED.search(draft.row.get("notes", "")) and draft.options["zero"] < 2:
        yield "fp32-sums"


def _switches(extra: Mapping[str, str]) -> Iterator[str]:
    yield from _of_attention(extra)
    if is_set(extra, "cross_entropy_loss_fusion"):
        kind = extra.get("cross_entropy_fusion_impl", "")
        yield f"cross-entropy={'te' if kind == 'te' else 'native'}"
    instances = count(extra, "num_distributed_optimizer_instances") or 1
    if instances > 1:
        yield f"optimizer-instances={instances}"
    parts = stage_layers(extra.get("pipeline_model_parallel_layout", ""))
    if parts:
        yield f"stage-layers={'+'.join(map(str, parts))}"
    for key, name in COUNTS.items():
        if n := count(extra, key):
            yield f"{name}={n}"
    yield from _of_optimizer(extra)
    yield from _of_few_bits(extra)
    yield from _of_experts(extra)
    yield from _of_recompute(extra)
    for key, name in FLAGS.items():
        if is_set(extra, key):
            yield name


def _of_attention(extra: Mapping[str, str]) -> Iterator[str]:
    backend = extra.get("attention_backend", "")
    if backend in BACKENDS:
        yield f"attention-backend={backend}"
    if extra.get("transformer_impl") == "local":
        yield "transformer-impl=local"
    if extra.get("cp_comm_type", "") in CP_KINDS:
        yield f"cp-comm={extra['cp_comm_type']}"


def _of_optimizer(extra: Mapping[str, str]) -> Iterator[str]:
    if is_set(extra, "use_precision_aware_optimizer"):
        yield "precision-aware"
        if extra.get("main_grads_dtype", "") == "bf16":
            yield "grad-reduce-in-bf16"
        for name in ("exp_avg_dtype", "exp_avg_sq_dtype"):
            if extra.get(name, "") in STATE_TYPES:
                yield f"{name.replace('_', '-')}={extra[name]}"
    if is_set(extra, "optimizer_cpu_offload"):
        share = number(extra, "optimizer_offload_fraction")
        yield f"optimizer-offload={1 if share is None else min(share, 1):g}"


def _of_few_bits(extra: Mapping[str, str]) -> Iterator[str]:
    recipe = "nvfp4" if "fp4_format" in extra else extra.get("fp8_recipe", "")
    if recipe in RECIPES:
        yield f"fp8-recipe={recipe}"
    if is_set(extra, "fp8_param_gather") or is_set(extra, "fp8_param"):
        yield "fp8-param-gather"
    if is_set(extra, "first_last_layers_bf16"):
        for key, name in BF16_ENDS.items():
            n = number(extra, key)
            if n != 0:
                yield f"{name}={1 if n is None else int(n)}"


def _of_experts(extra: Mapping[str, str]) -> Iterator[str]:
    dispatcher = extra.get("moe_token_dispatcher_type", "")
    if dispatcher == "flex" and extra.get("moe_flex_dispatcher_backend") == "hybridep":
        dispatcher = "hybridep"
    if dispatcher in DISPATCHERS:
        yield f"dispatcher={dispatcher}"
    elif "num_experts" in extra:
        yield "dispatcher=allgather"  # the argument's default
    if "num_experts" in extra and not is_set(extra, "moe_grouped_gemm"):
        yield "no-grouped-gemm"
    if extra.get("moe_router_dtype") in ROUTER_TYPES:
        yield f"router-dtype={extra['moe_router_dtype']}"
    if extra.get("moe_router_score_function") == "sigmoid":
        yield "router-score=sigmoid"
    elif is_set(extra, "moe_router_pre_softmax"):
        yield "router-score=pre-softmax"
    if extra.get("moe_router_load_balancing_type", "") in ("none", "sinkhorn"):
        yield "no-aux-loss"
    if capacity := extra.get("moe_expert_capacity_factor", ""):
        yield f"capacity-factor={capacity}"


def _of_recompute(extra: Mapping[str, str]) -> Iterator[str]:
    named = re.findall(r"\w+", extra.get("recompute_modules", ""))
    modules = [name for name in MODULES if name in named]
    if modules:
        yield f"recompute-modules={'+'.join(modules)}"
    layers = extra.get("recompute_num_layers", "")
    name = {"block": "recompute-layers", "uniform": "recompute-chunk"}.get(
        extra.get("recompute_method", "")
    )
    if name and layers.isdigit() and int(layers) > 0:
        yield f"{name}={layers}"
