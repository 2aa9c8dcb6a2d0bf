"""How a model's blocks compute where parameters do not tell: activations, dropout, soft caps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmsize.model.config import Config

ACTIVATION = (
    "hidden_act", "hidden_activation", "activation_function", "activation", "feed_forward_proj",
    "afn", "mlp_hidden_act", "ffn_act_fn", "dense_act_fn",
)  # fmt: skip
OWN_ACTIVATIONS = {
    "bloom": "bloom_gelu",
    "gpt_oss": "clamped_swiglu",
    "minimax_m3_vl_text": "clamped_swiglu",
    "deepseek_v4": "limited_silu",
    "mpt": "gelu",
    "ctrl": "relu",
    "esm": "esm_gelu",
}  # which the class writes itself, whatever the config says
NAMED_OTHERWISE = {("openai-gpt", "gelu"): "gelu_new"}  # what a class means by a name
GATED_T5 = {"gated-gelu": "gelu_new", "gated-silu": "silu", "gated-relu": "relu"}
HIDDEN_DROPOUT = (
    "hidden_dropout_prob", "resid_pdrop", "hidden_dropout", "dropout_rate", "residual_dropout",
    "resid_dropout", "dropout",
)  # fmt: skip
ATTENTION_DROPOUT = (
    "attention_probs_dropout_prob", "attn_pdrop", "attention_dropout", "attn_dropout",
    "dropout_rate",
)  # fmt: skip
EMBEDDING_DROPOUT = (
    "embd_pdrop", "embed_dropout", "embedding_dropout", "hidden_dropout_prob", "embd_dropout",
    "dropout_rate", "dropout",
)  # fmt: skip
# Where a class drops out embeddings by another key, or by none.
OWN_EMBEDDING_DROPOUT = {"gpt_neox": "hidden_dropout", "opt": ""}
# A class that drops out by one rate of a section of its config, whatever stands beside it.
ONE_RATE = {"mpt": ("attn_config", "attn_pdrop")}
ACTIVATION_DROPOUT = ("activation_dropout", "dropout_rate")
GATES_DROPPED = ("gte", "new")  # whose MLP drops out what the gate gives at the rate of its output
ROTARY = ("rope_parameters", "rope_theta", "rotary_dim", "rotary_pct", "rotary_emb_base")
NUMBERS = ("hc_sinkhorn_iters", "qk_rope_head_dim")


@dataclass(frozen=True, slots=True)
class Conduct:
    """What the config says beside the shapes.

    Attributes:
        model_type: of the text model, whose class decides the rest.
        activation: transformers' name of it (``silu``, ``gelu_new`` ...).
        hidden_dropout: of what attention and MLP add to the stream; rates are fractions.
        activation_dropout: inside the MLP.
        rotary: whether positions turn queries and keys.
        rotary_frac: the part of each head that is turned.
        rotary_by_kind: whether each kind of attention has angles of its own.
        attention_softcap: whether scores are capped; `final_softcap` logits.
        parallel: whether attention and MLP read the same input, each through a norm of its own.
        scales_embedding: whether embeddings are multiplied by a constant.
        repeats_keys: whether the class repeats grouped keys and values itself (newer Falcons).
        n_relative: rows of DeBERTa's table of relative positions; 0 without one.
        n_streams: of the residual, side by side (hyper-connections, AltUp).
        layer_inputs: numbers that a token's embeddings for all layers have (Gemma's smallest); 0 without.
        numbers: what single families' classes read beside the shapes, by the config's keys.
        fp32_stream: whether the stream between the layers is fp32 whatever the weights are.
    """

    model_type: str = "llama"
    activation: str = "silu"
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    embedding_dropout: float = 0.0
    activation_dropout: float = 0.0
    rotary: bool = True
    rotary_frac: float = 1.0
    rotary_by_kind: bool = False
    attention_softcap: bool = False
    final_softcap: bool = False
    parallel: bool = False
    scales_embedding: bool = False
    fp32_stream: bool = False
    n_relative: int = 0
    repeats_keys: bool = False
    n_streams: int = 1
    layer_inputs: int = 0
    numbers: tuple[tuple[str, int], ...] = ()

    def number(self, key: str, otherwise: int) -> int:
        """A number that single families' classes read, by the config's key."""
        return next((n for name, n in self.numbers if name == key), otherwise)


USUAL = Conduct()


def read_conduct(config: Config) -> Conduct:
    """What a config says of how its text model computes; nothing in it is an error here."""
    section = config.section("text_config") or config.section("llm_config") or config
    pair = isinstance(section.raw.get("decoder"), dict)
    decoder = (
        section.section("decoder") if pair else None
    )  # of a pair, whose own config says little
    under = {**decoder.defaults, **decoder.raw} if decoder else {}
    known = {**under, **section.defaults, **section.raw}
    others = known.get("alibi") or known.get("position_embedding_type") == "absolute"
    rotary = any(key in known for key in ROTARY) and not others
    activation = OWN_ACTIVATIONS.get(section.model_type) or _text(known, ACTIVATION, "silu")
    rates = _rates(section.model_type, known)
    old_falcon = section.model_type.startswith("RefinedWeb")
    return Conduct(
        model_type=section.model_type or "llama",
        activation=NAMED_OTHERWISE.get(
            (section.model_type, activation), GATED_T5.get(activation, activation)
        ),
        hidden_dropout=_rate(rates, HIDDEN_DROPOUT),
        attention_dropout=_rate(rates, ATTENTION_DROPOUT),
        embedding_dropout=_rate(rates, EMBEDDING_DROPOUT),
        activation_dropout=_rate(rates, _mlp_dropout(section.model_type)),
        rotary=rotary,
        rotary_frac=_rotary_frac(known),
        rotary_by_kind=_is_by_kind(known),
        attention_softcap=bool(known.get("attn_logit_softcapping")),
        final_softcap=bool(known.get("final_logit_softcapping")),
        parallel=bool(known.get("use_parallel_residual") or known.get("parallel_attn", old_falcon)),
        scales_embedding=section.model_type.startswith("gemma"),
        fp32_stream=bool(known.get("residual_in_fp32")),
        n_relative=_n_relative(known),
        n_streams=_n_streams(known),
        layer_inputs=_layer_inputs(known),
        numbers=tuple((key, known[key]) for key in NUMBERS if isinstance(known.get(key), int)),
        repeats_keys=bool(
            known.get("new_decoder_architecture", section.model_type == "RefinedWeb")
        ),
    )


def _mlp_dropout(model_type: str) -> tuple[str, ...]:
    return ("hidden_dropout_prob",) if model_type in GATES_DROPPED else ACTIVATION_DROPOUT


def _text(known: Mapping[str, Any], keys: tuple[str, ...], fallback: str) -> str:
    return next((known[k] for k in keys if isinstance(known.get(k), str)), fallback)


def _rates(model_type: str, known: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys that dropout rates are looked up in."""
    if model_type in OWN_EMBEDDING_DROPOUT:
        return {**known, EMBEDDING_DROPOUT[0]: known.get(OWN_EMBEDDING_DROPOUT[model_type], 0.0)}
    if model_type not in ONE_RATE:
        return known
    name, key = ONE_RATE[model_type]
    stated = known.get(name)
    rate = stated.get(key) if isinstance(stated, dict) else None
    return {HIDDEN_DROPOUT[0]: rate, ATTENTION_DROPOUT[0]: rate, EMBEDDING_DROPOUT[0]: 0.0}


