"""The gated delta rule: a short convolution and a scan by chunks, as transformers writes it in torch.

Without flash-linear-attention keys and queries are repeated for the values' heads, everything inside is
fp32, and the loop over chunks keeps the state at every one.
"""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import Scan
from lmsize.numbers import ceil_div
from lmsize.stacks.linears import applied
from lmsize.stacks.mamba import convolved, log_decay, named
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import Setting, Style, parameter
from lmsize.tape import kernels, ops
from lmsize.tape.program import Gradient, Program, Tensor

FP32 = 4
APART = ("q_proj", "k_proj", "v_proj")


def delta(program: Program, x: Tensor, section: Section, setting: Setting, style: Style) -> Tensor:
    """From the normed stream to what the mixer adds to it."""
    del style
    scan = section.scan
    assert scan is not None
    t, keys = setting.n_tokens, scan.n_groups * scan.k_dim
    names: list[Tensor] = []
    mixed, gate, b, a = _inputs(program, x, section, scan, setting=setting, names=names)
    mixed = convolved(program, mixed, section.convs[0], setting)
    q, k, v = ops.split(program, mixed, (t * keys, t * keys, t * scan.width))
    beta = ops.pointwise(program, b, name="sigmoid", saves="output")
    decay = log_decay(program, scan.n_heads, setting)
    raised = ops.cast(program, a, FP32)
    step = ops.pointwise(program, raised, name="biased")
    soft = ops.pointwise(program, step, name="softplus", saves="input")
    g = ops.mul(program, soft, decay, small=decay, name="decay")
    out = _Chunks(program, scan, setting).scanned(q, k, v, g, beta)
    if gate is None:
        gate = applied(program, x, named(section, "g_proj"), setting)
    normed = _gated_norm(program, out, gate, section, setting)
    made = applied(program, normed, section.outputs[-1], setting)
    program.hold(mixed, beta, g, b, a, *names)
    return made


