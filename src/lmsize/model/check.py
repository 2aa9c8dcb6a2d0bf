"""What no class takes, whatever family reads the config: types and names of keys that many share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmsize.errors import ModelError, nearest_names
from lmsize.model.conduct import (
    ACTIVATION,
    ATTENTION_DROPOUT,
    EMBEDDING_DROPOUT,
    GATED_T5,
    HIDDEN_DROPOUT,
)
from lmsize.model.config import LARGEST, Config, class_defaults
from lmsize.model.parts import AttentionCore
from lmsize.model.spec import ModelSpec

# transformers 5.23.0, activations.py (ACT2CLS); then names that models' own code takes.
ACTIVATIONS = frozenset(
    ("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh",
     "gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu",
     "relu", "relu2", "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh", "xielu",
     "situ", "swiglu", "swigluoai", *GATED_T5)
)  # fmt: skip
RATES = (*HIDDEN_DROPOUT, *ATTENTION_DROPOUT, *EMBEDDING_DROPOUT, "activation_dropout")
OBJECTS = ("quantization_config", "rope_scaling", "rope_parameters")


def check_config(config: Config) -> None:
    """Check a config and its sections.

    Raises:
        ModelError: names the key by its path, what was expected, and the nearest name.
    """
    _check_architectures(config)
    for one in (config, *_sections(config)):
        _check_activations(one)
        _check_rates(one)
        _check_positions(one)
        for key in OBJECTS:
            value = one.raw.get(key)
            if value is not None and not isinstance(value, dict):
                raise one.error(key, value, "an object, or null")
    _check_method(config)


def check_runs(model: ModelSpec) -> None:
    """Refuse key-value heads that query heads cannot share evenly: they can be counted, but do not run.

    Raises:
        ModelError: with the nearest numbers of them that can.
    """
    cores = (part for _, run in model.runs() for part in run.block.parts)
    for heads, shared in {
        (core.n_heads, core.n_kv_heads) for core in cores if isinstance(core, AttentionCore)
    }:
        if heads % shared:
            even = [n for n in range(1, heads + 1) if heads % n == 0]
            near = sorted(sorted(even, key=lambda n: abs(n - shared))[:2])
            expected = f"a divisor of num_attention_heads, {heads}"
            raise ModelError("num_key_value_heads", shared, expected, nearest=near)


def _sections(config: Config) -> Iterator[Config]:
    for key, value in config.raw.items():
        if key.endswith("_config") and key != "quantization_config" and isinstance(value, dict):
            section = config.section(key)
            if section is not None:
                yield section


def _check_activations(config: Config) -> None:
    if config.model_type not in class_defaults():
        return  # another's code decides
    for key in ACTIVATION:
        value = config.raw.get(key)
        if value is None or isinstance(value, dict):
            continue
        if not isinstance(value, str):
            raise config.error(key, value, "the name of an activation, such as silu or gelu")
        if value not in ACTIVATIONS:
            near = nearest_names(value, sorted(ACTIVATIONS), n_names=2)
            expected = "the name of an activation, such as silu or gelu"
            raise ModelError(f"{config.path}{key}", value, expected, nearest=near)


def _check_rates(config: Config) -> None:
    for key in RATES:
        value = config.raw.get(key)
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
            raise config.error(key, value, "a rate from 0 to 1")


def _check_positions(config: Config) -> None:
    window = config.raw.get("sliding_window")
    if window is not None and not (
        isinstance(window, int) and not isinstance(window, bool) and 0 <= window <= LARGEST
    ):
        raise config.error("sliding_window", window, "a whole number of tokens, or null")
    theta = config.raw.get("rope_theta")
    if theta is not None and not (
        isinstance(theta, int | float) and not isinstance(theta, bool) and 0 < theta < float("inf")
    ):
        raise config.error("rope_theta", theta, "a number above 0")


def _check_architectures(config: Config) -> None:
    named: Any = config.raw.get("architectures")
    if named is not None and not (
        isinstance(named, list) and all(isinstance(name, str) for name in named)
    ):
        raise config.error("architectures", named, "a list of names of classes")


def _check_method(config: Config) -> None:
    """Say that a stored quantisation is not taken by itself."""
    stored = config.raw.get("quantization_config")
    if not stored:
        return
    method = stored.get("quant_method")
    if method is not None and not isinstance(method, str):
        raise config.error("quantization_config.quant_method", method, "a name, such as gptq")
    text = (
        f"the checkpoint is stored as {method or 'its quantization_config says'}: weights are counted in the "
        "type of --precision all the same, unless --quant says another"
    )
    config.assume("stored-quantised", text)
