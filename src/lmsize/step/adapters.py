"""LoRA as peft makes it, on exactly the modules that lmsize counts; a quantised base for QLoRA."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from unittest import mock

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

    if spec.modules_to_save:
        _refuse_whole_modules(model, spec)
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
        use_dora=spec.adapter == "dora",
        use_rslora=spec.adapter == "rslora",
    )
    if spec.method == "qlora" and any(is_fake(param) for param in model.parameters()):
        from lmsize.step.stand_in.layers import lora_layers

        lora._register_custom_module(lora_layers())  # noqa: SLF001  # peft's way for own linears
    try:
        with warnings.catch_warnings():
            # peft warns of its own calls into transformers and of the transposed weights of GPT-2,
            # which it handles.
            warnings.simplefilter("ignore")
            with _targets_as_named():
                adapted = get_peft_model(model, lora)
    except ValueError as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(
            "--lora-targets", spec.lora_targets, f"modules that peft adapts ({said})"
        ) from error
    _refuse_divided_twice(adapted, spec)
    return adapted


def _refuse_whole_modules(model: Any, spec: TrainSpec) -> None:
    """Refuse modules that are trained whole where their copies go astray."""
    if getattr(model, "_device_mesh", None) is not None:
        expected = (
            "no modules with --tp: peft trains a copy, whose forward transformers leaves bound to the "
            "original, so that the copy gets no gradient in a real step either"
        )
        raise InputError("--modules-to-save", spec.modules_to_save, expected)
    if any(is_fake(param) for param in model.parameters()):
        expected = "no modules with --engine trace: views of copied fake tensors go astray"
        raise InputError("--modules-to-save", spec.modules_to_save, expected)


def _refuse_divided_twice(model: Any, spec: TrainSpec) -> None:
    """Refuse adapters whose input tensor parallelism would divide again: their forward fails.

    peft 0.21 gives the adapter of a layer divided by rows the width of this rank's part, and
    transformers 5.23 takes a module's width for the whole (``RowwiseParallel``).
    """
    from torch import nn
    from torch.distributed.tensor import DTensor

    twice = {
        path.split(".lora_A")[0].rpartition(".")[2]
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and isinstance(module.weight, DTensor)
        and module.weight.shape[1] != module.in_features
    }  # fmt: skip
    if twice:
        expected = (
            f"layers that --tp divides by columns: peft gives adapters of {', '.join(sorted(twice))} the "
            "width of one rank's part, which transformers divides once more, so that a real step fails too"
        )
        raise InputError("--lora-targets", spec.lora_targets, expected)


def names_in(text: str | None) -> list[str] | None:
    """The names of a list, None for none."""
    return [name.strip() for name in (text or "").split(",") if name.strip()] or None


@contextmanager
def _targets_as_named() -> Iterator[None]:
    """While it lasts, targets are what they name.

    For mixtures that transformers 5 fuses, peft turns every ``gate_proj`` (of dense layers and shared
    experts too) into the routed experts' parameters, for adapters made under transformers 4.
    """
    module = "peft.utils.transformers_weight_conversion"
    if find_spec(module) is None:  # a peft that converts nothing
        yield
        return
    name = f"{module}.convert_peft_config_for_transformers"
    with mock.patch(name, return_value=None):
        yield


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
