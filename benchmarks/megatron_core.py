"""The tape against Megatron core's own layers, schedules of recomputation and dispatchers, on fake tensors.

::

    pip install --no-deps megatron-core==0.16.1
    python benchmarks/megatron_core.py trace      # traced/megatron_core.csv; needs torch
    python benchmarks/megatron_core.py compare

Transformer Engine, which has no build without CUDA, is stood in for (``megatron_kernels.py``). One rank of
several is traced: the first or last stage of a pipeline, or all. A case has the most that activations,
temporaries and the router's tables take in a step, in bytes.
"""

from __future__ import annotations

import contextlib
import csv
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmsize

PATH = Path(__file__).parent / "traced" / "megatron_core.csv"
TOKENS, VOCAB = 4096, 1024
ENGINE = "_execution_engine"
DENSE = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_key_value_heads": 8, "num_hidden_layers": 4, "vocab_size": VOCAB,
}  # fmt: skip
GROUPED = {
    "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_hidden_layers": 4,
    "num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "vocab_size": VOCAB, "norm_topk_prob": True,
}  # fmt: skip
LATENT = {
    "model_type": "deepseek_v2", "hidden_size": 5120, "intermediate_size": 12288,
    "moe_intermediate_size": 1536, "num_attention_heads": 128, "num_key_value_heads": 128,
    "num_hidden_layers": 4, "first_k_dense_replace": 1, "n_routed_experts": 160, "n_shared_experts": 2,
    "num_experts_per_tok": 6, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": VOCAB,
}  # fmt: skip
CONFIGS = {"dense": DENSE, "grouped": GROUPED, "latent": LATENT}
SWITCHES = {
    "dense": (),
    "grouped": ("permute-fusion", "router-dtype=fp32", "capacity-factor=1", "pads-to-capacity"),
    "latent": ("permute-fusion", "router-score=pre-softmax", "capacity-factor=1", "pads-to-capacity",
               "no-rope-fusion"),
}  # fmt: skip
RANKS = {"dense": 1, "grouped": 8, "latent": 4}  # of experts
FINE = ("moe_act", "layernorm", "mla_up_proj", "mlp")
CASES = [
    *((kind, "whole", how) for kind in CONFIGS for how in ("none", "core_attn", "mlp", "full 1", "full 2")),
    *((kind, "whole", how) for kind in ("grouped", "latent") for how in ("moe_act", "layernorm", "moe")),
    ("latent", "whole", "mla_up_proj"), ("latent", "whole", "shared_experts"),
    ("latent", "whole", "+".join(FINE)), ("dense", "whole", "block 2"), ("latent", "whole", "block 2"),
    *((kind, stage, how) for kind in ("dense", "latent") for stage in ("first", "last")
      for how in ("none", "full 1")),
]  # fmt: skip


