"""Megatron's launch arguments -> the model that they build (``GPTModel`` of Megatron core)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lmsize.measurements.architecture import Columns, named
from lmsize.measurements.cells import count, is_set, number
from lmsize.measurements.unmodelled import UnmodelledError
from lmsize.measurements.words import read
from lmsize.model.blocks import lm_head, mlp
from lmsize.model.conduct import Conduct
from lmsize.model.latent_blocks import Latent, latent_attention
from lmsize.model.parts import AttentionCore, Embedding, Experts, Linear, Norm, Part
from lmsize.model.spec import Block, ModelSpec, Run, Tower, stacked
from lmsize.numbers import ceil_div

GPT2_VOCABULARY = 50257  # of the tokenizer that Megatron's examples and tests use
OTHER_CLASSES = ("unread", "bert", "t5")  # than GPTModel
FREQUENCY = re.compile(r"\[([\d,\s]+)\]\s*\*\s*(\d+)")
SHAPES = frozenset(
    [
        "swiglu",
        "normalization",
        "disable_bias_linear",
        "untie_embeddings_and_output_weights",
        "num_experts",
        "position_embedding_type",
        "multi_latent_attention",
        "qk_layernorm",
        "squared_relu",
        "ffn_hidden_size",
        "add_qkv_bias",
        "transformer_impl",
        "use_mcore_models",
    ]
)


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments that decide shapes; names are Megatron's.

    Attributes:
        moe_layers: for each layer whether it has experts.
    """

    hidden: int
    layers: int
    heads: int
    groups: int
    channels: int
    ffn: int
    vocab: int
    positions: int
    gated: bool
    bias: bool
    qkv_bias: bool
    rms: bool
    rotary: bool
    rotary_frac: float
    tied: bool
    qk_norm: bool
    activation: str
    latent: Latent | None
    n_experts: int
    top_k: int
    expert_ffn: int
    shared_ffn: int
    moe_layers: tuple[bool, ...]


def speaks_megatron(said: Columns, extra: Mapping[str, str]) -> bool:
    """Whether a row's options, rather than its label, describe the model."""
    if named(said.label) is not None or not SHAPES & extra.keys():
        return False
    family = read("family", said.label).meaning
    # No family that a label names has latent attention: DeepSeek's first models have Llama's.
    is_latent = is_set(extra, "multi_latent_attention") and family not in OTHER_CLASSES
    return is_latent or family in (None, "gpt", "mixture")


def megatron_model(said: Columns, extra: Mapping[str, str]) -> ModelSpec:
    """The model of a row's columns and launch arguments.

    Raises:
        UnmodelledError: the width, depth or heads are not stated.
    """
    return _model(_arguments(said, extra), said.label or "row")


def _arguments(said: Columns, extra: Mapping[str, str]) -> Arguments:
    if said.hidden is None or said.layers is None or said.heads is None:
        raise UnmodelledError("architecture: width, layers and heads are not all stated")
    gated = is_set(extra, "swiglu")
    ffn = count(extra, "ffn_hidden_size")
    usual = said.hidden * 8 // 3 // 64 * 64 if gated else 4 * said.hidden
    plain = said.ffn if said.ffn and not (gated and said.ffn == 4 * said.hidden) else usual
    ffn = ffn or plain
    bias = not is_set(extra, "disable_bias_linear")
    share = number(extra, "rotary_percent")
    return Arguments(
        hidden=said.hidden, layers=said.layers, heads=said.heads,
        groups=count(extra, "num_query_groups") or said.kv_heads or said.heads,
        channels=count(extra, "kv_channels") or said.head_dim or said.hidden // said.heads,
        ffn=ffn, vocab=_padded(said, extra), positions=said.positions or 1024, gated=gated, bias=bias,
        qkv_bias=bias or is_set(extra, "add_qkv_bias"),
        rms=extra.get("normalization", "").lower() == "rmsnorm",
        rotary=extra.get("position_embedding_type", "") in ("rope", "yarn", "mrope"),
        rotary_frac=share or 1.0,
        tied=not is_set(extra, "untie_embeddings_and_output_weights"),
        qk_norm=is_set(extra, "qk_layernorm"),
        activation="relu2" if is_set(extra, "squared_relu") else "silu" if gated else "gelu",
        latent=_latent(extra, said.heads), n_experts=said.moe_experts or count(extra, "num_experts") or 0,
        top_k=count(extra, "moe_router_topk") or said.moe_topk or 2,
        expert_ffn=count(extra, "moe_ffn_hidden_size") or said.moe_ffn or ffn,
        shared_ffn=count(extra, "moe_shared_expert_intermediate_size") or 0,
        moe_layers=_moe_layers(extra.get("moe_layer_freq", "1"), said.layers),
    )  # fmt: skip


