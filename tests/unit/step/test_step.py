"""The real step: the very class, the very counts, the phases in order, on tiny models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lmsize.errors import ExtraError, InputError, ModelError
from lmsize.model.count import n_params
from lmsize.model.read import read_config
from lmsize.step import extras
from lmsize.step.batch import batch
from lmsize.step.model import built_model, model_class
from lmsize.step.optimizer import CLASSES, built_optimizer
from lmsize.step.training import built_step
from lmsize.workload.adapters import adapter_model
from lmsize.workload.training import TrainSpec, with_defaults


def spec(**said: Any) -> TrainSpec:
    said = {"seq_len": 16, "micro_batch": 2, "precision": "fp32"} | said
    return with_defaults(TrainSpec(**said), max_positions=64)[0]


def count(model: Any, *, trainable: bool = False) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def test_the_model_is_the_one_that_is_counted(config: dict[str, Any]) -> None:
    model = built_model(config, spec())
    assert type(model).__name__ == config["architectures"][0]
    assert count(model) == n_params(read_config(config, name="tiny"))
    assert model.training
    assert model.config.use_cache is False


@pytest.mark.parametrize("targets", ["all-linear", "attention"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_are_those_that_are_counted(
    config: dict[str, Any], targets: str, precision: str
) -> None:
    asked = spec(method="lora", lora_rank=3, lora_targets=targets, precision=precision)
    model = built_model(config, asked)
    adapters = adapter_model(read_config(config, name="tiny"), rank=3, targets=targets)
    assert count(model, trainable=True) == n_params(adapters)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_named_targets_and_experts_are_adapted(llama: dict[str, Any]) -> None:
    model = built_model(llama, spec(method="lora", lora_rank=2, lora_targets="q_proj,v_proj"))
    assert count(model, trainable=True) == 3 * 2 * ((48 + 48) + (48 + 24))


def test_experts_get_adapters_when_asked(llama: dict[str, Any]) -> None:
    mixtral = llama | {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 4,
    }  # fmt: skip
    model = built_model(mixtral, spec(method="lora", lora_rank=2, lora_experts=True))
    counted = adapter_model(
        read_config(mixtral, name="tiny"), rank=2, targets="all-linear", experts=True
    )
    assert count(model, trainable=True) == n_params(counted)


@pytest.mark.parametrize(
    "said",
    [
        {}, {"recompute": "full"}, {"method": "lora"}, {"method": "lora", "recompute": "full"},
        {"precision": "amp-bf16"}, {"precision": "bf16", "attention": "eager"},
    ],
)  # fmt: skip
def test_a_step_moves_the_weights_that_train_and_no_others(
    config: dict[str, Any], said: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    step = built_step(config, spec(**said))
    before = {name: p.detach().clone() for name, p in step.model.named_parameters()}
    for _ in range(2):
        loss = step.run()
    assert torch.isfinite(loss)
    moved = {n for n, p in step.model.named_parameters() if not torch.equal(p, before[n])}
    trained = {n for n, p in step.model.named_parameters() if p.requires_grad}
    assert moved
    assert moved <= trained
    assert all(p.grad is None for p in step.model.parameters())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_no_gradient(llama: dict[str, Any], reentrant: bool) -> None:
    gradients = []
    for recompute in ("none", "full"):
        torch.manual_seed(1)
        model = built_model(llama, spec(recompute=recompute), reentrant=reentrant)
        inputs = batch(llama, micro_batch=2, seq_len=16)
        model(**inputs).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_checkpointing_saves_less(llama: dict[str, Any]) -> None:
    def saved_bytes(recompute: str) -> int:
        total = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        model = built_model(llama, spec(recompute=recompute))
        inputs = batch(llama, micro_batch=2, seq_len=16)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(**inputs)
        return total

    assert saved_bytes("full") < saved_bytes("none") / 3


def test_phases_come_in_order(llama: dict[str, Any]) -> None:
    seen: list[tuple[str, int]] = []
    step = built_step(
        llama, spec(grad_accum=2), clip_grad_norm=1.0, on_phase=lambda *at: seen.append(at)
    )
    step.run()
    assert seen == [
        ("forward", 0), ("backward", 0), ("forward", 1), ("backward", 1), ("clip", -1),
        ("optimizer", -1), ("zero_grad", -1), ("end", -1),
    ]  # fmt: skip


def test_accumulated_gradients_are_the_mean(llama: dict[str, Any]) -> None:
    torch.manual_seed(0)
    step = built_step(llama, spec(grad_accum=2, optimizer="sgd"))
    weight = step.model.lm_head.weight
    before = weight.detach().clone()
    means = torch.zeros_like(weight)
    for inputs in step.micro_batches:
        step.model(**inputs).loss.backward()
        means += weight.grad / 2
        step.model.zero_grad()
    step.run()
    torch.testing.assert_close(weight, before - 1e-5 * means)


def test_outputs_are_kept_only_when_asked(llama: dict[str, Any]) -> None:
    """The logits outlive the loss only with `keep_outputs`: what the loss saved stays in any case."""
    import weakref

    for keep in (False, True):
        alive: list[bool] = []
        logits: list[weakref.ref[torch.Tensor]] = []

        def look(phase: str, _micro: int, alive: list[bool] = alive, logits: Any = logits) -> None:
            if phase == "backward":
                alive.append(logits[-1]() is not None)

        step = built_step(llama, spec(), keep_outputs=keep, on_phase=look)
        step.model.register_forward_hook(
            lambda _m, _i, out, logits=logits: logits.append(weakref.ref(out))
        )
        step.run()
        assert alive == [keep]


def test_half_precision_types(llama: dict[str, Any]) -> None:
    assert {p.dtype for p in built_model(llama, spec(precision="bf16")).parameters()} == {
        torch.bfloat16
    }
    amp = built_step(llama, spec(precision="amp-fp16"))
    assert {p.dtype for p in amp.model.parameters()} == {torch.float32}
    assert amp.scaler is not None
    assert built_step(llama, spec(precision="amp-fp16"), scale_loss=False).scaler is None


def test_tf32_lasts_for_the_step_alone(llama: dict[str, Any]) -> None:
    seen = []
    step = built_step(
        llama, spec(precision="tf32"),
        on_phase=lambda *_: seen.append(torch.get_float32_matmul_precision()),
    )  # fmt: skip
    step.run()
    assert seen[0] == "high"
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("name", [n for n, row in CLASSES.items() if row[0] in {"torch.optim", "transformers.optimization"}])  # fmt: skip
def test_optimizers_of_torch_and_transformers_step(llama: dict[str, Any], name: str) -> None:
    torch.manual_seed(0)
    step = built_step(llama | {"num_hidden_layers": 1}, spec(optimizer=name))
    step.run()
    assert torch.isfinite(step.run())


@pytest.mark.parametrize("implementation", ["foreach", "fused", "loop"])
def test_implementations_of_adamw(llama: dict[str, Any], implementation: str) -> None:
    model = built_model(llama | {"num_hidden_layers": 1}, spec())
    optimizer = built_optimizer(model.parameters(), "adamw", implementation=implementation)
    group = optimizer.param_groups[0]
    assert bool(group["foreach"]) == (implementation == "foreach")
    assert bool(group["fused"]) == (implementation == "fused")


def test_every_class_is_a_row_of_the_catalogue() -> None:
    from lmsize.catalogue import built_in

    for name in CLASSES:
        assert built_in().optimizer(name).name == name


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"precision": "fp8"}, "--precision"),
        ({"pp": 2}, "--pp"),
        ({"recompute": "selective"}, "--recompute"),
        ({"stack": "megatron"}, "--stack"),
        ({"method": "lora", "lora_targets": "k_porj"}, "k_proj"),
    ],
)
def test_what_the_step_does_not_do_is_refused(
    llama: dict[str, Any], said: dict[str, Any], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        built_model(llama, spec(**said))


@pytest.mark.parametrize("name", ["lion", "shampoo", "adamwx"])
def test_optimizers_that_no_library_here_has_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="--optimizer"):
        built_optimizer([torch.nn.Parameter(torch.zeros(2))], name)


def test_missing_libraries_are_named(llama: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _name: None)
    with pytest.raises(ExtraError, match=r"lmsize\[measure\]"):
        built_model(llama, spec())
    with pytest.raises(ExtraError, match="bitsandbytes"):
        built_optimizer([torch.nn.Parameter(torch.zeros(2))], "adamw8bit")


def test_unknown_classes_are_refused(llama: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="LlamaForCausalLM"):
        model_class(llama | {"architectures": ["LlamaForCausalLN"]})
    with pytest.raises(ModelError, match="labels"):
        model_class(llama | {"architectures": ["LlamaModel"]})


def test_a_config_that_transformers_refuses_is_an_input_error(llama: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        built_model(llama | {"rope_parameters": {"rope_type": "no such"}}, spec())


def test_batches_hold_no_special_tokens() -> None:
    t5 = {"model_type": "t5", "d_model": 8, "num_layers": 1, "num_heads": 1, "d_ff": 8, "d_kv": 8,
          "vocab_size": 4, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}  # fmt: skip
    inputs = batch(t5, micro_batch=3, seq_len=40)
    assert {name: tuple(x.shape) for name, x in inputs.items()} == {
        "input_ids": (3, 40), "labels": (3, 40),
    }  # fmt: skip
    assert {x.dtype for x in inputs.values()} == {torch.int64}
    assert set(inputs["input_ids"].unique().tolist()) == {2, 3}
    assert not torch.equal(inputs["input_ids"], inputs["labels"])