def recomputed(how: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is said to Megatron, and to lmsize."""
    kind, _, n = how.partition(" ")
    if kind == "none":
        return {}, {}
    if kind in ("full", "block"):
        method, switch = ("uniform", "chunk") if kind == "full" else ("block", "layers")
        said = {
            "recompute_granularity": "full",
            "recompute_method": method,
            "recompute_num_layers": int(n),
        }
        return said, {"recompute": "full", "switch": f"recompute-{switch}={n}"}
    said = {"recompute_granularity": "selective", "recompute_modules": how.split("+")}
    return said, {"recompute": "selective", "switch": f"recompute-modules={how}"}


def taped_bytes(kind: str, stage: str, how: str) -> int:
    """What the tape says of a case."""
    _, asked = recomputed(how)
    switches = [*SWITCHES[kind], *([asked.pop("switch")] if asked else [])]
    piped = {} if stage == "whole" else {"pp": 2, "grad_accum": 8}
    n_ranks = RANKS[kind]
    config = CONFIGS[kind]
    if piped and kind == "dense":
        config = config | {"num_hidden_layers": 8}
    memory = lmsize.train(
        config, stack="megatron", accelerator="b200", search=False, calibration=False, seq_len=TOKENS,
        accelerators=n_ranks * (2 if piped else 1), ep=n_ranks, zero=1,
        pipeline_stage="worst" if stage == "whole" else stage, **piped, **asked,
        **({"stack_options": ",".join(switches)} if switches else {}),
    ).memory  # fmt: skip
    return max(_passing(moment) for moment in _moments(memory.tree))


def _moments(term: Any) -> Iterator[Any]:
    for child in term.children:
        yield from _moments(child) if child.label.startswith("peak") else (child,)


def _passing(moment: Any) -> int:
    found = 0
    for part in moment.children:
        if part.label in ("activations", "temporaries"):
            found += part.value
        if part.label == "workspaces":
            found += sum(one.value for one in part.children if one.label.startswith("routing"))
    return int(found)


def traced_bytes(kind: str, stage: str, how: str) -> int:
    """What Megatron's own code takes."""
    from lmsize.tracing.engine import traced_factory
    from lmsize.tracing.peaks import in_blocks, peaks
    from lmsize.tracing.running import Device

    found = traced_factory(lambda: built(kind, stage, how), kind, Device("cuda", (9, 0)))
    return max(
        sum(in_blocks(s.n_bytes) for s in peak.live if s.category != "weights")
        for peak in peaks(found.log.entries, in_blocks)
        if peak.phase.startswith("2.")
    )


def built(kind: str, stage: str, how: str) -> dict[str, Any]:
    """The model on this rank, and its step."""
    import torch

    _made_ready(RANKS[kind])
    has = {"first": (True, False), "last": (False, True)}.get(stage, (True, True))
    model = _model(kind, recomputed(how)[0], has)
    for p in model.parameters():  # summed elsewhere
        p.data = p.data.to(torch.bfloat16)
        p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    width = CONFIGS[kind]["hidden_size"]
    ids = torch.zeros(1, TOKENS, dtype=torch.int64)

    def step() -> None:
        outs = []
        for _ in range(2 if stage == "first" else 1):
            if stage == "last":
                given = torch.empty(TOKENS, 1, width, dtype=torch.bfloat16, requires_grad=True)
                model.set_input_tensor(given)
            out = model(ids, ids, None, labels=None if stage == "first" else ids)
            if stage == "first":  # deallocate_output_tensor
                out.data = torch.empty(1, dtype=out.dtype)
            outs.append(out)
        if stage != "first":
            torch.autograd.backward(outs[0].sum())
            return
        gradient = torch.empty(TOKENS, 1, width, dtype=torch.bfloat16)
        engine = getattr(torch.autograd.Variable, ENGINE)  # as schedules.custom_backward does
        engine.run_backward(
            tensors=(outs[0],), grad_tensors=(gradient,), keep_graph=False, create_graph=False,
            inputs=(), allow_unreachable=True, accumulate_grad=True,
        )  # fmt: skip

    return {"model": model, "step": step}


def _made_ready(n_ranks: int) -> None:
    """One rank of a group that answers at once, kernels stood in for, no generators of a GPU."""
    import torch
    from megatron.core import parallel_state
    from megatron.core.fusions import fused_bias_swiglu
    from megatron.core.models.common.embeddings import rope_utils
    from megatron.core.tensor_parallel import random as generators
    from megatron.core.transformer import attention, multi_latent_attention
    from megatron.core.transformer.moe import moe_utils
    from torch.testing._internal.distributed.fake_pg import FakeStore

    import megatron_kernels as kernels

    if torch.distributed.is_initialized():
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=n_ranks)
    torch.cuda.current_device = lambda: 0
    parallel_state.initialize_model_parallel(
        1, 1, expert_model_parallel_size=n_ranks, create_gloo_process_groups=False
    )
    rope_utils.fused_apply_rotary_pos_emb = kernels.rotary
    attention.SplitAlongDim = kernels.Split.apply
    multi_latent_attention.TELinear = kernels.Linear
    moe_utils.HAVE_TE, moe_utils.te_general_gemm = True, kernels.gemm
    moe_utils.fused_permute = moe_utils.fused_sort_chunks_by_index = _missing
    moe_utils.fused_sort_chunks_by_index_with_probs = _missing
    moe_utils.fused_permute_with_probs, moe_utils.fused_unpermute = (
        kernels.permute,
        kernels.unpermute,
    )
    # What a compiler makes one kernel of.
    fused_bias_swiglu.swiglu = fused_bias_swiglu.weighted_swiglu = lambda y, *_: kernels.like(
        y, *y.shape[:-1], y.shape[-1] // 2
    )
    fused_bias_swiglu.swiglu_back = lambda _, y: torch.empty_like(y)
    fused_bias_swiglu.weighted_swiglu_back = lambda _, y, w: (
        torch.empty_like(y),
        torch.empty_like(w),
    )
    generators.get_cuda_rng_tracker = lambda *_, **__: types.SimpleNamespace(
        fork=lambda *_: contextlib.nullcontext()
    )
    for name in ("_get_all_rng_states", "_set_all_rng_states"):
        setattr(generators, name, lambda *_: (None, None, None))
    generators.FP8GlobalStateManager = types.SimpleNamespace(is_fp8_enabled=lambda: False)
    generators.FP8GlobalStateManager.get_fp8_recipe = lambda: None
    generators.activation_recompute_forward = lambda **_: contextlib.nullcontext()
    generators.fp8_autocast = lambda **_: contextlib.nullcontext()
    torch.UntypedStorage.copy_ = lambda self, *_: self  # of fake storages, which it would keep


