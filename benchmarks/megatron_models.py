"""Megatron core's models as one rank of a group has them, on fake tensors, and a step of theirs.

The group answers at once; kernels of Transformer Engine are stood in for (``megatron_kernels.py``).
"""

from __future__ import annotations

import contextlib
import sys
import types
from functools import partial
from typing import Any

from megatron_cases import CONFIGS, RANKS, TOKENS, Case, recomputed

ENGINE_MODULE = "megatron.core.extensions.transformer_engine"
ENGINE, FUSES = "_execution_engine", "_grad_accum_fusion_available"


def built(case: Case) -> dict[str, Any]:
    """The model on this rank, and its step."""
    import torch

    kind, stage = case.model, case.stage
    _made_ready(case)
    has = {"first": (True, False), "last": (False, True)}.get(stage, (True, True))
    model = _model(case, has)
    for p in model.parameters():  # summed elsewhere
        p.data = p.data.to(torch.bfloat16)
        p.main_grad = torch.empty(0, dtype=torch.float32)
        p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    width, n_own = CONFIGS[kind]["hidden_size"], TOKENS // case.tp
    ids = torch.zeros(1, TOKENS, dtype=torch.int64)

    def step() -> None:
        outs = []
        for _ in range(2 if stage == "first" else 1):
            if stage == "last":
                given = torch.empty(n_own, 1, width, dtype=torch.bfloat16, requires_grad=True)
                model.set_input_tensor(given)
            out = model(ids, ids, None, labels=None if stage == "first" else ids)
            if stage == "first":  # deallocate_output_tensor
                out.data = torch.empty(1, dtype=out.dtype)
            outs.append(out)
        if stage != "first":
            torch.autograd.backward(outs[0].sum())
            return
        gradient = torch.empty(n_own, 1, width, dtype=torch.bfloat16)
        engine = getattr(torch.autograd.Variable, ENGINE)  # as schedules.custom_backward does
        engine.run_backward(
            tensors=(outs[0],), grad_tensors=(gradient,), keep_graph=False, create_graph=False,
            inputs=(), allow_unreachable=True, accumulate_grad=True,
        )  # fmt: skip

    return {"model": model, "step": step}


def _made_ready(case: Case) -> None:
    """One rank of a group that answers at once, kernels stood in for, no generators of a GPU."""
    import torch
    from megatron.core import parallel_state
    from megatron.core.fusions import fused_bias_swiglu
    from megatron.core.models.common.embeddings import rope_utils
    from megatron.core.models.common.language_module import language_module
    from megatron.core.tensor_parallel import layers
    from megatron.core.tensor_parallel import random as generators
    from megatron.core.transformer import attention, multi_latent_attention
    from megatron.core.transformer.moe import moe_utils
    from torch.testing._internal.distributed.fake_pg import FakeStore

    import megatron_kernels as kernels

    if torch.distributed.is_initialized():
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()
    n_ranks = RANKS[case.model]
    n_world = max(n_ranks * case.etp, case.tp)
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=n_world)
    torch.cuda.current_device = lambda: 0
    parallel_state.initialize_model_parallel(
        case.tp,
        1,
        expert_model_parallel_size=n_ranks,
        expert_tensor_parallel_size=case.etp,
        create_gloo_process_groups=False,
    )
    setattr(layers, FUSES, True)
    layers.fused_weight_gradient_mlp_cuda = types.SimpleNamespace(
        wgrad_gemm_accum_fp32=lambda *_: None
    )
    _in_few_bits(case)
    language_module.te_parallel_cross_entropy = kernels.cross_entropy
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
    generators.CudaRNGStatesTracker.fork = lambda *_: contextlib.nullcontext()
    for name in ("_get_all_rng_states", "_set_all_rng_states"):
        setattr(generators, name, lambda *_: (None, None, None))
    generators.FP8GlobalStateManager = types.SimpleNamespace(is_fp8_enabled=lambda: False)
    generators.FP8GlobalStateManager.get_fp8_recipe = lambda: None
    generators.activation_recompute_forward = lambda **_: contextlib.nullcontext()
    generators.fp8_autocast = lambda **_: contextlib.nullcontext()
    torch.UntypedStorage.copy_ = lambda self, *_: self  # of fake storages, which it would keep