def _rate(known: Mapping[str, Any], keys: tuple[str, ...]) -> float:
    for key in keys:
        value = known.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value) if 0 <= value < 1 else 0.0
    return 0.0


def _n_streams(known: Mapping[str, Any]) -> int:
    found = (known.get(key) for key in ("hc_mult", "altup_num_inputs"))
    return next((n for n in found if isinstance(n, int) and n > 0), 1)


def _layer_inputs(known: Mapping[str, Any]) -> int:
    width, n_layers = known.get("hidden_size_per_layer_input"), known.get("num_hidden_layers")
    return width * n_layers if isinstance(width, int) and isinstance(n_layers, int) else 0


def _n_relative(known: Mapping[str, Any]) -> int:
    """Positions on both sides of a token: as many as buckets, or as the longest sequence."""
    if not known.get("relative_attention"):
        return 0
    sides = (
        known.get(key)
        for key in ("position_buckets", "max_relative_positions", "max_position_embeddings")
    )
    return 2 * next((n for n in sides if isinstance(n, int) and n > 0), 0)


def _is_by_kind(known: Mapping[str, Any]) -> bool:
    stated = known.get("rope_parameters")
    return isinstance(stated, dict) and any(isinstance(one, dict) for one in stated.values())


def _rotary_frac(known: Mapping[str, Any]) -> float:
    stated = known.get("rope_parameters")
    inside = stated.get("partial_rotary_factor") if isinstance(stated, dict) else None
    for value in (inside, known.get("partial_rotary_factor"), known.get("rotary_pct")):
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
            return float(value)
    turned, n_heads, width = (known.get(key) for key in ("rotary_dim", "n_head", "n_embd"))
    if isinstance(turned, int) and isinstance(n_heads, int) and isinstance(width, int) and width:
        return min(1.0, turned * n_heads / width)
    return 1.0
