"""A parsed ``config.json`` -> :class:`ModelSpec`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmsize.errors import ModelError, nearest_names
from lmsize.model.check import check_config
from lmsize.model.conduct import read_conduct
from lmsize.model.config import Config
from lmsize.model.family import readers
from lmsize.model.multimodal_blocks import has_text, text_alone
from lmsize.model.spec import ModelSpec

USUAL_KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def read_config(raw: Mapping[str, Any], *, name: str) -> ModelSpec:
    """The architecture that a config describes.

    Args:
        raw: the JSON object of the config.
        name: what to call the model in reports.

    Raises:
        ModelError: a key is missing, of the wrong type or out of range; or the `model_type` is
            unknown and the usual keys are not there either.
    """
    if not isinstance(raw, Mapping):
        raise ModelError("config.json", raw, "a JSON object")
    model_type = raw.get("model_type")
    if model_type is not None and not isinstance(model_type, str):
        raise ModelError("model_type", model_type, "a string")
    known = readers()
    config = Config(raw, model_type or "")
    reader = known.get(config.model_type)
    if reader is None and has_text(config):
        reader = text_alone
    if reader is None:
        reader = known["llama"]
        missing = [key for key in USUAL_KEYS if key not in raw]
        if missing:
            expected = f"a known one, or beside it the usual keys, of which {', '.join(missing)} are missing"
            raise ModelError(
                "model_type", model_type, expected, nearest=nearest_names(model_type or "", known)
            )
        config.assume(
            "unknown-model-type",
            f"{_unknown(model_type, known)}: estimated as a Llama-like decoder from its keys",
        )
    spec = reader(config)
    check_config(config)
    return replace(spec, name=name, assumptions=config.assumptions, conduct=read_conduct(config))


def _unknown(model_type: str | None, known: Mapping[str, Any]) -> str:
    if not model_type:
        return "the config has no model_type"
    near = nearest_names(model_type, known, n_names=1)
    return f"model_type {model_type!r} is not known" + (f" ({near[0]} is)" if near else "")