def _padded(said: Columns, extra: Mapping[str, str]) -> int:
    """The vocabulary, padded so that each rank's part is a multiple of 128."""
    stated = said.vocab or count(extra, "vocab_size") or GPT2_VOCABULARY
    multiple = (count(extra, "make_vocab_size_divisible_by") or 128) * said.tp
    return int(ceil_div(stated, multiple) * multiple)


def _latent(extra: Mapping[str, str], n_heads: int) -> Latent | None:
    if not is_set(extra, "multi_latent_attention"):
        return None
    return Latent(
        n_heads=n_heads, q_rank=count(extra, "q_lora_rank"),
        kv_rank=count(extra, "kv_lora_rank") or 32, nope=count(extra, "qk_head_dim") or 128,
        rope=count(extra, "qk_pos_emb_head_dim") or 64, v=count(extra, "v_head_dim") or 128,
    )  # fmt: skip


def _moe_layers(text: str, n_layers: int) -> tuple[bool, ...]:
    """``2`` is every second layer; ``([0]*1+[1]*26)`` a list."""
    if text.strip().isdigit():
        every = max(1, int(text))
        return tuple(i % every == 0 for i in range(n_layers))
    listed = [
        bool(int(one))
        for values, times in FREQUENCY.findall(text)
        for _ in range(int(times))
        for one in values.split(",")
    ]
    return tuple(listed[i % len(listed)] if listed else True for i in range(n_layers))


def _norm(args: Arguments, name: str, width: int | None = None) -> Norm:
    return Norm(name, width or args.hidden, bias=not args.rms)


def _attention(args: Arguments) -> tuple[Part, ...]:
    if args.latent is not None:
        return latent_attention(args.hidden, args.latent)
    prefix, width = "self_attention", args.heads * args.channels
    norms = ("q_layernorm", "k_layernorm") if args.qk_norm else ()
    return (
        Linear(
            f"{prefix}.linear_qkv", args.hidden, width + 2 * args.groups * args.channels,
            args.qkv_bias, "column", args.groups,
        ),
        *(_norm(args, f"{prefix}.{name}", args.channels) for name in norms),
        AttentionCore(args.heads, args.groups, args.channels, args.channels),
        Linear(f"{prefix}.linear_proj", width, args.hidden, args.bias, "row", args.heads),
    )  # fmt: skip


def _mlp(args: Arguments, ffn: int, prefix: str = "mlp") -> tuple[Part, ...]:
    """fc1 makes gate and values in one."""
    up, down = f"{prefix}.linear_fc1", f"{prefix}.linear_fc2"
    if not args.gated:
        return mlp(width=args.hidden, ffn=ffn, up=up, down=down, bias=args.bias)
    return (
        Linear(up, args.hidden, 2 * ffn, args.bias, "column", ffn),
        Linear(down, ffn, args.hidden, args.bias, "row"),
    )


def _experts(args: Arguments) -> tuple[Part, ...]:
    inner = args.expert_ffn * (2 if args.gated else 1)
    matrices = (("linear_fc1", args.hidden, inner), ("linear_fc2", args.expert_ffn, args.hidden))
    return (
        Linear("mlp.router", args.hidden, args.n_experts, adaptable=False),
        Experts("mlp.experts", matrices, args.n_experts, args.top_k, args.bias),
        *(_mlp(args, args.shared_ffn, "mlp.shared_experts") if args.shared_ffn else ()),
    )


def _layers(args: Arguments) -> list[Block]:
    parts = (_norm(args, "input_layernorm"), *_attention(args), _norm(args, "pre_mlp_layernorm"))
    dense = Block("layer", (*parts, *_mlp(args, args.ffn)))
    if not args.n_experts:
        return [dense] * args.layers
    sparse = Block("moe layer", (*parts, *_experts(args)))
    return [sparse if has_experts else dense for has_experts in args.moe_layers]


def _model(args: Arguments, name: str) -> ModelSpec:
    tables: list[Part] = [Embedding("word_embeddings", args.vocab, args.hidden, is_vocabulary=True)]
    if not args.rotary:
        tables.append(Embedding("position_embeddings", args.positions, args.hidden))
    head = lm_head(width=args.hidden, vocab=args.vocab, tied=args.tied, name="output_layer")
    runs = (
        Run(Block("embedding", tuple(tables), "embedding")), *stacked(_layers(args)),
        Run(Block("head", (_norm(args, "final_layernorm"), head), "head")),
    )  # fmt: skip
    return ModelSpec(
        name=name, model_type="megatron", architecture="GPTModel", width=args.hidden,
        n_layers=args.layers, n_heads=args.heads, vocab_size=args.vocab,
        max_positions=args.positions, learned_positions=not args.rotary,
        towers=(Tower("decoder", runs),),
        conduct=Conduct(
            model_type="megatron", activation=args.activation, rotary=args.rotary,
            rotary_frac=args.rotary_frac,
        ),
    )  # fmt: skip
