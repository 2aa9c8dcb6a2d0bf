"""Nemotron-H: layers of Mamba-2, attention, plain MLPs and experts, one kind each."""

from __future__ import annotations

from collections.abc import Callable

from lmsize.model.blocks import attention, mlp, rms_norm
from lmsize.model.config import DEEPEST, Config
from lmsize.model.family import family
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    chosen,
    mixture_decoder,
    nullable_int,
    router,
)
from lmsize.model.parts import Experts, Linear, Part
from lmsize.model.spec import Block, ModelSpec
from lmsize.model.state_space_blocks import FULL, LINEAR, OLDER_KINDS, mamba2_mixer

PATTERN = {"M": LINEAR, "E": "moe", "*": FULL, "-": "mlp"}


@family("nemotron_h")
def nemotron_h(config: Config) -> ModelSpec:
    """Nemotron-H: each layer is one thing only: Mamba-2, attention, an MLP or experts."""
    width, n_heads, vocab = config.require("hidden_size", "num_attention_heads", "vocab_size")
    kinds = _nemotron_kinds(config)
    older = config.has("attention_head_dim") and not config.has("head_dim")
    head_dim = config.int("attention_head_dim" if older else "head_dim")
    n_kv_heads = nullable_int(config, "num_key_value_heads") or n_heads
    shape = Shape(width, len(kinds), n_heads, vocab, n_kv_heads, head_dim)
    build: dict[str, Callable[[], tuple[Part, ...]]] = {
        LINEAR: lambda: _nemotron_mamba(config, width),
        FULL: lambda: attention(
            width=width, n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim, prefix="mixer"
        ),
        "mlp": lambda: _plain_mlp(config, width, "mixer", config.int("intermediate_size")),
        "moe": lambda: _latent_experts(config, width),
    }
    names = {LINEAR: "mamba layer", FULL: "attention layer", "mlp": "mlp layer", "moe": "moe layer"}
    layers = built(kinds, lambda k: Block(names[k], (rms_norm("norm", width), *build[k]())))
    return mixture_decoder(
        config, shape, layers, embedding="embeddings", norm=rms_norm("norm_f", width), can_tie=False
    )


def _nemotron_kinds(config: Config) -> list[str]:
    """What each layer is: a list of words, or a pattern of letters."""
    listed: list[str] | None = config.sequence("layers_block_type")
    if listed is None and config.has("hybrid_override_pattern"):
        pattern = config.text("hybrid_override_pattern")
        if not pattern or set(pattern) - set(PATTERN):
            raise config.error("hybrid_override_pattern", pattern, "letters of M, E, * and -")
        listed = [PATTERN[letter] for letter in pattern]
    if listed is None:
        config.require("layers_block_type")
    allowed = {*PATTERN.values(), *OLDER_KINDS}
    if not listed or any(not isinstance(k, str) or k not in allowed for k in listed):
        raise config.error("layers_block_type", listed, f"words of {', '.join(sorted(allowed))}")
    if len(listed) > DEEPEST:
        raise config.error("layers_block_type", len(listed), f"at most {DEEPEST} layers")
    return [OLDER_KINDS.get(kind, kind) for kind in listed]


def _nemotron_mamba(config: Config, width: int) -> tuple[Part, ...]:
    n_heads = config.int("mamba_num_heads")
    groups, kernel, conv_bias = (
        older if config.has(older) else key
        for key, older in (
            ("n_groups", "mamba_n_groups"),
            ("conv_kernel", "mamba_d_conv"),
            ("use_conv_bias", "mamba_conv_bias"),
        )
    )
    return mamba2_mixer(
        width=width, inner=n_heads * config.int("mamba_head_dim"), n_heads=n_heads,
        n_groups=config.int(groups), state=config.int("ssm_state_size"), kernel=config.int(kernel),
        bias=config.flag("use_bias"), conv_bias=config.flag(conv_bias),
        chunk=config.optional_int("mamba_chunk_size") or config.optional_int("chunk_size") or 128,
    )  # fmt: skip


def _plain_mlp(config: Config, width: int, prefix: str, ffn: int) -> tuple[Part, ...]:
    bias = config.flag("mlp_bias")
    return mlp(width=width, ffn=ffn, up=f"{prefix}.up_proj", down=f"{prefix}.down_proj", bias=bias)


def _latent_experts(config: Config, width: int) -> tuple[Part, ...]:
    """Experts without a gate, in a latent space if the config names one, and a shared MLP."""
    latent = nullable_int(config, "moe_latent_size")
    n_experts, ffn = config.int("n_routed_experts"), config.int("moe_intermediate_size")
    shared = config.int("moe_shared_expert_intermediate_size", least=0)
    shared = shared or config.int("intermediate_size")
    size, bias = latent or width, config.flag("mlp_bias")
    matrices = (("up_proj", size, ffn), ("down_proj", ffn, size))
    top_k = chosen(config, "num_experts_per_tok", n_experts)
    around: tuple[Part, ...] = () if latent is None else (
        Linear("mixer.fc1_latent_proj", width, latent, bias),
        Linear("mixer.fc2_latent_proj", latent, width, bias),
    )  # fmt: skip
    return (
        router(width, n_experts, "mixer.gate"),
        Experts("mixer.experts", matrices, n_experts, top_k),
        *_plain_mlp(config, width, "mixer.shared_experts", shared),
        *around,
    )
