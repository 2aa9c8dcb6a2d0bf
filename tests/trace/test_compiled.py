"""What torch's partitioner keeps of a compiled block, beside the tape's torchtitan."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from lmsize.memory.stack_styles import STYLES
from lmsize.model.read import read_config
from lmsize.stacks import torchtitan
from lmsize.stacks.layer import layer_program
from lmsize.stacks.setting import Setting
from lmsize.tape.pieces import piece

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
WIDTH, HEADS, KV_HEADS, INNER, LENGTH, BATCH = 256, 8, 2, 896, 128, 2
HEAD = WIDTH // HEADS
STREAM = BATCH * LENGTH * WIDTH * 2
CONFIG = {
    "model_type": "llama", "hidden_size": WIDTH, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "intermediate_size": INNER, "num_hidden_layers": 2, "vocab_size": 1000,
}  # fmt: skip


def taped(*, selective: bool, style: Any = STYLES["torchtitan"]) -> float:
    model = read_config(CONFIG, name="small")
    block = next(run.block for _, run in model.runs() if run.block.role == "layer")
    setting = Setting(
        micro_batch=BATCH, seq_len=LENGTH, weight_itemsize=2, conduct=model.conduct, head_dim=HEAD
    )
    program = layer_program(block, setting, style, width=WIDTH, itemsize=2, needs_grad=True)
    keeps = torchtitan.keeps if selective else None
    return float(piece(program, checkpointed=selective, keeps=keeps).saved / STREAM)


def compiled(layer: Any, kept: Callable[[Any], Any] | None) -> float:
    """Streams of the input's size that the compiled layer saves, parameters left out."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    own = {p.data_ptr() for p in layer.parameters()}
    if kept is not None:
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
        layer = checkpoint_wrapper(
            layer, context_fn=partial(kept, attention), preserve_rng_state=False
        )
    layer = torch.compile(layer, backend="aot_eager_decomp_partition", fullgraph=True)
    x = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    table = torch.polar(torch.ones(LENGTH, HEAD // 2), torch.rand(LENGTH, HEAD // 2))
    table = table.view(1, LENGTH, 1, HEAD // 2)
    own.add(table.data_ptr())
    found: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x, table)
    return sum(found.values()) / STREAM


@pytest.mark.parametrize("selective", [False, True])
def test_a_compiled_layer_keeps_what_the_tape_says(
    selective: bool, titan_layer: Callable[..., Any], every_second_product: Callable[[Any], Any]
) -> None:
    torch.compiler.reset()
    layer = titan_layer(width=WIDTH, n_heads=HEADS, n_kv_heads=KV_HEADS, inner=INNER).bfloat16()
    seen = compiled(layer, every_second_product if selective else None)
    assert taped(selective=selective) == pytest.approx(seen, rel=0.01)


def test_without_a_compiler_the_last_product_is_kept_too() -> None:
    assert taped(selective=True, style=torchtitan.EAGER) == taped(selective=True) + 1
