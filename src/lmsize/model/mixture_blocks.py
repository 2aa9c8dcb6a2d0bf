"""What decoders with a mixture of experts share: dimensions, attention, experts, layer patterns.

A family reads its keys and says which attention and which MLP each layer has; the builders here
know nothing of model types.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from lmsize.model.blocks import attention, decoder, decoder_head, lm_head, rms_norm, token_embedding
from lmsize.model.config import LARGEST, Config
from lmsize.model.parts import Experts, Linear, Norm, Part, Plain
from lmsize.model.spec import Block, ModelSpec

USUAL_KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
HEAD_CLASSES = frozenset(
    {"CausalLM", "Model", "SequenceClassification", "TokenClassification", "QuestionAnswering"}
)
SLIDING = ("full_attention", "sliding_attention")
Kind = TypeVar("Kind", bound=Hashable)


# -- reading keys ----------------------------------------------------------------------------


def is_null(config: Config, key: str) -> bool:
    """Whether the file gives the key as null, which does not mean the class default."""
    return key in config.raw and config.given(key) is None


def nullable_int(config: Config, key: str) -> int | None:
    """A whole number; None where the file says null or neither file nor class says anything."""
    return None if is_null(config, key) else config.optional_int(key)


def int_list(config: Config, key: str) -> list[int] | None:
    """A list of whole numbers (layer indices, widths); None if absent."""
    values = config.sequence(key)
    for value in values or ():
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
            raise config.error(key, value, "a list of whole numbers")
    return values


def kinds_by_layer(
    config: Config, key: str, n_layers: int, kinds: tuple[str, ...], default: Callable[[int], str]
) -> list[str]:
    """The kind of each layer: as listed under `key`, else by the class's pattern."""
    return config.per_layer(key, n_layers, kinds) or [default(i) for i in range(n_layers)]


def sparse_layers(config: Config, n_layers: int, n_dense: int, every: int = 1) -> list[bool]:
    """Which layers have experts: ``mlp_layer_types``, else all but the first `n_dense`."""
    listed = config.per_layer("mlp_layer_types", n_layers, ("dense", "sparse"))
    if listed is not None:
        return [kind == "sparse" for kind in listed]
    return [i >= n_dense and i % every == 0 for i in range(n_layers)]


def sliding_layers(
    config: Config, n_layers: int, default: Callable[[int], bool], key: str = "sliding_window"
) -> list[int | None]:
    """The window of each layer, by ``layer_types`` or the class's pattern; None for full."""
    kinds = kinds_by_layer(
        config, "layer_types", n_layers, SLIDING, lambda i: SLIDING[1] if default(i) else SLIDING[0]
    )
    window = nullable_int(config, key) or None
    return [window if kind == "sliding_attention" else None for kind in kinds]


def chosen(config: Config, key: str, n_experts: int, fallback: int | None = None) -> int:
    """How many experts a token is routed to; never more than there are."""
    wanted = config.int(key, fallback)
    if wanted > n_experts:
        config.assume(
            "experts-per-token",
            f"{key} = {wanted}, but only {n_experts} experts: every one is used",
        )
    return min(wanted, n_experts)


# -- dimensions ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """Dimensions that all layers of one decoder have in common."""

    width: int
    n_layers: int
    n_heads: int
    vocab: int
    n_kv_heads: int
    head_dim: int


def head_width(config: Config, width: int, n_heads: int, key: str = "head_dim") -> int:
    """The width of a head: the file's, the class's, else the model's width divided by heads."""
    given = nullable_int(config, key)
    if given is None and n_heads > width:
        raise config.error("num_attention_heads", n_heads, f"at most the width, {width}")
    return config.int(key) if given is not None else width // n_heads


def read_shape(config: Config, keys: tuple[str, str, str, str] = USUAL_KEYS) -> Shape:
    """Width, depth, heads and vocabulary, which the file must give, and the heads' details."""
    width, n_layers, n_heads, vocab = config.require(*keys)
    given = nullable_int(config, "num_key_value_heads")
    n_kv_heads = n_heads if given is None else config.int("num_key_value_heads")
    return Shape(width, n_layers, n_heads, vocab, n_kv_heads, head_width(config, width, n_heads))


# -- parts -----------------------------------------------------------------------------------


def qk_norms(q_width: int, k_width: int, prefix: str = "self_attn") -> tuple[Part, ...]:
    """RMSNorm of queries and keys: per head, or over all heads at once."""
    return (Norm(f"{prefix}.q_norm", q_width), Norm(f"{prefix}.k_norm", k_width))


