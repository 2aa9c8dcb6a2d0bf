"""A config and a spec -> the transformers model that trains, from the config alone."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lmsize.errors import InputError, ModelError, nearest_names
from lmsize.model.read import read_config
from lmsize.step.adapters import with_adapters
from lmsize.step.extras import is_installed, require
from lmsize.step.precision import step_precision
from lmsize.step.sharding import spread
from lmsize.workload.training import TrainSpec

# Keys that say how a checkpoint is stored or which code of the Hub to run: neither is wanted.
LEFT_OUT = ("quantization_config", "auto_map", "torch_dtype", "dtype", "transformers_version")


def built_model(
    config: Mapping[str, Any], spec: TrainSpec, *, device: Any = "cpu", reentrant: bool = False,
    mesh: Any = None,
) -> Any:  # fmt: skip
    """The model ready to train: its class, types, attention, adapters and checkpointing.

    The class is the one whose parameters lmsize counts. Weights are random, drawn on `device`.
    As the Trainer of transformers does, the cache of keys and values is off.

    Args:
        config: the JSON object of a ``config.json``.
        spec: with every default filled in (:func:`lmsize.workload.training.with_defaults`).
        device: where the parameters are made; a fake or meta device makes none.
        reentrant: the older kind of checkpointing, with `recompute` full.
        mesh: the ranks that the model is spread over (:func:`lmsize.step.sharding.spread`).

    Raises:
        ExtraError: torch, transformers or peft is not installed.
        ModelError: transformers has no such class, or cannot build it from this config.
        InputError: a setting that this model or plain torch does not have.
        RuntimeError: of torch, where the weights find no memory.
    """
    require("torch", "transformers")
    refuse_unknown_settings(spec, parallel=("tp",))
    cls = model_class(config)
    with _made_on(device):
        model = _from_config(cls, config, spec)
        spread(model, mesh)
    if spec.method != "full":
        model = with_adapters(model, config, spec, device=device)
    model.train()
    if spec.recompute == "full":
        _checkpoint_layers(model, reentrant=reentrant)
    return model


def model_class(config: Mapping[str, Any]) -> Any:
    """The class of transformers whose parameters lmsize counts for this config.

    Raises:
        ModelError: this transformers has none of that name, or it computes no loss.
    """
    import transformers

    name = read_config(config, name="config").architecture
    cls = getattr(transformers, name, None) if name else None
    if cls is None or not hasattr(cls, "config_class"):
        raise _no_class(name, config)
    if "labels" not in inspect.signature(cls.forward).parameters:
        raise ModelError("architectures", name, "a class that takes labels and computes a loss")
    return cls


def _no_class(name: str | None, config: Mapping[str, Any]) -> ModelError:
    """Why this model cannot be built here, and what answers without building it."""
    import transformers

    kind, release = config.get("model_type"), f"transformers {transformers.__version__}"
    if not name:
        reason = f"a class: the model_type {kind!r} has none in {release}"
    elif config.get("auto_map"):
        reason = (
            f"a class of {release}: the model's is code on the Hub, and no code of the Hub is run"
        )
    else:
        reason = (
            f"a class of {release}, older or newer ones may have it (no code of the Hub is run)"
        )
    near = nearest_names(name, dir(transformers), n_names=2) if name else []
    expected = (
        f"{reason}. --engine analytic needs none, and lmsize trace takes a module of your own"
    )
    return ModelError("architectures", name or None, expected, nearest=near)


def attention_context(spec: TrainSpec) -> AbstractContextManager[Any]:
    """What has to surround the step for its attention: torch's own flash kernel where asked."""
    if spec.attention == "flash" and attention_implementation(spec) == "sdpa":
        from torch.nn.attention import SDPBackend, sdpa_kernel

        context: AbstractContextManager[Any] = sdpa_kernel(SDPBackend.FLASH_ATTENTION)
        return context
    return nullcontext()


