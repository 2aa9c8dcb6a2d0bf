"""The judge: what the real allocator of the CPU reports of a real step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lmsize.workload.training import TrainSpec, with_defaults

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 503, "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}  # fmt: skip


def filled(**options: Any) -> TrainSpec:
    """A small question with its defaults."""
    small = {"micro_batch": 2, "seq_len": 48}
    spec, _ = with_defaults(TrainSpec(**{**small, **options}), max_positions=None)
    return spec


def held_bytes(step: Any) -> int:
    """Bytes of everything that lives on between steps, each storage once."""
    import torch

    def tensors(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            yield value
        elif hasattr(value, "values"):
            for member in value.values():
                yield from tensors(member)
        elif isinstance(value, list | tuple):
            for member in value:
                yield from tensors(member)

    lasting = [*step.model.parameters(), *step.model.buffers(), *scales(step.model)]
    lasting += [*tensors(step.optimizer.state), *tensors(list(step.micro_batches))]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in lasting}
    return sum(storages.values())


def scales(model: Any) -> Iterator[Any]:
    """What bitsandbytes reads weights of few bits by: its layers keep it as no parameter or buffer."""
    for module in model.modules():
        state = getattr(module, "quant_state", None)
        if state is not None:
            yield from (state.absmax, state.code)
            if state.nested:
                yield from (state.offset, state.state2.absmax, state.state2.code)
        elif hasattr(getattr(module, "state", None), "SCB"):
            yield module.state.SCB


def real_peak_bytes(build: Callable[[], Any]) -> int:
    """The peak of the second real step, by the events that the allocator tells the profiler."""
    from torch.profiler import ProfilerActivity, profile

    step = build()
    step.run()
    held = held_bytes(step)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step.run()
    found = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    found.sort(key=lambda event: event.start_ns())
    live = highest = 0
    for event in found:
        live += event.nbytes()
        highest = max(highest, live)
    return held + highest


@pytest.fixture(scope="session")
def real_peak() -> Callable[[Callable[[], Any]], int]:
    return real_peak_bytes


@pytest.fixture(scope="session", name="filled")
def filled_fixture() -> Callable[..., TrainSpec]:
    return filled


@pytest.fixture(scope="session")
def llama() -> dict[str, Any]:
    return LLAMA