def _inputs(
    program: Program, x: Tensor, section: Section, scan: Scan, *, setting: Setting,
    names: list[Tensor],
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:  # fmt: skip
    """Queries, keys and values in one, the output's gate, two scalars a head; what else is named.

    OLMo's projects each for itself, the gate once the scan is done (None here).
    """
    t, keys, heads = setting.n_tokens, scan.n_groups * scan.k_dim, scan.n_heads
    leaves = [part.name.rpartition(".")[2] for part in section.linears]
    if "q_proj" in leaves:
        mixed = ops.cat(
            program,
            [applied(program, x, named(section, leaf), setting) for leaf in APART],
            name="mixed",
        )
        b, a = (applied(program, x, named(section, leaf), setting) for leaf in ("b_proj", "a_proj"))
        return mixed, None, b, a
    if "in_proj_qkvz" not in leaves:
        mixed, gate, b, a = (applied(program, x, part, setting) for part in section.linears)
        return mixed, gate, b, a
    both = applied(program, x, named(section, "in_proj_qkvz"), setting)
    scalars = applied(program, x, named(section, "in_proj_ba"), setting)
    q, k, v, gate = ops.split(program, both, (t * keys, t * keys, t * scan.width, t * scan.width))
    b, a = ops.split(program, scalars, (t * heads, t * heads))
    v, gate, b, a = (ops.copy(program, part) for part in (v, gate, b, a))
    q, k = ops.copy(program, q), ops.copy(program, k)
    mixed = ops.cat(program, [q, k, v], name="mixed")
    names += [both, scalars]
    return mixed, gate, b, a


def _gated_norm(
    program: Program, x: Tensor, gate: Tensor, section: Section, setting: Setting
) -> Tensor:
    """The norm of each head, times the gate in fp32."""
    norm, rows = section.norms[0], setting.n_tokens * _heads(section)
    raised = ops.cast(program, x, FP32)
    square = ops.power(program, raised, name="square")
    mean = ops.mean(program, square, numel=rows)
    spread = ops.pointwise(program, mean, name="plus epsilon")
    root = ops.pointwise(program, spread, name="rsqrt", saves="output")
    scaled = ops.cast(program, ops.mul(program, raised, root, small=root), x.itemsize)
    weight = parameter(program, norm.name, norm.width, setting)
    weighted = ops.mul(program, weight, scaled, small=weight, name="norm")
    opened = ops.pointwise(program, ops.cast(program, gate, FP32), name="silu", saves="input")
    made = ops.mul(program, weighted, opened, name="gated")
    program.hold(mean, x, weighted)
    return ops.cast(program, made, x.itemsize)


def _heads(section: Section) -> int:
    return section.scan.n_heads if section.scan else 1


class _Chunks:
    """The body of ``torch_chunk_gated_delta_rule``."""

    def __init__(self, program: Program, scan: Scan, setting: Setting) -> None:
        self._program, self._scan, self._setting = program, scan, setting
        self._n_chunks = ceil_div(setting.seq_len, scan.chunk)
        self._rows = setting.micro_batch * self._n_chunks * scan.chunk * scan.n_heads
        self._by_token = False

    def scanned(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
        """The recurrence's output, in the type of the queries."""
        itemsize = q.itemsize
        program, scan = self._program, self._scan
        t = self._setting.n_tokens * scan.n_heads
        # ``to`` leaves what is fp32 already as it lies, and so does padding that adds nothing.
        full = bool(self._n_chunks * scan.chunk == self._setting.seq_len)
        self._by_token = q.itemsize == FP32 and full
        if scan.n_groups != scan.n_heads:
            q, k = (ops.copy(program, x, numel=t * scan.k_dim, name="repeated") for x in (q, k))
        q, k, v, beta, g = (self._raised(x) for x in (q, k, v, beta, g))
        q, k = self._normed(q), self._normed(k)
        q = ops.pointwise(program, q, name="scaled query")
        q, k = self._padded(q, scan.k_dim), self._padded(k, scan.k_dim)
        v, beta, g = self._padded(v, scan.v_dim), self._padded(beta, 1), self._padded(g, 1)
        v_beta = ops.mul(program, v, beta, small=beta, name="v beta")
        k_beta = ops.mul(program, k, beta, small=beta, name="k beta")
        sums = ops.pointwise(program, g, name="cumulative")
        *inside, decayed = self._inside(q, k, v_beta, k_beta, sums)
        made = self._loop(q, k, sums, inside)
        out = ops.cast(program, ops.narrow(program, made, numel=t * scan.v_dim), itemsize)
        program.hold(v, beta, g, v_beta, k_beta, sums, q, k, decayed)
        return ops.copy(program, out) if itemsize == FP32 else out

    def _raised(self, x: Tensor) -> Tensor:
        """To fp32, laid out by head."""
        if x.itemsize == FP32:
            return x
        made = Tensor(f"{x.name} by head", x.numel, FP32)
        return self._program.record("cast", [x], made, gradients=[Gradient(x)])

    def _normed(self, x: Tensor) -> Tensor:
        program, rows = self._program, self._setting.n_tokens * self._scan.n_heads
        square = ops.power(program, x, name="square")
        summed = ops.mean(program, square, numel=rows)
        spread = ops.pointwise(program, summed, name="plus epsilon")
        root = ops.pointwise(program, spread, name="rsqrt", saves="output")
        return ops.mul(program, x, root, small=root, name="normed")

    def _padded(self, x: Tensor, width: int) -> Tensor:
        return ops.copy(self._program, x, numel=self._rows * width, name=f"{x.name} padded")

    def _inside(
        self, q: Tensor, k: Tensor, v_beta: Tensor, k_beta: Tensor, sums: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scores inside of each chunk, values and keys that solve its triangular system, of which keys."""
        program, scan, n_pairs = self._program, self._scan, self._rows * self._scan.chunk
        spread = ops.expanded(program, sums, numel=n_pairs)
        pairs = ops.pointwise(program, spread, name="differences")
        masked = ops.pointwise(program, pairs, name="masked", n_masked=scan.chunk**2)
        decays = ops.pointwise(program, masked, name="exp", saves="output")
        system = self._decayed(k_beta, k, decays, n_pairs)
        scores = self._decayed(q, k, decays, n_pairs)
        grown = ops.pointwise(program, sums, name="exp", saves="output")
        decayed = ops.mul(program, k_beta, grown, small=grown, name="decayed keys")
        values = self._solved(system, v_beta)
        keys = self._solved(system, decayed)
        return scores, values, keys, decayed

    def _decayed(self, a: Tensor, b: Tensor, decays: Tensor, n_pairs: Any) -> Tensor:
        if self._by_token:
            a, b = ops.copy(self._program, a), ops.copy(self._program, b)
        product = ops.matmul(self._program, a, b, numel=n_pairs, name="products")
        return ops.mul(self._program, product, decays, name="decayed scores")

    def _solved(self, system: Tensor, right: Tensor) -> Tensor:
        """``solve_triangular`` saves the system and its answer."""
        made = Tensor("solved", right.numel, FP32)
        return self._program.record(
            "solve", [system, right], made, saves=[system, made],
            gradients=[Gradient(right), Gradient(system, scratch_bytes=system.n_bytes)],
        )  # fmt: skip

    def _loop(self, q: Tensor, k: Tensor, sums: Tensor, inside: list[Tensor]) -> Tensor:
        """Chunk by chunk: each keeps its state and its new values."""
        scores, values, keys = inside
        program, scan, setting = self._program, self._scan, self._setting
        grown = ops.pointwise(program, sums, name="exp", saves="output")
        read = ops.mul(program, q, grown, small=grown, name="decayed query")
        left = ops.pointwise(program, sums, name="to the end")
        to_end = ops.pointwise(program, left, name="exp", saves="output")
        written = ops.mul(program, k, to_end, small=to_end, name="decayed key")
        state = setting.micro_batch * scan.n_heads * scan.k_dim * scan.v_dim
        n = self._n_chunks  # the state after the last is let go of
        states = Tensor("states", state * (n if program.autocast is None else n - 1), FP32)
        fresh = Tensor("new values", self._rows * scan.v_dim, FP32)
        made = Tensor("scanned", self._rows * scan.v_dim, FP32)
        reads, factors = [values, keys, read, scores, written], [keys, read, scores, written]
        side = [states, fresh]
        chunk = fresh.numel // n
        # The last chunk's two halves of a state and their sum, what it read of the one before.
        last = 3 * state * FP32 + chunk * FP32
        if self._by_token:  # products copy what they read of queries and keys, piece by piece
            factors = [keys, scores]
            pieces = [
                Tensor(f"{x.name} copied", x.numel * (n - 1) // n, FP32) for x in (read, written)
            ]
            side += pieces
            last += written.numel // n * FP32
        if program.autocast:  # every product casts its factors, piece by piece
            # The first state asks for no gradient, nothing reads the last chunk's own update.
            low, most = program.autocast, n - 1
            numels = [
                (keys, keys.numel * most // n), (read, read.numel * most // n),
                (scores, scores.numel), (written, written.numel * most // n),
                (states, 2 * n * state), (fresh, fresh.numel * (n + most) // n),
            ]  # fmt: skip
            factors = [Tensor(f"{x.name} cast", numel, low) for x, numel in numels]
            side = [states, *factors]
            last = state * (3 * FP32 + low) + chunk * (FP32 + 2 * low) + written.numel // n * low
        kernels.scan(
            program, reads, made, saves=[*factors, *side], side=side, forward_bytes=last,
            gradients=[Gradient(x, scratch_bytes=made.n_bytes) for x in reads],
        )  # fmt: skip
        program.hold(read, written, values, keys, scores, states)
        return made
