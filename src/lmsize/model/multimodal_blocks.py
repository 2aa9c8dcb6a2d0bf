"""Multimodal wrappers: the text model of one section, and towers for the other sections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from lmsize.model.config import Config, class_defaults
from lmsize.model.family import readers
from lmsize.model.spec import ModelSpec, Tower

Towers = Callable[[Config, ModelSpec], tuple[Tower, ...]]
TEXT_KEYS = ("text_config", "llm_config", "language_config")
LABEL_KEYS = ("id2label", "num_labels")
OWN_HEADS = ("SequenceClassification", "TokenClassification", "QuestionAnswering")


def section_of(config: Config, key: str, model_type: str) -> Config:
    """A section read as `model_type`; absent, all of it is the class's defaults."""
    given = config if config.has(key) else config.replacing({key: {}})
    section = given.section(key)
    assert section is not None
    return section.typed(model_type)


def wrapped(
    config: Config, towers: Towers, *, text_type: str, forced: bool = False,
    tie: Literal["whole", "text", "either"] = "whole",
) -> ModelSpec:  # fmt: skip
    """A multimodal model: the text section by its own family, with the towers before it.

    Args:
        text_type: what the text section is unless it says so itself.
        forced: whether it is that whatever it says.
        tie: which of the two says whether the head is tied.
    """
    config = config.replacing({"architectures": [_architecture(config)]})
    text = _text_section(config, text_type, forced=forced)
    only_text = config.architecture in _classes(text.model_type).values()
    values: dict[str, Any] = {"architectures": [_text_architecture(config, text)]}
    if tie != "text" and not only_text:
        tied = config.flag("tie_word_embeddings")
        if tie == "either":
            tied = tied or text.flag("tie_word_embeddings")
        values["tie_word_embeddings"] = tied
    values |= {key: config.raw[key] for key in LABEL_KEYS if key in config.raw}
    spec = read_text(text.replacing(values))
    extra = () if only_text else towers(config, spec)
    return replace(
        spec, model_type=config.model_type, architecture=config.architecture,
        towers=(*extra, *spec.towers),
    )  # fmt: skip


def read_text(text: Config) -> ModelSpec:
    """The text model of a section, by the family that its type belongs to."""
    reader = readers().get(text.model_type)
    if reader is None:
        text.assume(
            "unknown-model-type",
            f"model_type {text.model_type!r} of {text.path.rstrip('.')} is not known: "
            "estimated as a Llama-like decoder from its keys",
        )
        reader = readers()["llama"]
    return reader(text)


def has_text(config: Config) -> bool:
    """Whether a section of this config is called as a text model's is."""
    return any(isinstance(config.given(key), dict) for key in TEXT_KEYS)


def text_alone(config: Config) -> ModelSpec:
    """The text model of a wrapper that is not known: its other towers are left out."""
    key = next(key for key in TEXT_KEYS if isinstance(config.given(key), dict))
    text = config.section(key)
    assert text is not None
    config.assume(
        "text-model-only",
        f"model_type {config.model_type!r} is not known: only its {key} is counted, "
        "no vision or audio tower",
    )
    values: dict[str, Any] = {"architectures": None}
    if config.has("tie_word_embeddings"):
        values["tie_word_embeddings"] = config.flag("tie_word_embeddings")
    return replace(read_text(text.replacing(values)), model_type=config.model_type)


def _text_section(config: Config, text_type: str, *, forced: bool) -> Config:
    text = config.section("text_config", text_type)
    if text is None:
        if not config.has("hidden_size"):
            config.require("text_config")
        return config.typed(text_type)  # the keys stand at the top
    known = text.model_type in readers() and not forced
    return text if known else text.typed(text_type)


def _classes(model_type: str) -> dict[str, str]:
    classes: dict[str, str] = class_defaults().get(model_type, {}).get("classes", {})
    return classes


def _architecture(config: Config) -> str:
    """The class that the file names, else the one with all towers."""
    if config.raw.get("architectures"):
        return config.architecture
    return _classes(config.model_type).get("image_text") or config.architecture


def _text_architecture(config: Config, text: Config) -> str:
    """The class of the text model alone whose head is that of the whole."""
    if config.task == "Model":
        return "TextModel"
    if config.task in OWN_HEADS:
        return f"TextFor{config.task}"
    return _classes(text.model_type).get("causal", "TextForCausalLM")
