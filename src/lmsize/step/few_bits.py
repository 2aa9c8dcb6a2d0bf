"""A base whose linears are in 4 or 8 bits, by bitsandbytes or what stands in for it."""

from __future__ import annotations

from typing import Any

from lmsize.errors import InputError
from lmsize.step.extras import require
from lmsize.step.precision import step_precision
from lmsize.step.stand_in import is_fake
from lmsize.workload.training import TrainSpec

QUANTISED = ("nf4", "int4", "int8")


def quantised(model: Any, spec: TrainSpec, *, device: Any) -> Any:
    """The base with its linears in few bits, prepared as peft prescribes.

    The weights are quantised as they arrive on `device`; what stays is cast to fp32.

    Raises:
        InputError: a type that bitsandbytes does not have.
        ExtraError: it is not installed, and the weights are real.
    """
    if spec.quant not in QUANTISED:
        raise InputError("--quant", spec.quant, f"one of {', '.join(QUANTISED)}, by bitsandbytes")
    fake = any(is_fake(param) for param in model.parameters())
    if not fake:
        require("bitsandbytes", why="--method qlora", extra="")
    from peft import prepare_model_for_kbit_training

    left = _left_alone(model)
    compute = step_precision(spec.precision or "").weights
    made = _standing_in if fake else _in_few_bits
    for path, linear in list(model.named_modules()):
        if linear not in left and _is_linear(linear):
            model.set_submodule(path, made(linear, spec.quant, compute).to(device))
    kind = "is_loaded_in_8bit" if spec.quant == "int8" else "is_loaded_in_4bit"
    setattr(model, kind, True)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def _left_alone(model: Any) -> set[Any]:
    """What transformers does not quantise: the head, and what the class keeps in fp32 (T5)."""
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    named = {m for path, m in model.named_modules() if kept.intersection(path.split("."))}
    return {model.get_output_embeddings(), *named}


def _is_linear(module: Any) -> bool:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return type(module) is nn.Linear or isinstance(module, Conv1D)


def _weight(linear: Any) -> Any:
    """A linear's weight as (n_out, n_in)."""
    from torch import nn

    weight = linear.weight.data
    # Conv1D of GPT-2 keeps its weight transposed.
    return weight if type(linear) is nn.Linear else weight.T.contiguous()


def _standing_in(linear: Any, quant: str, compute: Any) -> Any:
    from lmsize.step.stand_in.linears import Linear4bit, Linear8bitLt

    if quant == "int8":
        return Linear8bitLt(_weight(linear), linear.bias)
    return Linear4bit(_weight(linear), linear.bias, compute=compute)


def _in_few_bits(linear: Any, quant: str, compute: Any) -> Any:
    """The module of bitsandbytes that holds a linear's weight; it quantises on its way to a device."""
    import bitsandbytes as bnb

    weight = _weight(linear)
    n_out, n_in = weight.shape
    has_bias = linear.bias is not None
    module: Any
    if quant == "int8":
        module = bnb.nn.Linear8bitLt(n_in, n_out, has_bias, has_fp16_weights=False, device="meta")
        module.weight = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
    else:
        kind = "nf4" if quant == "nf4" else "fp4"
        module = bnb.nn.Linear4bit(
            n_in, n_out, has_bias, compute, quant_type=kind, compress_statistics=True, device="meta"
        )
        module.weight = bnb.nn.Params4bit(
            weight.cpu(), requires_grad=False, quant_type=kind, compress_statistics=True,
            module=module,
        )  # fmt: skip
    module.bias = linear.bias
    return module