def attention_implementation(spec: TrainSpec) -> str:
    """The attention asked for, in the words of transformers.

    Without the package flash-attn, ``flash`` is torch's own flash kernel, which ``sdpa`` runs
    (:func:`attention_context` sees to it).
    """
    if spec.attention == "flash":
        return "flash_attention_2" if is_installed("flash_attn") else "sdpa"
    return spec.attention or "sdpa"


def refuse_unknown_settings(spec: TrainSpec, *, parallel: Collection[str] = ()) -> None:
    """Refuse what this step does not do, before anything is built.

    Args:
        parallel: the kinds of parallelism within a model that are seen to.

    Raises:
        InputError: another stack or loss, selective recomputation, lengths that vary, or parallelism
            within a model.
    """
    if spec.stack not in (None, "transformers"):
        raise InputError("--stack", spec.stack, "transformers: the real step runs its models")
    if spec.loss not in (None, "plain"):
        raise InputError("--loss", spec.loss, "plain, which the models of transformers take")
    if spec.recompute == "selective":
        raise InputError("--recompute", spec.recompute, "none or full, which transformers has")
    if spec.lengths != "equal":
        raise InputError("--lengths", spec.lengths, "equal: every step has one shape")
    if spec.sequence_parallel:
        expected = "no: the tensor parallelism of transformers keeps the stream whole on every rank"
        raise InputError("--sequence-parallel", "yes", expected)
    for name in ("tp", "pp", "cp", "ep"):
        if getattr(spec, name) != 1 and name not in parallel:
            kinds = ", ".join(("data", *("tensor" for one in parallel if one == "tp")))
            expected = f"1: the real step is {kinds}-parallel only"
            raise InputError(f"--{name}", getattr(spec, name), expected)
    step_precision(spec.precision or "")


def _made_on(device: Any) -> AbstractContextManager[Any]:
    import torch

    context: AbstractContextManager[Any] = torch.device(device)
    return context


def _from_config(cls: Any, config: Mapping[str, Any], spec: TrainSpec) -> Any:
    keys = {k: v for k, v in copy.deepcopy(dict(config)).items() if k not in LEFT_OUT}
    attention = attention_implementation(spec)
    if attention == "sdpa" and not getattr(cls, "_supports_sdpa", True):
        expected = f"eager: {cls.__name__} of transformers has no other"
        raise InputError("--attention", spec.attention, expected, nearest=["eager"])
    try:
        settings = cls.config_class.from_dict(keys)
        settings.use_cache = False
        _name_tokens(settings)
        model = cls._from_config(  # what AutoModel.from_config calls
            settings,
            dtype=step_precision(spec.precision or "").weights,
            attn_implementation=attention,
        )
        _untie_head(model, config)
    except (MemoryError, RuntimeError):  # no memory for the weights: the caller's to tell
        raise
    except Exception as error:  # configs are checked by transformers, in many ways
        said = " ".join(str(error).split())[:300]
        told = "does not know" if isinstance(error, KeyError) else f"says {type(error).__name__}:"
        expected = f"one that transformers can build: it {told} {said}"
        raise ModelError("config.json", cls.__name__, expected) from error
    else:
        return model


def _untie_head(model: Any, config: Mapping[str, Any]) -> None:
    """A head of its own, where the config has one though the class ties it (T5's, always).

    So does ``from_pretrained`` leave it that finds both in the weights (``tie_weights``).
    """
    import torch

    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if config.get("tie_word_embeddings") is False and getattr(head, "weight", None) is table.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())


def _name_tokens(settings: Any) -> None:
    """Ids by which an encoder-decoder shifts its labels, where the config has none: any will do."""
    if not getattr(settings, "is_encoder_decoder", False):
        return
    for name in ("pad_token_id", "decoder_start_token_id"):
        if getattr(settings, name, None) is None:
            setattr(settings, name, 0)


def _checkpoint_layers(model: Any, *, reentrant: bool) -> None:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    try:
        # "activation" is the newer name of the same switch.
        enable = getattr(base, "activation_checkpointing_enable", None)
        if enable is not None:
            enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})
        else:
            base.gradient_checkpointing_enable({"use_reentrant": reentrant})
    except ValueError as error:
        raise InputError("--recompute", "full", f"none: {error}") from error
