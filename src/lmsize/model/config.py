"""Reading a ``config.json``: typed, strict, with transformers' class defaults as assumptions."""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from lmsize.assumption import Assumption
from lmsize.errors import ModelError, nearest_names

LARGEST = 2**31  # of any one dimension: beyond it a config is a mistake or an attack
DEEPEST = 20_000  # layers; families expand them one by one
DEPTH_KEY = re.compile(r"(^|_)(layers|layer|hidden_layers|blocks)$")


@cache
def class_defaults() -> Mapping[str, Any]:
    """Defaults, aliases, sections and classes of every known `model_type`."""
    text = files("lmsize.model.data").joinpath("config_defaults.json").read_text("utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


class Config:
    """One (sub-)config: its keys, transformers' aliases for them, and its class defaults.

    Values of the wrong type, out of range or missing raise :class:`ModelError` with the key's
    path. A key taken from the class default is recorded in :attr:`assumptions`.

    Args:
        raw: the parsed JSON object.
        model_type: decides the defaults; for a section, taken from its parent's class.
        path: where this object lies in the file, e.g. ``text_config.``.
    """

    def __init__(
        self, raw: Mapping[str, Any], model_type: str, *, path: str = "",
        assumed: dict[str, str | Assumption] | None = None,
    ) -> None:  # fmt: skip
        self.raw, self.model_type, self.path = raw, model_type, path
        known = class_defaults().get(model_type, {})
        self.defaults: Mapping[str, Any] = known.get("defaults", {})
        self._sections: Mapping[str, str] = known.get("sections", {})
        self._aliases: dict[str, str] = {}
        for alias, key in known.get("aliases", {}).items():
            self._aliases[alias], self._aliases[key] = key, alias
        self._assumed = {} if assumed is None else assumed

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """What was taken for granted so far, here and in the sections; class defaults as one."""
        stated = [a for a in self._assumed.values() if isinstance(a, Assumption)]
        defaults = [a for a in self._assumed.values() if isinstance(a, str)]
        if defaults:
            text = f"not in the config, so transformers' class defaults: {', '.join(defaults)}"
            stated.append(Assumption("config-default", text))
        return tuple(stated)

    def assume(self, code: str, text: str) -> None:
        """Record something that reading this model takes for granted."""
        self._assumed[text] = Assumption(code, text)

    # -- raw access ------------------------------------------------------------------------

    def given(self, key: str) -> Any:
        """The value in the file under `key` or transformers' alias of it; None if absent."""
        value = self.raw.get(key)
        return value if value is not None else self.raw.get(self._aliases.get(key, key))

    def has(self, key: str) -> bool:
        """Whether the file itself gives a value (defaults do not count)."""
        return self.given(key) is not None

    def _value(self, key: str, fallback: Any) -> Any:
        value = self.given(key)
        if value is not None:
            return value
        default = self.defaults.get(key, self.defaults.get(self._aliases.get(key, key)))
        if default is None:
            default = fallback
        if default is not None:
            self._assumed[f"{self.path}{key}"] = f"{self.path}{key} = {json.dumps(default)}"
        return default

    def error(self, key: str, value: object, expected: str) -> ModelError:
        """An error that names this key by its full path."""
        return ModelError(f"{self.path}{key}", value, expected)

    def _missing(self, keys: list[str]) -> ModelError:
        """The error for keys that the file lacks, with keys of the file that are like them."""
        names = ", ".join(f"{self.path}{key}" for key in keys)
        there = [key for key in self.raw if self.raw[key] is not None and key not in self.defaults]
        near = [name for key in keys for name in nearest_names(key, there, n_names=1)]
        has = f" (it has {' and '.join(dict.fromkeys(near))})" if near else ""
        expected = "a whole number" if len(keys) == 1 else "a whole number for each"
        return ModelError(names, None, f"{expected} in the config{has}")

    # -- typed access ----------------------------------------------------------------------

    def require(self, *keys: str) -> tuple[builtins.int, ...]:
        """Positive integers that must stand in the file: width, depth, heads, vocabulary.

        Raises:
            ModelError: naming every key that is missing.
        """
        missing = [key for key in keys if not self.has(key)]
        if missing:
            raise self._missing(missing)
        return tuple(self.int(key) for key in keys)

    def int(self, key: str, fallback: int | None = None, *, least: int = 1) -> int:
        """A whole number of at least `least`; `fallback` stands where the class has no default."""
        value = self._value(key, fallback)
        if value is None:
            raise self._missing([key])
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
            raise self.error(key, value, f"a whole number from {least} to {LARGEST}")
        if DEPTH_KEY.search(key) and value > DEEPEST:
            raise self.error(key, value, f"at most {DEEPEST} layers")
        return value

    def optional_int(self, key: str, *, least: builtins.int = 0) -> builtins.int | None:
        """As :meth:`int`, but None where neither file nor class says anything."""
        return None if self._value(key, None) is None else self.int(key, least=least)

    def flag(self, key: str, fallback: bool = False) -> bool:
        """True or false (0 and 1 count, as Python code has them)."""
        value = self._value(key, fallback)
        if value not in (True, False):
            raise self.error(key, value, "true or false")
        return bool(value)

    def number(self, key: str, fallback: float | None = None) -> float:
        """A finite non-negative number."""
        value = self._value(key, fallback)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 <= value < LARGEST
        ):
            raise self.error(key, value, "a non-negative number")
        return float(value)

    def text(self, key: str, fallback: str = "") -> str:
        """A string."""
        value = self._value(key, fallback)
        if not isinstance(value, str):
            raise self.error(key, value, "a string")
        return value

    def sequence(self, key: str) -> list[Any] | None:
        """A list as it stands (its members are the family's to check); None if absent."""
        value = self._value(key, None)
        if value is not None and not isinstance(value, list):
            raise self.error(key, value, "a list")
        return value

    def per_layer(
        self, key: str, n_layers: builtins.int, kinds: tuple[str, ...]
    ) -> list[str] | None:
        """A list with one word a layer, each of `kinds`; None if absent."""
        value = self.sequence(key)
        if value is None:
            return None
        if len(value) != n_layers or any(v not in kinds for v in value):
            raise self.error(key, value, f"{n_layers} entries, each one of {', '.join(kinds)}")
        return value

    def section(self, key: str, model_type: str = "") -> Config | None:
        """The sub-config under `key`, sharing this one's assumptions; None if absent."""
        value = self.given(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, value, "an object")
        kind = str(value.get("model_type") or self._sections.get(key) or model_type)
        return Config(value, kind, path=f"{self.path}{key}.", assumed=self._assumed)

    def typed(self, model_type: str) -> Config:
        """The same keys read as another type, whose class loads them."""
        return Config(self.raw, model_type, path=self.path, assumed=self._assumed)

    def replacing(self, values: Mapping[str, Any]) -> Config:
        """The same config with some keys replaced (old spellings), sharing the assumptions."""
        return Config(
            {**self.raw, **values}, self.model_type, path=self.path, assumed=self._assumed
        )

    def replaced(self, **values: Any) -> Config:
        """The same config with other values for some keys, as a wrapper rules its text model."""
        raw = {**self.raw, **values}
        return Config(raw, self.model_type, path=self.path, assumed=self._assumed)

    # -- what is counted ---------------------------------------------------------------------

    @property
    def architecture(self) -> str:
        """The class whose parameters are counted: the file's, else the family's usual one."""
        named = self.raw.get("architectures")
        if isinstance(named, list) and named and isinstance(named[0], str):
            return named[0]
        classes = class_defaults().get(self.model_type, {}).get("classes", {})
        order = ("seq2seq", "masked", "causal", "image_text")
        return next((str(classes[kind]) for kind in order if kind in classes), "")

    @property
    def task(self) -> str:
        """What follows ``For`` in the class name: ``CausalLM``, ``MaskedLM``,
        ``ConditionalGeneration``, ``PreTraining``, ``SequenceClassification`` ...; ``LMHead`` for
        ``XLMHeadModel``; ``Model`` for a bare model; "" when unknown.
        """
        name = self.architecture
        if "For" in name:
            return name.rsplit("For", 1)[1]
        if name.endswith(("LMHeadModel", "WithLMHeadModel")):
            return "LMHead"
        return "Model" if name.endswith(("Model", "Encoder", "Decoder")) else ""

    @property
    def n_labels(self) -> builtins.int:
        """Classes of a classification head: ``id2label``, ``num_labels``, else 2."""
        labels = self.raw.get("id2label")
        if isinstance(labels, dict) and labels:
            return len(labels)
        value = self.raw.get("num_labels", 2)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
            raise self.error("num_labels", value, f"a whole number from 1 to {LARGEST}")
        return value
