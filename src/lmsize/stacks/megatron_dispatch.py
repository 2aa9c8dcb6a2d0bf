"""How Megatron's tokens get to their experts and back, and whose names hold them on the way.

The layer names what it sends and what it receives until its output is there
(``custom_forward`` of ``MoELayer.forward``); one call further in, the experts' input and output are
named until rows are back in the order in which they came (``routed_experts_compute``).

Source: Megatron-LM core/transformer/moe/token_dispatcher.py, moe_layer.py, experts.py, fused_a2a.py;
Transformer Engine pytorch/permutation.py (``moe_permute_with_probs``, ``moe_unpermute``,
``moe_sort_chunks_by_index``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lmsize.model.parts import Experts
from lmsize.numbers import ceil_div
from lmsize.stacks.megatron_router import Routing, n_filling, n_reached, n_rows_sent
from lmsize.stacks.megatron_switches import MegatronSwitches
from lmsize.stacks.setting import Setting
from lmsize.tape import ops
from lmsize.tape.casts import Casts
from lmsize.tape.program import Gradient, Program, Tensor

INT32 = 4


@dataclass(frozen=True, slots=True)
class Job:
    """What a dispatcher is given besides the tokens.

    Attributes:
        routing: which rows tokens become.
        bank: the rank's experts.
        run: what they make of the rows that reached them.
    """

    routing: Routing
    bank: Experts
    setting: Setting
    run: Callable[[Tensor], Tensor]

    @property
    def width(self) -> Any:
        return self.bank.matrices[0][1]

    @property
    def n_gathered(self) -> Any:
        """Ranks of a tensor-parallel expert, each with a share of the sequence."""
        setting = self.setting
        return setting.layout.expert_tp if setting.sequence_shards > 1 else 1

    @property
    def n_rows(self) -> Any:
        """Rows that the experts compute."""
        return n_rows_sent(self.bank, self.setting) * self.n_gathered


def by_all_to_all(program: Program, x: Tensor, job: Job) -> Tensor:
    """Rows are sent to the ranks of their experts, gathered over tensor parallelism, sorted."""
    n_sent, setting = n_rows_sent(job.bank, job.setting), job.setting
    is_sent, has_several = setting.layout.ep > 1, job.bank.n_experts > 1
    sent = _placed(program, x, job, n_sent * job.width, "rows by expert")
    received = _moved(program, sent, sent.numel, "rows received") if is_sent else sent
    rows = received
    if job.n_gathered > 1:
        rows = _moved(program, rows, job.n_rows * job.width, "rows gathered")
    rows = _sorted(program, rows, job) if has_several else rows
    out = _computed(program, rows, job)
    made = in_order = _sorted(program, out, job) if has_several else out
    if job.n_gathered > 1:
        made = _reduced(program, in_order, n_sent * job.width, job)
    program.hold(rows, out, in_order)
    back = _moved(program, made, n_sent * job.width, "rows back") if is_sent else made
    program.hold(made)
    tokens = _placed(program, back, job, setting.n_stream_tokens * job.width, "tokens in order")
    program.hold(sent, received, back)
    return tokens


def by_all_gather(program: Program, x: Tensor, job: Job) -> Tensor:
    """Every rank gathers all tokens, in the buffer that Megatron's parts share, and picks its own."""
    setting = job.setting
    n_ranks = setting.layout.ep * job.n_gathered
    n_all = setting.n_stream_tokens * n_ranks * job.width
    whole = x
    if n_ranks > 1:
        whole = Tensor("tokens of all ranks", n_all, x.itemsize, kind="given")
        program.record("gathered in a buffer", [x], whole, gradients=[Gradient(x)])
    rows = _placed(program, whole, job, job.n_rows * job.width, "rows by expert")
    out = _computed(program, rows, job)
    made = in_order = _placed(program, out, job, n_all, "tokens of all ranks in order")
    program.hold(rows, out)
    if n_ranks > 1:
        made = _reduced(program, in_order, setting.n_stream_tokens * job.width, job)
    program.hold(in_order)
    return made