def grouped_query(
    shape: Shape, *, qkv_bias: bool = False, out_bias: bool = False, window: int | None = None,
    qk_norm: bool = False, sinks: bool = False, n_heads: int | None = None,
    n_kv_heads: int | None = None,
) -> tuple[Part, ...]:  # fmt: skip
    """Grouped-query attention under ``self_attn``, with what these families add to it.

    `qk_norm` is an RMSNorm over each query and key head; `sinks` are one learned logit a head
    that takes part in the softmax.
    """
    heads, kv_heads = n_heads or shape.n_heads, n_kv_heads or shape.n_kv_heads
    parts = attention(
        width=shape.width, n_heads=heads, n_kv_heads=kv_heads, head_dim=shape.head_dim,
        qkv_bias=qkv_bias, out_bias=out_bias, window=window,
    )  # fmt: skip
    norms = qk_norms(shape.head_dim, shape.head_dim) if qk_norm else ()
    extra = (Plain("self_attn.sinks", (heads,)),) if sinks else ()
    return (*parts, *norms, *extra)


def router(
    width: int, n_experts: int, name: str, *, bias: bool = False, is_linear: bool = False
) -> Linear:
    """The matrix that scores experts; most classes keep it as a raw parameter."""
    return Linear(name, width, n_experts, bias, adaptable=is_linear)


def expert_bank(
    width: int,
    ffn: int,
    n_experts: int,
    top_k: int,
    *,
    name: str = "mlp.experts",
    bias: bool = False,
) -> Experts:
    """Gated experts: gate and up fused into one tensor, down in another."""
    matrices = (("gate_up_proj", width, 2 * ffn), ("down_proj", ffn, width))
    return Experts(name, matrices, n_experts, top_k, bias)


def shared_mlp(
    width: int, ffn: int, *, prefix: str = "mlp.shared_experts", bias: bool = False
) -> tuple[Part, ...]:
    """The gated MLP that every token passes besides its routed experts.

    With no shared experts some classes still build it, of size 0.
    """
    units = None if ffn else 1
    return (
        Linear(f"{prefix}.gate_proj", width, ffn, bias, "column", units),
        Linear(f"{prefix}.up_proj", width, ffn, bias, "column", units),
        Linear(f"{prefix}.down_proj", ffn, width, bias, "row", units),
    )


def sparse_mlp(
    config: Config, width: int, *, n_key: str = "num_experts", k_key: str = "num_experts_per_tok",
    ffn_key: str = "moe_intermediate_size", gate: str = "gate", prefix: str = "mlp",
    is_linear: bool = False, bias: bool = False,
) -> tuple[Part, ...]:  # fmt: skip
    """A router and its gated experts, from the usual keys; `bias` is that of both."""
    n_experts = config.int(n_key)
    top_k = chosen(config, k_key, n_experts, 1)
    return (
        router(width, n_experts, f"{prefix}.{gate}", bias=bias, is_linear=is_linear),
        expert_bank(
            width, config.int(ffn_key), n_experts, top_k, name=f"{prefix}.experts", bias=bias
        ),
    )


# -- blocks ----------------------------------------------------------------------------------


def pre_norm_layer(
    width: int, attn: Iterable[Part], mlp: Iterable[Part], *, sparse: bool = True
) -> Block:
    """Norm, attention, norm, MLP: the usual layer."""
    return Block(
        "moe layer" if sparse else "layer",
        (
            rms_norm("input_layernorm", width), *attn,
            rms_norm("post_attention_layernorm", width), *mlp,
        ),
    )  # fmt: skip


def built(kinds: Iterable[Kind], build: Callable[[Kind], Block]) -> list[Block]:
    """One block a layer; layers of one kind share the description."""
    made: dict[Kind, Block] = {}
    blocks = []
    for kind in kinds:
        if kind not in made:
            made[kind] = build(kind)
        blocks.append(made[kind])
    return blocks


def mixture_decoder(
    config: Config, shape: Shape, layers: Iterable[Block], *, norm: Part | None = None,
    lm_bias: bool = False, embedding: str = "embed_tokens", extra: Iterable[Part] = (),
    final: Iterable[Part] = (), can_tie: bool = True,
) -> ModelSpec:  # fmt: skip
    """Embedding, layers, final norm and the head of the class that the config names.

    `norm` is the final norm if not an RMSNorm called ``norm``; `extra` stands between the token
    table and the first layer, `final` between the last layer and the final norm. `can_tie` is
    False where the class never ties its head.
    """
    if config.architecture and config.task not in HEAD_CLASSES:
        config.assume(
            "unknown-architecture", f"class {config.architecture!r}: counted as the causal model"
        )
    width, vocab = shape.width, shape.vocab
    tied = config.flag("tie_word_embeddings") and can_tie
    lm = lm_head(width=width, vocab=vocab, tied=tied, bias=lm_bias)
    last = (*final, norm or rms_norm("norm", width))
    return decoder(
        config, width=width, n_layers=shape.n_layers, n_heads=shape.n_heads, vocab=vocab,
        embedding=token_embedding(config, vocab=vocab, width=width, name=embedding, extra=extra),
        layers=layers, head=decoder_head(config, width=width, lm=[lm], final=last),
        max_positions=config.optional_int("max_position_embeddings"),
    )  # fmt: skip
