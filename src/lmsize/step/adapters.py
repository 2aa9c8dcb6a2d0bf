"""LoRA as peft makes it, on exactly the modules that lmsize counts; a quantised base for QLoRA."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from lmsize.errors import ExtraError, InputError
from lmsize.model.parts import Experts, Linear
from lmsize.model.read import read_config
from lmsize.model.spec import ModelSpec
from lmsize.step.extras import is_installed, require
from lmsize.step.precision import step_precision
from lmsize.workload.adapters import adapter_model
from lmsize.workload.training import TrainSpec

QUANTISED = ("nf4", "int4", "int8")


def with_adapters(model: Any, config: Mapping[str, Any], spec: TrainSpec, *, device: Any) -> Any:
    """The model with its base frozen (quantised for qlora) and LoRA adapters in fp32.

    Everything not said is peft's default: no dropout, alpha 8, adapters in fp32 over a 16-bit base.

    Raises:
        ExtraError: peft, or bitsandbytes for qlora, is not installed.
        InputError: targets that the model does not have.
    """
    require("peft", why=f"--method {spec.method}")
    from peft import LoraConfig, get_peft_model

    architecture = read_config(config, name="config")
    modules, experts = adapted_modules(architecture, spec)
    if spec.method == "qlora":
        model = quantised(model, spec, device=device)
    lora = LoraConfig(
        r=spec.lora_rank,
        # Not peft's own "all-linear": for some mixtures it turns into experts and routers as well.
        target_modules=modules,
        target_parameters=experts or None,
    )
    try:
        with warnings.catch_warnings():
            # peft warns of its own calls into transformers and of the transposed weights of GPT-2,
            # which it handles.
            warnings.simplefilter("ignore")
            return get_peft_model(model, lora)
    except ValueError as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(
            "--lora-targets", spec.lora_targets, f"modules that peft adapts ({said})"
        ) from error


def adapted_modules(architecture: ModelSpec, spec: TrainSpec) -> tuple[list[str], list[str]]:
    """Path ends of the linears that get an adapter, and of the experts' parameters."""
    adapters = adapter_model(
        architecture,
        rank=spec.lora_rank or 1,
        targets=spec.lora_targets or "",
        experts=spec.lora_experts,
    )
    modules, experts = set(), set()
    for _, run in adapters.runs():
        for part in run.block.parts:
            if isinstance(part, Linear):
                modules.add(part.name.removesuffix(".lora_A").removesuffix(".lora_B"))
            elif isinstance(part, Experts):
                experts |= {f"{part.name}.{name.partition('.')[0]}" for name, _, _ in part.matrices}
    return sorted(modules), sorted(experts)


def quantised(model: Any, spec: TrainSpec, *, device: Any) -> Any:
    """The base with its linears in 4 or 8 bits by bitsandbytes, prepared as peft prescribes.

    The weights are quantised as they arrive on `device`; what stays is cast to fp32.
    """
    if spec.quant not in QUANTISED:
        raise InputError("--quant", spec.quant, f"one of {', '.join(QUANTISED)}, by bitsandbytes")
    if not is_installed("bitsandbytes"):
        raise ExtraError("bitsandbytes", "--method qlora")
    from peft import prepare_model_for_kbit_training

    kind = "is_loaded_in_8bit" if spec.quant == "int8" else "is_loaded_in_4bit"
    head = model.get_output_embeddings()
    compute = step_precision(spec.precision or "").weights
    for path, linear in list(model.named_modules()):
        if linear is not head and _is_linear(linear):
            model.set_submodule(path, _in_few_bits(linear, spec.quant, compute).to(device))
    setattr(model, kind, True)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def _is_linear(module: Any) -> bool:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return type(module) is nn.Linear or isinstance(module, Conv1D)


def _in_few_bits(linear: Any, quant: str, compute: Any) -> Any:
    """The module of bitsandbytes that holds a linear's weight; it quantises on its way to a device."""
    import bitsandbytes as bnb
    from torch import nn

    weight = linear.weight.data
    if type(linear) is not nn.Linear:  # Conv1D of GPT-2 keeps its weight transposed
        weight = weight.T.contiguous()
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