def _missing(*_: Any, **__: Any) -> None:
    raise NotImplementedError


def _config(kind: str, more: dict[str, Any], *, n_layers: int) -> Any:
    import torch
    from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig

    said = CONFIGS[kind]
    made: dict[str, Any] = {
        "num_layers": n_layers, "hidden_size": said["hidden_size"], "bf16": True,
        "ffn_hidden_size": said["intermediate_size"], "num_attention_heads": said["num_attention_heads"],
        "params_dtype": torch.bfloat16, "pipeline_dtype": torch.bfloat16, "add_bias_linear": False,
        "gated_linear_unit": True, "activation_func": torch.nn.functional.silu, "hidden_dropout": 0.0,
        "attention_dropout": 0.0, "normalization": "RMSNorm", "perform_initialization": False,
        "bias_activation_fusion": True, "expert_model_parallel_size": RANKS[kind],
        "gradient_accumulation_fusion": False, "apply_rope_fusion": kind != "latent", **more,
    }  # fmt: skip
    if kind != "latent":
        made |= {"num_query_groups": said["num_key_value_heads"], "kv_channels": 128}
    if kind != "dense":
        made |= {
            "num_moe_experts": said.get("num_experts") or said["n_routed_experts"],
            "moe_router_topk": said["num_experts_per_tok"], "moe_aux_loss_coeff": 1e-3,
            "moe_ffn_hidden_size": said["moe_intermediate_size"], "moe_grouped_gemm": True,
            "moe_token_dispatcher_type": "alltoall", "moe_expert_capacity_factor": 1.0,
            "moe_pad_expert_input_to_capacity": True, "moe_permute_fusion": True,
        }  # fmt: skip
    if kind == "grouped":
        made |= {"moe_router_dtype": "fp32", "qk_layernorm": True}
    if kind == "latent":
        made |= {
            "multi_latent_attention": True, "rope_type": "rope", "moe_router_pre_softmax": True,
            "moe_router_topk_scaling_factor": 16.0, "qk_head_dim": 128, "qk_pos_emb_head_dim": 64,
            "moe_shared_expert_intermediate_size": 2 * said["moe_intermediate_size"],
            **{key: said[key] for key in ("q_lora_rank", "kv_lora_rank", "v_head_dim")},
        }  # fmt: skip
    return (MLATransformerConfig if kind == "latent" else TransformerConfig)(**made)


def _model(kind: str, more: dict[str, Any], has: tuple[bool, bool]) -> Any:
    from megatron.core.models.gpt import GPTModel
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

    import megatron_kernels as kernels

    n_layers = 2 if kind == "latent" and not all(has) else 4
    n_dense = 4 if kind == "dense" else int(kind == "latent" and has[0])
    layers = [_layer(kind, is_dense=at < n_dense) for at in range(n_layers)]
    return GPTModel(
        _config(kind, more, n_layers=n_layers),
        TransformerBlockSubmodules(layer_specs=layers, layer_norm=kernels.Norm), VOCAB, TOKENS,
        pre_process=has[0], post_process=has[1], position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
    )  # fmt: skip