def _checkpoint(
    function: Any, distribute: bool, _tracker: Any, _group: Any, *given: Any, **named: Any
) -> Any:
    """Transformer Engine's, which keeps and runs again what Megatron's own does."""
    from megatron.core import tensor_parallel

    return tensor_parallel.checkpoint(partial(function, **named), distribute, *given)


class _Engine(types.ModuleType):
    """Megatron's names for Transformer Engine's modules; of what no layer here is made, empty classes."""

    def __getattr__(self, name: str) -> type:
        return type(name, (), {})


def _in_few_bits(case: Case) -> None:
    """What Megatron asks Transformer Engine for where products run in 8 bits."""
    from megatron.core import fp8_utils
    from megatron.core.models import gpt  # before the engine is there, which it would ask for more
    from megatron.core.transformer import (
        attention,
        multi_latent_attention,
        transformer_block,
        transformer_config,
        transformer_layer,
    )
    from megatron.core.transformer.moe import experts, shared_experts

    import megatron_kernels as kernels

    assert gpt.GPTModel
    kernels.STATE["recipe"] = kernels.RECIPES.get(case.few)
    engine = _Engine(ENGINE_MODULE)
    engine.TELinear, engine.set_save_original_input = (
        kernels.Linear,
        kernels.set_save_original_input,
    )
    engine.te_checkpoint = transformer_block.te_checkpoint = _checkpoint
    sys.modules[ENGINE_MODULE] = engine
    for module in (attention, multi_latent_attention, experts):
        module.HAVE_TE = bool(case.few)
    for module in (attention, multi_latent_attention):
        module.TELinear = kernels.Linear
        module.set_save_original_input = kernels.set_save_original_input
    for module in (attention, multi_latent_attention, shared_experts, transformer_config):
        module.is_te_min_version = lambda *_, **__: True
    experts.Fp8Padding, experts.Fp8Unpadding = kernels.Padding, kernels.Unpadding
    for module in (fp8_utils, transformer_block, transformer_layer):
        module.get_fp8_context = lambda *_, **__: contextlib.nullcontext()


def _missing(*_: Any, **__: Any) -> None:
    raise NotImplementedError


def _config(case: Case, *, n_layers: int) -> Any:
    import torch
    from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig

    kind, more = case.model, recomputed(case.recompute)[0]
    said = CONFIGS[kind]
    made: dict[str, Any] = {
        "num_layers": n_layers, "hidden_size": said["hidden_size"], "bf16": True,
        "ffn_hidden_size": said["intermediate_size"], "num_attention_heads": said["num_attention_heads"],
        "params_dtype": torch.bfloat16, "pipeline_dtype": torch.bfloat16, "add_bias_linear": False,
        "gated_linear_unit": True, "activation_func": torch.nn.functional.silu, "hidden_dropout": 0.0,
        "attention_dropout": 0.0, "normalization": "RMSNorm", "perform_initialization": False,
        "bias_activation_fusion": True, "expert_model_parallel_size": RANKS[kind],
        "gradient_accumulation_fusion": True, "tensor_model_parallel_size": case.tp,
        "sequence_parallel": case.tp > 1, "expert_tensor_parallel_size": case.etp,
        "apply_rope_fusion": kind != "latent", "cross_entropy_loss_fusion": case.loss != "eager",
        "cross_entropy_fusion_impl": case.loss if case.loss != "eager" else "native",
        **({"fp8": "hybrid", "fp8_recipe": case.few} if case.few else {}), **more,
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


def _model(case: Case, has: tuple[bool, bool]) -> Any:
    from megatron.core.models.gpt import GPTModel
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

    import megatron_kernels as kernels

    kind = case.model
    n_layers = 2 if kind == "latent" and not all(has) else 4
    n_dense = 4 if kind == "dense" else int(kind == "latent" and has[0])
    layers = [_layer(kind, is_dense=at < n_dense) for at in range(n_layers)]
    return GPTModel(
        _config(case, n_layers=n_layers),
        TransformerBlockSubmodules(layer_specs=layers, layer_norm=kernels.Norm), case.vocab, TOKENS,
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
        experts=mlp(TEGroupedMLP, kernels.ColumnGrouped, kernels.RowGrouped),
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
