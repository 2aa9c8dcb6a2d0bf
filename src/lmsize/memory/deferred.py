"""Gradients that Megatron puts off: the output layer's, until the last micro-batch is undone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lmsize.formula import Term, formula, total
from lmsize.memory.standing import Shape
from lmsize.source import Source
from lmsize.stacks.megatron_switches import MegatronSwitches

MEGATRON = Source(
    "Megatron-LM core 0.15",
    "core/tensor_parallel/layers.py, LinearWithGradAccumulationAndAsyncCommunication.backward",
    "https://github.com/NVIDIA/Megatron-LM",
)


@formula(source=MEGATRON)
def deferred_bytes(
    *, n_micro_batches: Any, n_tokens: Any, width: Any, bytes_per_number: Any
) -> Any:
    """Bytes of what the output layer's weight gradient is made from, micro-batch by micro-batch.

    Assumes: --defer-embedding-wgrad-compute; the gradient of the logits (``grad_output_buffer``)
    and the input of the layer (``embedding_activation_buffer``), each in the type of the weights.
    Valid for: the last stage.
    """
    return n_micro_batches * n_tokens * width * bytes_per_number


def deferred_terms(
    switches: MegatronSwitches, shape: Shape, *, n_micro: int, heads: Iterable[tuple[Any, Any]]
) -> list[Term]:
    """What waits while another micro-batch runs; `heads` are (inputs, outputs) on one rank."""
    most = switches.deferral_limit
    n_waiting = n_micro - 1 if most is None else min(most, n_micro - 1)
    if not switches.deferred_head or n_waiting < 1:
        return []
    held = {"n_micro_batches": n_waiting, "bytes_per_number": shape.bytes_per_number}
    parts = [
        deferred_bytes.term(label, n_tokens=n_tokens, width=width, **held)
        for n_in, n_out in heads
        for label, n_tokens, width in (
            ("gradients of the logits", shape.n_tokens, n_out),
            ("inputs of the output layer", shape.n_stream_tokens, n_in),
        )
    ]
    return [total("deferred", parts)] if parts else []
