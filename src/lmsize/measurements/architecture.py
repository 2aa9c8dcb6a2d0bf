"""The columns of an architecture -> the model that `lmsize train` is asked about.

Columns that are filled decide. The label completes them: a model of the catalogue lends its
config, a family lends its shape (families.toml).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from lmsize.assumption import Assumption
from lmsize.catalogue import built_in
from lmsize.catalogue.names import plain
from lmsize.errors import LmsizeError
from lmsize.measurements.cells import count, is_set, number
from lmsize.measurements.unmodelled import UnmodelledError
from lmsize.measurements.words import REMARK, read
from lmsize.model.count import n_params
from lmsize.model.read import read_config
from lmsize.model.spec import ModelSpec

# Where configs keep what a column says.
KEYS: Mapping[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads", "n_kv_heads", "num_kv_heads"),
    "head_dim": ("head_dim", "d_kv"),
    "ffn": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"),
    "vocab": ("vocab_size",),
    "moe_experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "moe_topk": ("num_experts_per_tok", "moe_topk", "top_k"),
    "moe_ffn": ("moe_intermediate_size",),
}
TUNED = re.compile(
    r"[-_ ](chat|instruct|base|it|hf|pt|sft|dpo|thinking|fp8|bf16|fp16|nvfp4|mxfp4|fp4|bnb|unsloth|awq|"
    r"gptq|gguf|int[48]|[48]-?bit|w\da\d{1,2}|q\d(?:_\w+)?|\d{4}|v\d(\.\d)?)$"
)
FAR_FROM_STATED = 0.1  # a count that misses the stated parameters by more is said
HEAD_DIM = 128


@dataclass(frozen=True, slots=True)
class Columns:
    """The architecture cells of a row; None where a cell is empty."""

    label: str
    n_params: float | None
    hidden: int | None
    layers: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    ffn: int | None
    vocab: int | None
    moe_experts: int | None
    moe_topk: int | None
    moe_ffn: int | None
    positions: int | None
    tp: int
    gated: bool | None
    tied: bool | None


def columns_of(row: Mapping[str, str], extra: Mapping[str, str]) -> Columns:
    """The architecture cells, and the launch options that decide shapes (Megatron's names)."""
    billions = number(row, "params_b")
    said = {name: count(row, name) for name in KEYS}
    if said["moe_experts"] == 1:
        said["moe_experts"] = None
    gated = True if is_set(extra, "swiglu") or is_set(extra, "geglu") else None
    tied = False if is_set(extra, "untie_embeddings_and_output_weights") else None
    if "tied_embeddings" in extra:
        tied = is_set(extra, "tied_embeddings")
    return Columns(
        label=row.get("model", ""), n_params=billions * 1e9 if billions else None,
        positions=count(row, "seq_len"), tp=count(row, "tp") or 1, gated=gated, tied=tied, **said,
    )  # fmt: skip


@lru_cache(maxsize=4096)
def architecture(said: Columns) -> tuple[ModelSpec, tuple[Assumption, ...]]:
    """The model that the columns and the label describe.

    Raises:
        UnmodelledError: neither says enough.
    """
    known = named(said.label)
    if known is not None:
        config = patched(known, said)
        if config is not None:
            return _checked(config, said, ())
    filled, stated = completed(said)
    return _checked(template(filled), filled, stated)


@cache
def families() -> Mapping[str, Any]:
    """The package's templates and labels."""
    text = files("lmsize.measurements.data").joinpath("families.toml").read_text("utf-8")
    return tomllib.loads(text)


def named(label: str) -> Mapping[str, Any] | None:
    """The config of the catalogue's model that a label means, its tuning and remarks dropped."""
    name = REMARK.sub(" ", label).strip()
    while name:
        for word in (name, name.rpartition("/")[2]):
            meant = families()["labels"].get(plain(word)) or _by_hub_name().get(plain(word), word)
            found = built_in().find_model(meant)
            if found is not None:
                return found[0].config
        shorter = TUNED.sub("", name.lower())
        if shorter == name.lower():
            return None
        name = shorter
    return None


@cache
def _by_hub_name() -> Mapping[str, str]:
    """The catalogue's name by the name that a model has on the Hub, whoever uploaded it."""
    rows = built_in().models()
    names = ((plain(word.rpartition("/")[2]), row.name) for row in rows
             for word in (row.hf_id, *row.aliases) if word)  # fmt: skip
    found: dict[str, str] = {}
    for hub_name, name in names:
        found.setdefault(hub_name, name)
    return found


def patched(config: Mapping[str, Any], said: Columns) -> Mapping[str, Any] | None:
    """A known config with what the columns say in place; None if they make no model with it."""
    inner = "text_config" if isinstance(config.get("text_config"), Mapping) else ""
    body = dict(config[inner] if inner else config)
    for column, keys in KEYS.items():
        value, key = getattr(said, column), next((k for k in keys if k in body), None)
        if value is None or key is None or body[key] == value:
            continue
        if column in ("ffn", "moe_ffn") and body.get(key) is None:
            continue
        if column == "hidden" and said.head_dim is None:
            body.pop("head_dim", None)
        if column == "layers":
            body = {k: _cycled(v, int(body[key]), value) for k, v in body.items()}
        body[key] = value
    whole = {**config, inner: body} if inner else body
    try:
        read_config(whole, name="row")
    except LmsizeError:
        return None
    return whole


def _cycled(value: Any, n_layers: int, wanted: int) -> Any:
    """A list with an entry a layer, cut or repeated to another number of layers."""
    if not isinstance(value, list) or len(value) != n_layers or not n_layers:
        return value
    return [value[i % n_layers] for i in range(wanted)]


def completed(said: Columns) -> tuple[Columns, tuple[Assumption, ...]]:
    """Cells that follow from others filled in, each an assumption; a known shape is none."""
    shape = families()["shapes"].get(plain(said.label), {})
    said = replace(said, **{k: v for k, v in shape.items() if getattr(said, k) is None})
    if said.hidden is None:
        raise UnmodelledError(f"architecture: {said.label!r} is not known and no width is stated")
    stated = []
    filled = said
    if filled.heads is None:
        heads = _heads(filled.hidden or 1, tp=filled.tp)
        filled = replace(filled, heads=heads)
        stated.append(Assumption("row-heads", f"{heads} heads: none stated, {HEAD_DIM} wide each"))
    if filled.vocab is None:
        vocab = int(families()[_family(filled)]["vocab"])
        filled = replace(filled, vocab=vocab)
        stated.append(Assumption("row-vocabulary", f"a vocabulary of {vocab}: none stated"))
    if filled.layers is None:
        layers = _layers(filled)
        filled = replace(filled, layers=layers)
        stated.append(Assumption("row-layers", f"{layers} layers, as the stated parameters need"))
    return filled, tuple(stated)


def _heads(hidden: int, *, tp: int) -> int:
    """The number of heads of about the usual width that divides the model's and that tp divides."""
    divisors = [n for n in range(1, hidden + 1) if hidden % n == 0]
    legal = [n for n in divisors if n % tp == 0] or divisors
    return min(legal, key=lambda n: abs(hidden / n - HEAD_DIM))


def _layers(said: Columns) -> int:
    """Layers that make up the stated number of parameters."""
    if said.n_params is None:
        raise UnmodelledError(f"architecture: {said.label!r} states no number of layers")
    one, two = (
        n_params(read_config(template(replace(said, layers=n)), name="row")) for n in (1, 2)
    )
    return max(1, round((said.n_params - one) / (two - one)) + 1)


def _family(said: Columns) -> str:
    """The template for a label: by its words, else by the shape of the MLP."""
    family = read("family", said.label).meaning
    if family == "unread":
        raise UnmodelledError(f"architecture: {said.label!r} is not described by the columns")
    if said.moe_experts:
        return "mixture"
    if said.gated and family in (None, "gpt", "bloom", "neox", "nemotron"):
        return "llama"
    gated_width = said.ffn is not None and said.hidden is not None and said.ffn < 4 * said.hidden
    if family is None:
        return "llama" if gated_width or said.gated else _ungated(said)
    return _ungated(said) if family == "gpt" else family


def _ungated(said: Columns) -> str:
    grouped = said.kv_heads is not None and said.kv_heads != said.heads
    own_width = said.head_dim is not None and said.head_dim * (said.heads or 1) != said.hidden
    return "nemotron" if own_width else "gpt-grouped" if grouped else "gpt"


def template(said: Columns) -> Mapping[str, Any]:
    """The config of a family with the columns' values."""
    body = families()[_family(said)]
    values = {name: getattr(said, name) for name in KEYS} | {
        "positions": said.positions,
        "expert_ffn": said.moe_ffn or said.ffn,
        "kv_heads": said.kv_heads or said.heads,
        "ffn": said.ffn or 4 * (said.hidden or 1),
        "both_ffn": 2 * (said.ffn or 4 * (said.hidden or 1)),
        "head_dim": said.head_dim or (said.hidden or 1) // (said.heads or 1),
    }
    config = dict(body["fixed"])
    config |= {key: values[column] for key, column in body["keys"].items() if values[column]}
    if said.tied is not None:
        config["tie_word_embeddings"] = said.tied
    return config


def _checked(
    config: Mapping[str, Any], said: Columns, stated: tuple[Assumption, ...]
) -> tuple[ModelSpec, tuple[Assumption, ...]]:
    """The model that the config describes; a count far from the stated one is said."""
    try:
        model = read_config(config, name=said.label or "row")
        counted = n_params(model)
    except LmsizeError as error:
        raise UnmodelledError(f"architecture: {error}") from None
    if said.n_params and abs(counted / said.n_params - 1) > FAR_FROM_STATED:
        text = f"{counted / 1e9:.3g}B parameters as read, {said.n_params / 1e9:.3g}B stated"
        stated = (*stated, Assumption("row-parameters", text))
    return model, stated
