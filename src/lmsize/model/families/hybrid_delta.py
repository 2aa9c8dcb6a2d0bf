"""Gated delta nets among full attention: Qwen3-Next, Qwen3.5, OLMo hybrid, Kimi-Linear, Ling."""

from __future__ import annotations

from collections.abc import Sequence

from lmsize.model.blocks import gated_mlp, rms_norm
from lmsize.model.config import Config
from lmsize.model.delta_blocks import DeltaNet, gated_delta_net, gated_query, kimi_delta, olmo_delta
from lmsize.model.family import family
from lmsize.model.latent_blocks import Latent, latent_attention, latent_shape
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    grouped_query,
    int_list,
    mixture_decoder,
    nullable_int,
    pre_norm_layer,
    qk_norms,
    read_shape,
    shared_mlp,
    sparse_layers,
    sparse_mlp,
)
from lmsize.model.parts import Linear, Part
from lmsize.model.spec import Block, ModelSpec
from lmsize.model.state_space_blocks import FULL, LINEAR, every_nth_full, mixer_kinds


@family("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
def qwen_next(config: Config) -> ModelSpec:
    """Three gated delta nets to one gated attention; Qwen3.5 splits the nets' projections."""
    shape = read_shape(config)
    kinds = every_nth_full(config, shape.n_layers, config.int("full_attention_interval", 4))
    net = DeltaNet(
        width=shape.width, n_k_heads=config.int("linear_num_key_heads"),
        n_v_heads=config.int("linear_num_value_heads"), k_dim=config.int("linear_key_head_dim"),
        v_dim=config.int("linear_value_head_dim"), kernel=config.int("linear_conv_kernel_dim"),
    )  # fmt: skip
    mixers = {
        LINEAR: gated_delta_net(net, fused=config.model_type == "qwen3_next"),
        FULL: gated_query(shape, bias=config.flag("attention_bias")),
    }
    sparse = _qwen_sparse(config, shape.n_layers)
    ffns = {is_sparse: _qwen_ffn(config, shape.width, is_sparse) for is_sparse in set(sparse)}
    layers = built(
        zip(kinds, sparse, strict=True),
        lambda k: _layer(shape, mixers[k[0]], ffns[k[1]], k[0], sparse=k[1]),
    )
    return mixture_decoder(config, shape, layers)


def _layer(
    shape: Shape, mixer: tuple[Part, ...], ffn: tuple[Part, ...], kind: str, *, sparse: bool
) -> Block:
    names = {LINEAR: "linear attention", FULL: "attention"}
    block = pre_norm_layer(shape.width, mixer, ffn)
    return Block(f"{names[kind]} {'moe ' if sparse else ''}layer", block.parts)


def _qwen_sparse(config: Config, n_layers: int) -> list[bool]:
    if config.model_type != "qwen3_next":
        return [config.model_type == "qwen3_5_moe_text"] * n_layers
    dense = set(int_list(config, "mlp_only_layers") or ())
    step, n_experts = config.int("decoder_sparse_step"), config.int("num_experts", least=0)
    return [bool(n_experts) and i not in dense and (i + 1) % step == 0 for i in range(n_layers)]


def _qwen_ffn(config: Config, width: int, sparse: bool) -> tuple[Part, ...]:
    if not sparse:
        return gated_mlp(width=width, ffn=config.int("intermediate_size"))
    shared = config.int("shared_expert_intermediate_size", least=0)
    return (
        *sparse_mlp(config, width),
        *shared_mlp(width, shared, prefix="mlp.shared_expert"),
        Linear("mlp.shared_expert_gate", width, 1),
    )


@family("olmo_hybrid")
def olmo_hybrid(config: Config) -> ModelSpec:
    """OLMo hybrid: delta nets with norms before, attention with norms after its sublayers."""
    shape = read_shape(config)
    width, n_layers = shape.width, shape.n_layers
    default = [FULL if i % 4 == 3 else LINEAR for i in range(n_layers)]
    if FULL not in default:
        default[-1] = FULL
    kinds = mixer_kinds(config, n_layers, (LINEAR, FULL), default)
    bias, ffn = config.flag("attention_bias"), config.int("intermediate_size")
    head = shape.head_dim
    full = Block("attention layer", (
        *grouped_query(shape, qkv_bias=bias, out_bias=bias),
        *qk_norms(shape.n_heads * head, shape.n_kv_heads * head),
        rms_norm("post_attention_layernorm", width), *gated_mlp(width=width, ffn=ffn),
        rms_norm("post_feedforward_layernorm", width),
    ))  # fmt: skip
    net = _olmo_net(config, shape)
    mlp = gated_mlp(width=width, ffn=ffn)
    linear = _layer(shape, olmo_delta(net), mlp, LINEAR, sparse=False)
    return mixture_decoder(config, shape, [full if kind == FULL else linear for kind in kinds])


def _olmo_net(config: Config, shape: Shape) -> DeltaNet:
    n_k_heads = config.optional_int("linear_num_key_heads") or shape.n_heads
    k_dim = config.optional_int("linear_key_head_dim") or int(0.75 * shape.width / n_k_heads)
    if not k_dim:
        raise config.error(
            "linear_num_key_heads", n_k_heads, f"fewer heads for width {shape.width}"
        )
    return DeltaNet(
        width=shape.width, n_k_heads=n_k_heads, k_dim=k_dim,
        n_v_heads=config.optional_int("linear_num_value_heads") or shape.n_heads,
        v_dim=config.optional_int("linear_value_head_dim") or 2 * k_dim,
        kernel=config.int("linear_conv_kernel_dim"),
    )  # fmt: skip


@family("kimi_linear")
def kimi_linear(config: Config) -> ModelSpec:
    """Kimi-Linear: Kimi delta attention and latent attention; released configs nest the former."""
    shape = latent_shape(config)
    dims = config.section("linear_attn_config")
    head_dim, n_heads, kernel = (
        dims.int(nested) if dims is not None and dims.has(nested) else config.int(key)
        for key, nested in (
            ("linear_head_dim", "head_dim"),
            ("linear_num_heads", "num_heads"),
            ("linear_conv_kernel_dim", "short_conv_kernel_size"),
        )
    )
    default = _one_indexed(dims, shape.n_layers) if dims is not None else None
    default = default or [FULL if i and i % 4 == 0 else LINEAR for i in range(shape.n_layers)]
    kinds = mixer_kinds(config, shape.n_layers, (LINEAR, FULL), default)
    net = DeltaNet(shape.width, n_heads, n_heads, head_dim, head_dim, kernel)
    full = _latent(config, shape, nullable_int(config, "q_lora_rank"))
    mixers = {LINEAR: kimi_delta(net, low_rank=True), FULL: full}
    n_dense = config.int("first_k_dense_replace", 1, least=0)
    return _mixture(config, shape, kinds, mixers, n_dense)


def _one_indexed(dims: Config, n_layers: int) -> list[str] | None:
    """Kinds by the two lists of layer numbers that released configs have."""
    full, linear = int_list(dims, "full_attn_layers"), int_list(dims, "kda_layers")
    if full is None or linear is None:
        return None
    if sorted([*full, *linear]) != list(range(1, n_layers + 1)):
        raise dims.error(
            "kda_layers", linear, f"with full_attn_layers, the numbers 1 to {n_layers}"
        )
    attends = set(full)
    return [FULL if i + 1 in attends else LINEAR for i in range(n_layers)]


def _latent(config: Config, shape: Shape, q_rank: int | None) -> tuple[Part, ...]:
    nope, rope = (config.int(f"qk_{part}_head_dim", least=0) for part in ("nope", "rope"))
    dims = Latent(
        shape.n_heads, q_rank, config.int("kv_lora_rank"), nope, rope, config.int("v_head_dim")
    )
    return latent_attention(shape.width, dims, bias=config.flag("attention_bias"))


def _mixture(
    config: Config, shape: Shape, kinds: Sequence[str], mixers: dict[str, tuple[Part, ...]],
    n_dense: int,
) -> ModelSpec:  # fmt: skip
    width = shape.width
    shared = config.int("moe_intermediate_size") * config.int("n_shared_experts", least=0)

    def ffn(sparse: bool) -> tuple[Part, ...]:
        if not sparse:
            return gated_mlp(width=width, ffn=config.int("intermediate_size"))
        experts = sparse_mlp(config, width, n_key="num_local_experts")
        return (*experts, *shared_mlp(width, shared))

    layers = built(
        zip(kinds, sparse_layers(config, shape.n_layers, n_dense), strict=True),
        lambda k: _layer(shape, mixers[k[0]], ffn(k[1]), k[0], sparse=k[1]),
    )
    return mixture_decoder(config, shape, layers, can_tie=False)


@family("bailing_hybrid")
def bailing_hybrid(config: Config) -> ModelSpec:
    """Ling hybrid: Kimi delta attention and latent attention with a gate for each head."""
    shape = latent_shape(config)
    kinds = every_nth_full(config, shape.n_layers, config.int("layer_group_size"))
    head_dim, n_heads, kernel = (
        config.int(newer if config.has(newer) else key)
        for newer, key in (
            ("linear_head_dim", "head_dim"),
            ("linear_num_heads", "num_attention_heads"),
            ("linear_conv_kernel_dim", "short_conv_kernel_size"),
        )
    )
    net = DeltaNet(shape.width, n_heads, n_heads, head_dim, head_dim, kernel)
    gate = Linear("self_attn.g_proj", shape.width, shape.n_heads, split="column")
    mixers = {
        LINEAR: kimi_delta(net, low_rank=False),
        FULL: (*_latent(config, shape, None), gate),
    }
    return _mixture(config, shape, kinds, mixers, config.int("first_k_dense_replace", least=0))
