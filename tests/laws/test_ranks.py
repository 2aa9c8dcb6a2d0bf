"""All ranks of a layout hold the model's weights, gradients and states between them, once each.

But for what is said: replicas that no ZeRO stage divides hold it as often as there are replicas,
tensor-parallel ranks each hold what no degree divides (norms), and shards are padded.
"""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from lmsize.catalogue import built_in
from lmsize.estimate.question import training_question
from lmsize.layout.shares import stages, stored_parts
from lmsize.memory.model_states import gradients, held_throughout, states
from lmsize.memory.training_setup import TrainingSetup
from lmsize.memory.units import padded
from lmsize.model.read import read_config
from lmsize.workload.training import TrainSpec

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8,
    "vocab_size": 1000, "intermediate_size": 160, "tie_word_embeddings": False,
}  # fmt: skip
MIXTURE = LLAMA | {
    "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 4,
    "num_experts_per_tok": 2,
}  # fmt: skip
# dp, tp, pp, ep, zero
NEVER = 4  # a stage that divides nothing
LAYOUTS = [
    (1, 1, 1, 1, 0), (1, 4, 1, 1, 0), (1, 1, 3, 1, 0), (4, 1, 1, 1, 0), (4, 2, 3, 1, 1), (8, 1, 1, 1, 1),
    (4, 1, 1, 1, 2), (3, 2, 1, 1, 2), (8, 1, 1, 1, 3), (5, 2, 1, 1, 3), (4, 1, 3, 1, 3), (4, 1, 1, 4, 1),
    (8, 1, 2, 2, 1),
]  # fmt: skip
CONFIGS = {"dense": LLAMA, "mixture": MIXTURE}
CASES = [(kind, one) for kind in CONFIGS for one in LAYOUTS if kind == "mixture" or one[3] == 1]


def setup_of(config: dict[str, Any], **asked: Any) -> TrainingSetup:
    return training_question(
        read_config(config, name="law"), TrainSpec(precision="bf16", seq_len=64, **asked),
        built_in(), accelerator=None, today=date(2026, 1, 1),
    ).setup  # fmt: skip


def over_all_ranks(setup: TrainingSetup) -> dict[str, float]:
    """Bytes of weights, gradients and states of every rank of every stage."""
    layout = setup.layout
    found = {"weights": 0.0, "gradients": 0.0, "states": 0.0}
    for stage in stages(setup.model, layout.pp):
        own = whole = list(stored_parts(stage, layout, trainable=True))
        if setup.is_in_units:
            own = [padded(one, setup.shards(2, expert=one.is_expert)) for one in whole]
        n_ranks = layout.n_accelerators // layout.pp
        held = held_throughout(setup, own, [], own, frozen=False)
        found["weights"] += n_ranks * next(t.value for t in held if t.label == "weights")
        found["gradients"] += (
            n_ranks * gradients(setup, whole if setup.defers_reduction else own).value
        )
        found["states"] += n_ranks * states(setup, own, frozen=False).value
    return found


def n_numbers(setup: TrainingSetup, *, divided: bool) -> tuple[int, int]:
    """Numbers that all ranks hold of the model, and how many shards they come in at most.

    Args:
        divided: whether ZeRO divides them over the replicas.
    """
    layout, total, most_padding = setup.layout, 0, 0
    for _, run in setup.model.runs():
        for part in run.block.parts:
            for one in part.parameters():
                n = run.n_copies * one.n_tensors
                expert = one.kind == "expert"
                n_replicas = layout.n_expert_replicas if expert else layout.n_replicas
                each = layout.tp if not expert and one.split is None else 1
                held = each * (1 if divided else n_replicas)
                size = 1
                for length in one.shape:
                    size *= length
                total += n * size * held
                # A row more on each rank, of rows as short as the tensor's.
                most_padding += n * size // one.shape[0] * n_replicas * each if divided else 0
    return total, most_padding


@pytest.mark.parametrize("stack", ["transformers", "deepspeed", "megatron"])
@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_ranks_hold_the_whole_between_them(kind: str, layout: tuple[int, ...], stack: str) -> None:
    dp, tp, pp, ep, zero = layout
    setup = setup_of(
        CONFIGS[kind], stack=stack, tp=tp, pp=pp, ep=ep, zero=zero, accelerators=dp * tp * pp,
        grad_accum=2,
    )  # fmt: skip
    found = over_all_ranks(setup)
    recipe = setup.recipe
    waiting = (setup.unreduced_type, NEVER) if setup.defers_reduction else (recipe.gradients, 2)
    for name, dtype, stage in (
        ("weights", recipe.weights, setup.weights_stage),
        ("gradients", *waiting),
    ):
        size = setup.precision(dtype).bits / 8
        n, padding = n_numbers(setup, divided=zero >= stage and setup.layout.n_replicas > 1)
        assert n * size <= found[name] <= (n + padding) * size, name
    shares = zero >= 1 or stack == "deepspeed"  # whose BF16_Optimizer does so without ZeRO
    n, padding = n_numbers(setup, divided=shares and setup.layout.n_replicas > 1)
    size = setup.precision(recipe.states).bits / 8
    # Adam's two moments, and a step count a tensor.
    assert 2 * n * size <= found["states"] <= 2 * (n + padding) * size + 8 * 10_000