def _layer(kind: str, *, is_dense: bool) -> Any:
    from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
    from megatron.core.transformer.identity_op import IdentityOp
    from megatron.core.transformer.mlp import MLP, MLPSubmodules
    from megatron.core.transformer.moe.experts import TEGroupedMLP
    from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
    from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.transformer_layer import (
        TransformerLayer,
        TransformerLayerSubmodules,
    )

    import megatron_kernels as kernels

    def mlp(module: Any, up: Any, down: Any) -> Any:
        return ModuleSpec(module=module, submodules=MLPSubmodules(linear_fc1=up, linear_fc2=down))

    mixture = ModuleSpec(module=MoELayer, submodules=MoESubmodules(
        experts=mlp(TEGroupedMLP, kernels.Grouped, kernels.Grouped),
        shared_experts=mlp(SharedExpertMLP, kernels.Linear, kernels.Linear),
    ))  # fmt: skip
    return ModuleSpec(module=TransformerLayer, submodules=TransformerLayerSubmodules(
        input_layernorm=kernels.Norm if kind == "latent" else IdentityOp,
        self_attention=_attention(kind), self_attn_bda=get_bias_dropout_add,
        pre_mlp_layernorm=IdentityOp if is_dense else kernels.Norm,
        mlp=mlp(MLP, kernels.NormLinear, kernels.Linear) if is_dense else mixture,
        mlp_bda=get_bias_dropout_add,
    ))  # fmt: skip


def _attention(kind: str) -> Any:
    from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.identity_op import IdentityOp
    from megatron.core.transformer.multi_latent_attention import (
        MLASelfAttention,
        MLASelfAttentionSubmodules,
    )
    from megatron.core.transformer.spec_utils import ModuleSpec

    import megatron_kernels as kernels

    masked = {"attn_mask_type": AttnMaskType.causal}
    common = {"core_attention": kernels.Attention, "linear_proj": kernels.Linear}
    if kind == "latent":
        return ModuleSpec(module=MLASelfAttention, params=masked, submodules=MLASelfAttentionSubmodules(
            linear_q_proj=kernels.Linear, linear_q_down_proj=kernels.Linear,
            linear_q_up_proj=kernels.NormLinear, linear_kv_down_proj=kernels.Linear,
            linear_kv_up_proj=kernels.NormLinear, q_layernorm=IdentityOp, kv_layernorm=IdentityOp,
            **common,
        ))  # fmt: skip
    norm = kernels.Norm if kind == "grouped" else IdentityOp
    return ModuleSpec(module=SelfAttention, params=masked, submodules=SelfAttentionSubmodules(
        linear_qkv=kernels.NormLinear, q_layernorm=norm, k_layernorm=norm, **common,
    ))  # fmt: skip


def recorded() -> Iterator[tuple[tuple[str, str, str], int]]:
    """The cases traced so far."""
    with PATH.open(newline="") as file:
        for row in csv.DictReader(file):
            yield (row["model"], row["stage"], row["recompute"]), int(row["traced_bytes"])


def recorded_errors() -> Iterator[float]:
    """How far the tape is from each."""
    for case, traced in recorded():
        yield taped_bytes(*case) / traced - 1


def main() -> None:
    tell: Callable[..., None] = print
    if sys.argv[1:] == ["trace"]:
        with PATH.open("w", newline="") as file:
            out = csv.writer(file, lineterminator="\n")
            out.writerow(("model", "stage", "recompute", "traced_bytes"))
            for case in CASES:
                out.writerow((*case, traced_bytes(*case)))
                file.flush()
    for case, traced in recorded():
        tell(
            f"{taped_bytes(*case) / traced - 1:+.3%} of {traced / 2**20:.0f} MiB  {' '.join(case)}"
        )


if __name__ == "__main__":
    main()
