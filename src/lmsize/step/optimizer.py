"""The optimizers that a real step can run: names of the catalogue -> classes, with their arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lmsize.catalogue import built_in
from lmsize.errors import InputError
from lmsize.step.extras import optional, require
from lmsize.step.stand_in import is_fake

LEARNING_RATE = 1e-5
IMPLEMENTATIONS = ("foreach", "fused", "loop")

_TORCH = "torch.optim"
_HF = "transformers.optimization"
_BNB = "bitsandbytes.optim"
_AO = "torchao.optim"
# name in the catalogue: (module, class, arguments)
CLASSES: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "sgd": (_TORCH, "SGD", {}),
    "sgd-momentum": (_TORCH, "SGD", {"momentum": 0.9}),
    "adam": (_TORCH, "Adam", {}),
    "adamw": (_TORCH, "AdamW", {}),
    "adamw-fused": (_TORCH, "AdamW", {"fused": True}),
    "adamw-amsgrad": (_TORCH, "AdamW", {"amsgrad": True}),
    "adamax": (_TORCH, "Adamax", {}),
    "nadam": (_TORCH, "NAdam", {}),
    "radam": (_TORCH, "RAdam", {}),
    "adagrad": (_TORCH, "Adagrad", {}),
    "rmsprop": (_TORCH, "RMSprop", {}),
    "adadelta": (_TORCH, "Adadelta", {}),
    "asgd": (_TORCH, "ASGD", {}),
    "rprop": (_TORCH, "Rprop", {}),
    "adafactor-torch": (_TORCH, "Adafactor", {}),
    "adafactor": (_HF, "Adafactor", {"scale_parameter": False, "relative_step": False}),
    "adafactor-momentum": (
        _HF, "Adafactor", {"scale_parameter": False, "relative_step": False, "beta1": 0.9},
    ),
    "adam8bit": (_BNB, "Adam8bit", {}),
    "adamw8bit": (_BNB, "AdamW8bit", {}),
    "adamw32bit": (_BNB, "AdamW32bit", {}),
    "paged-adamw": (_BNB, "PagedAdamW32bit", {}),
    "paged-adamw8bit": (_BNB, "PagedAdamW8bit", {}),
    "lion-bnb": (_BNB, "Lion32bit", {}),
    "lion8bit": (_BNB, "Lion8bit", {}),
    "paged-lion": (_BNB, "PagedLion32bit", {}),
    "paged-lion8bit": (_BNB, "PagedLion8bit", {}),
    "rmsprop-bnb": (_BNB, "RMSprop32bit", {}),
    "rmsprop8bit": (_BNB, "RMSprop8bit", {}),
    "sgd8bit": (_BNB, "SGD8bit", {"momentum": 0.9}),
    "lamb8bit": (_BNB, "LAMB8bit", {}),
    # Not AdEMAMix32bit of bitsandbytes 0.50: its state has no room for the second mean.
    "ademamix-bnb": (_BNB, "AdEMAMix", {}),
    "ademamix8bit": (_BNB, "AdEMAMix8bit", {}),
    "paged-ademamix": (_BNB, "PagedAdEMAMix", {}),
    "paged-ademamix8bit": (_BNB, "PagedAdEMAMix8bit", {}),
    "adamw8bit-torchao": (_AO, "AdamW8bit", {}),
    "adamw4bit-torchao": (_AO, "AdamW4bit", {}),
    "adamw-fp8-torchao": (_AO, "AdamWFp8", {}),
}  # fmt: skip


def _groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Groups of one mesh each: operations on lists take no tensors of several, or of none beside."""
    groups: dict[Any, list[Any]] = {}
    for param in params:
        groups.setdefault(getattr(param, "device_mesh", None), []).append(param)
    return [{"params": group} for group in groups.values()]


def built_optimizer(params: Iterable[Any], name: str, *, implementation: str | None = None) -> Any:
    """The optimizer over these parameters, those without gradients left out.

    Args:
        name: a name or alias of the catalogue (``lmsize explain optimizer_states``).
        implementation: ``foreach``, ``fused`` or ``loop``; None takes what the class takes by
            itself (torch: foreach on an accelerator, the loop on a CPU).

    Raises:
        InputError: an optimizer that has no class here, or that has no such implementation.
        ExtraError: the library that has it is not installed.
    """
    trained = [p for p in params if p.requires_grad]
    row = _row(name)
    if CLASSES[row][0] == _BNB and any(is_fake(p) for p in trained):
        from lmsize.step.stand_in.optimizers import Optimizer8bit

        _implementation(row, implementation)
        return Optimizer8bit(trained, CLASSES[row][1], lr=LEARNING_RATE)
    cls, arguments = optimizer_class(name, implementation=implementation)
    try:
        return cls(_groups(trained), lr=LEARNING_RATE, **arguments)
    except (TypeError, RuntimeError, ValueError) as error:
        if implementation is None:
            raise
        expected = f"an implementation that {name} has here ({' '.join(str(error).split())[:200]})"
        raise InputError("--optimizer-impl", implementation, expected) from error


def optimizer_class(name: str, *, implementation: str | None = None) -> tuple[Any, dict[str, Any]]:
    """The class behind an optimizer's name and its arguments, without making one.

    Raises:
        InputError, ExtraError: as :func:`built_optimizer`.
    """
    row = _row(name)
    module, cls, arguments = CLASSES[row]
    chosen = _implementation(row, implementation)
    found = getattr(optional(module, why=f"--optimizer {name}"), cls)
    return found, {**arguments, **chosen}


def class_of(name: str) -> tuple[str, str]:
    """Module and name of the class behind an optimizer's name; nothing is imported.

    Raises:
        InputError: an optimizer that has no class here.
    """
    module, cls, _ = CLASSES[_row(name)]
    return module, cls


def refuse_missing(name: str) -> None:
    """Refuse an optimizer whose library is missing and not stood in for on fake tensors.

    Raises:
        InputError, ExtraError: as :func:`built_optimizer`.
    """
    package = class_of(name)[0].partition(".")[0]
    if package != "bitsandbytes":
        require(package, why=f"--optimizer {name}", extra="")


def _row(name: str) -> str:
    row = built_in().optimizer(name).name
    if row not in CLASSES:
        expected = f"an optimizer that a library here can run: {', '.join(CLASSES)}"
        near = [known for known in CLASSES if row in known][:2]
        raise InputError("--optimizer", name, expected, nearest=near)
    return row


def _implementation(row: str, name: str | None) -> dict[str, bool]:
    if name is None:
        return {}
    if name not in IMPLEMENTATIONS:
        raise InputError("--optimizer-impl", name, f"one of {', '.join(IMPLEMENTATIONS)}")
    if CLASSES[row][0] != _TORCH:
        raise InputError(
            "--optimizer-impl", name, f"no value with {row}: its library has one implementation"
        )
    if name == "loop":
        return {"foreach": False}
    return {name: True}