def by_deep_ep(program: Program, x: Tensor, job: Job) -> Tensor:
    """A rank receives a token once, however many of its experts it goes to (DeepEP's kernels)."""
    n_received = n_reached(job.bank, job.setting) * job.width
    received = _moved(program, x, n_received, "tokens received")
    rows = _placed(program, received, job, job.n_rows * job.width, "rows by expert")
    out = _computed(program, rows, job)
    made = _placed(program, out, job, n_received, "tokens in order")
    program.hold(rows, out)
    n_own = job.setting.n_stream_tokens * job.width
    tokens = _moved(program, made, n_own, "tokens combined")
    program.hold(received, made)
    return tokens


def by_hybrid_ep(program: Program, x: Tensor, job: Job) -> Tensor:
    """Kernels that send tokens and sort them in one go, filled up as few bits want them."""
    rows = _placed(program, x, job, job.n_rows * job.width, "rows by expert")
    out = job.run(rows)
    n_own = job.setting.n_stream_tokens * job.width
    tokens = _placed(program, out, job, n_own, "tokens in order")
    program.hold(rows, out)
    return tokens


DISPATCHED: Mapping[str, Callable[[Program, Tensor, Job], Tensor]] = {
    "alltoall": by_all_to_all, "allgather": by_all_gather, "flex": by_deep_ep, "hybridep": by_hybrid_ep,
}  # fmt: skip


def _computed(program: Program, rows: Tensor, job: Job) -> Tensor:
    """What the experts make of their rows: one by one, or filled up for kernels of few bits."""
    if job.setting.casts is None:
        out = job.run(rows)
        is_apart = (
            not MegatronSwitches.of(job.setting.switches).grouped_gemm and job.bank.n_experts > 1
        )
        made = _moved(program, out, out.numel, "rows of all experts") if is_apart else out
        program.hold(out)
        return made
    n_filled = _n_filled(job, job.setting.casts)
    if n_filled == job.n_rows:
        out = job.run(rows)
        program.hold(out)
        return out
    padded = _moved(program, rows, n_filled * job.width, "rows padded")
    made = _moved(program, job.run(padded), rows.numel, "rows unpadded")
    program.hold(padded, *([program.inner] if program.inner is not None else []))
    return made


def _n_filled(job: Job, casts: Casts) -> Any:
    """Rows of all experts, each filled up; as they are if they come to that (``Fp8Padding``).

    Experts that are all as full lack the same; else any number of rows is as likely.
    """
    n_experts, switches = job.bank.n_experts, MegatronSwitches.of(job.setting.switches)
    if switches.capacity_factor and switches.pads_to_capacity:
        return ceil_div(job.n_rows // n_experts, casts.align) * casts.align * n_experts
    return job.n_rows if switches.router_padding else job.n_rows + n_filling(n_experts, casts)


def _placed(program: Program, x: Tensor, job: Job, numel: Any, name: str) -> Tensor:
    """Tokens to rows and back, by the same map, which is saved."""
    made, rows = Tensor(name, numel, x.itemsize), job.routing.rows
    return program.record("gather", [x, rows], made, saves=[rows], gradients=[Gradient(x)])


def _moved(program: Program, x: Tensor, numel: Any, name: str) -> Tensor:
    """Rows in another place: all to all, gathered, concatenated; saves nothing."""
    return ops.copy(program, x, numel=numel, name=name)


def _sorted(program: Program, rows: Tensor, job: Job) -> Tensor:
    """Chunks of rows in another order; the kernel that does it saves where each row goes."""
    made, switches = (
        Tensor("rows sorted", rows.numel, rows.itemsize),
        MegatronSwitches.of(job.setting.switches),
    )
    is_map = switches.permute_fusion and not switches.pads_to_capacity
    kept = [Tensor("map of chunks", job.n_rows, INT32)] if is_map else []
    return program.record("copy", [rows], made, saves=kept, gradients=[Gradient(rows)], side=kept)


def _reduced(program: Program, x: Tensor, numel: Any, job: Job) -> Tensor:
    """A sum over ranks, each of which keeps its share, in the type of the weights of the experts."""
    raised = ops.cast(program, x, job.routing.weights.itemsize, name="rows raised")
    return ops.cast(program, _moved(program, raised, numel, "shares"), x.itemsize)
