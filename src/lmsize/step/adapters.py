"""LoRA as peft makes it, on exactly the modules that lmsize counts; a quantised base for QLoRA."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from lmsize.errors import InputError
from lmsize.model.adapted import SAVED
from lmsize.model.parts import Experts, Linear
from lmsize.model.read import read_config
from lmsize.model.spec import ModelSpec
from lmsize.step.extras import require
from lmsize.step.few_bits import quantised
from lmsize.step.stand_in import is_fake
from lmsize.workload.adapters import adapter_model
from lmsize.workload.training import TrainSpec


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
        modules_to_save=names_in(spec.modules_to_save),
    )
    if spec.method == "qlora" and any(is_fake(param) for param in model.parameters()):
        from lmsize.step.stand_in.layers import lora_layers

        lora._register_custom_module(lora_layers())  # noqa: SLF001  # peft's way for own linears
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


def names_in(text: str | None) -> list[str] | None:
    """The names of a list, None for none."""
    return [name.strip() for name in (text or "").split(",") if name.strip()] or None


def adapted_modules(architecture: ModelSpec, spec: TrainSpec) -> tuple[list[str], list[str]]:
    """Path ends of the linears that get an adapter, and of the experts' parameters."""
    adapters = adapter_model(
        architecture,
        rank=spec.lora_rank or 1,
        targets=spec.lora_targets or "",
        experts=spec.lora_experts,
        saved=spec.modules_to_save or "",
    )
    modules, experts = set(), set()
    for _, run in adapters.runs():
        for part in run.block.parts:
            if isinstance(part, Linear) and not part.name.endswith(SAVED):
                modules.add(part.name.removesuffix(".lora_A").removesuffix(".lora_B"))
            elif isinstance(part, Experts):
                experts |= {f"{part.name}.{name.partition('.')[0]}" for name, _, _ in part.matrices}
    return sorted(modules), sorted(experts)
