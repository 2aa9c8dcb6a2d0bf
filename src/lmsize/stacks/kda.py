"""Kimi's delta attention: the delta rule with a decay for each channel, as transformers writes it in torch.

Without flash-linear-attention a decay is made for every pair of tokens of a chunk and every channel of a
key: by far the largest tensors of the layer, of which there are four or five.
Read off transformers 5.23, ``modeling_kimi_linear.py``, ``chunk_kimi_delta_attention``.
"""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import Scan
from lmsize.numbers import ceil_div
from lmsize.stacks.linears import applied
from lmsize.stacks.mamba import convolved, named
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import Setting, Style, parameter
from lmsize.tape import kernels, ops
from lmsize.tape.program import Gradient, Program, Tensor

FP32, BOOL = 4, 1


def kda(program: Program, x: Tensor, section: Section, setting: Setting, style: Style) -> Tensor:
    """From the normed stream to what the mixer adds to it."""
    del style
    scan = section.scan
    assert scan is not None
    t, keys = setting.n_tokens, setting.n_tokens * scan.n_groups * scan.k_dim
    apart = [applied(program, x, named(section, f"{c}_proj"), setting) for c in "qkv"]
    mixed = convolved(program, ops.cat(program, apart, name="mixed"), section.convs[0], setting)
    q, k, v = ops.split(program, mixed, (keys, keys, t * scan.width))
    decay = _forgotten(program, x, section, scan, setting)
    beta = applied(program, x, named(section, "b_proj"), setting)
    beta = ops.pointwise(program, beta, name="sigmoid", saves="output")
    out = _Chunks(program, scan, setting).scanned((q, k, v), beta, decay)
    gate = _through(program, x, section, "g", setting)
    normed = _gated_norm(program, out, gate, section, setting)
    made = applied(program, normed, section.outputs[-1], setting)
    program.hold(mixed, decay, beta, out, gate)
    return made


def _through(
    program: Program, x: Tensor, section: Section, letter: str, setting: Setting
) -> Tensor:
    """By one matrix, or by two of a low rank."""
    leaves = {part.name.rpartition(".")[2] for part in section.linears}
    for leaf in (f"{letter}_proj", f"{letter}_a_proj", f"{letter}_b_proj"):
        x = applied(program, x, named(section, leaf), setting) if leaf in leaves else x
    return x


def _forgotten(
    program: Program, x: Tensor, section: Section, scan: Scan, setting: Setting
) -> Tensor:
    """``-exp(A_log) * softplus(g)`` in fp32, which Kimi writes ``where(g > 20, g, log(1 + exp(g)))``.

    Ling's bounded form, ``bound * sigmoid(exp(A_log) * g)``, saves as much as its softplus.
    """
    raised = ops.cast(program, _through(program, x, section, "f", setting), FP32)
    biased = ops.pointwise(program, raised, name="biased")
    rate = ops.cast(program, parameter(program, "A_log", scan.n_heads, setting), FP32)
    rate = ops.pointwise(program, rate, name="exp", saves="output")
    if not any(part.name.endswith("f_a_proj") for part in section.linears):
        soft = ops.pointwise(program, biased, name="softplus", saves="input")
        made = ops.mul(program, soft, rate, small=rate, name="decay")
        return ops.cast(program, made, x.itemsize)
    above = Tensor("above the bound", biased.numel, BOOL)
    program.record("compare", [biased], above)
    grown = ops.pointwise(program, biased, name="exp", saves="output")
    soft = ops.pointwise(
        program, ops.pointwise(program, grown, name="plus one"), name="log", saves="input"
    )
    picked = Tensor("softplus", biased.numel, FP32)
    program.record(
        "where", [above, biased, soft], picked, saves=[above],
        gradients=[Gradient(biased), Gradient(soft)],
    )  # fmt: skip
    return ops.mul(program, picked, rate, small=rate, name="decay")


def _gated_norm(
    program: Program, x: Tensor, gate: Tensor, section: Section, setting: Setting
) -> Tensor:
    """The norm of each head, its weight and the gate in fp32."""
    norm = section.norms[0]
    raised = ops.cast(program, x, FP32)
    square = ops.power(program, raised, name="square")
    mean = ops.mean(program, square, numel=x.numel // norm.width)
    root = ops.pointwise(
        program, ops.pointwise(program, mean, name="plus epsilon"), name="rsqrt", saves="output"
    )
    scaled = ops.mul(program, raised, root, small=root, name="normed")
    weight = ops.cast(program, parameter(program, norm.name, norm.width, setting), FP32)
    weighted = ops.mul(program, weight, scaled, small=weight, name="norm")
    opened = ops.pointwise(program, ops.cast(program, gate, FP32), name="sigmoid", saves="output")
    made = ops.mul(program, weighted, opened, name="gated")
    program.hold(mean, x, weighted)
    return ops.cast(program, made, x.itemsize)


class _Chunks:
    """The body of ``chunk_kimi_delta_attention``."""

    def __init__(self, program: Program, scan: Scan, setting: Setting) -> None:
        self._program, self._scan, self._setting = program, scan, setting
        self._n_chunks = ceil_div(setting.seq_len, scan.chunk)
        self._rows = setting.micro_batch * self._n_chunks * scan.chunk * scan.n_heads

    def scanned(self, qkv: tuple[Tensor, Tensor, Tensor], beta: Tensor, decay: Tensor) -> Tensor:
        """The recurrence's output, in the type of the queries."""
        program, scan, itemsize = self._program, self._scan, qkv[0].itemsize
        q, k, v, b, g = (self._raised(x) for x in (*qkv, beta, decay))
        q, k = self._normed(q), self._normed(k)
        q = ops.pointwise(program, self._padded(q, scan.k_dim), name="scaled query")
        k, v = self._padded(k, scan.k_dim), self._padded(v, scan.v_dim)
        g, b = self._padded(g, scan.k_dim), self._padded(b, 1)
        v_beta = ops.mul(program, v, b, small=b, name="v beta")
        k_beta = ops.mul(program, k, b, small=b, name="k beta")
        sums = ops.pointwise(program, g, name="cumulative")
        decays, system = self._pairs(k, k_beta, sums)
        values = ops.matmul(program, system, v_beta, numel=v.numel, name="values")
        grown = ops.pointwise(program, sums, name="exp", saves="output")
        seen = ops.mul(program, k_beta, grown, name="decayed keys")
        seen = ops.matmul(program, system, seen, numel=k.numel, name="keys")
        made = self._loop((q, k, sums), decays, values, seen)
        t = self._setting.n_tokens * scan.width
        out = ops.copy(program, ops.narrow(program, made, numel=t))
        out = ops.cast(program, out, itemsize)
        program.hold(q, k, v, g, b, v_beta, k_beta, sums, decays, system, values, seen)
        return out

    def _raised(self, x: Tensor) -> Tensor:
        return ops.cast(self._program, ops.copy(self._program, x), FP32)

    def _normed(self, x: Tensor) -> Tensor:
        program = self._program
        square = ops.power(program, x, name="square")
        summed = ops.mean(program, square, numel=x.numel // self._scan.k_dim)
        spread = ops.pointwise(program, summed, name="plus epsilon")
        root = ops.pointwise(program, spread, name="rsqrt", saves="output")
        return ops.mul(program, x, root, small=root, name="normed")

    def _padded(self, x: Tensor, width: int) -> Tensor:
        return ops.copy(self._program, x, numel=self._rows * width, name=f"{x.name} padded")

    def _pairs(self, k: Tensor, k_beta: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """A decay for every pair of a chunk and every channel, and the system solved row by row."""
        program, scan = self._program, self._scan
        n_pairs = self._rows * scan.chunk
        whole = n_pairs * scan.k_dim
        spread = ops.expanded(program, sums, numel=whole)
        apart = ops.pointwise(program, spread, name="differences")
        masked = ops.pointwise(program, apart, name="masked", n_masked=scan.chunk**2)
        del spread, apart
        decays = ops.pointwise(program, masked, name="exp", saves="output")
        keys = ops.mul(program, k_beta, k, small=(k_beta, k), numel=whole, name="pairs of keys")
        scores = ops.total(program, ops.mul(program, keys, decays), numel=n_pairs, name="scores")
        scores = ops.pointwise(program, scores, name="masked", n_masked=scan.chunk**2)
        scores = ops.pointwise(program, scores, name="negative")
        return decays, ops.pointwise(program, self._solved(scores), name="plus one")

    def _solved(self, scores: Tensor) -> Tensor:
        """Row after row in place; each saves copies of itself and of the triangle above it."""
        chunk = self._scan.chunk
        n_copied = (chunk - 1) * chunk * (2 * chunk - 1) // 6 + chunk * (chunk - 1) // 2
        copies = Tensor("triangles", scores.numel // chunk // chunk * n_copied, FP32)
        made = Tensor("solved", scores.numel, FP32)
        made.base = scores.base
        return self._program.record(
            "rows", [scores], made, saves=[copies], side=[copies], gradients=[Gradient(scores)]
        )

    def _loop(
        self, heads: tuple[Tensor, Tensor, Tensor], decays: Tensor, values: Tensor, seen: Tensor
    ) -> Tensor:
        """Chunk by chunk: scores by channel again, states, new values."""
        q, k, sums = heads
        scan, n, setting = self._scan, self._n_chunks, self._setting
        state = setting.micro_batch * scan.n_heads * scan.k_dim * scan.v_dim
        last = n - 1  # nothing reads what the last chunk writes, nor the first what is there
        kept: list[tuple[str, Any]] = [
            ("pairs of queries and keys", decays.numel), ("scores", self._rows * scan.chunk),
            ("new values", values.numel), ("grown", q.numel), ("read", q.numel * last // n),
            ("to the end", k.numel * last // n), ("written", k.numel * last // n),
            ("states", state * n),
        ]  # fmt: skip
        side = [Tensor(name, numel, FP32) for name, numel in kept]
        made = Tensor("scanned", values.numel, FP32)
        reads = [q, k, sums, decays, values, seen]
        # Each slice's gradient is a tensor of zeros as large as the whole, added to the one before.
        gradients = [Gradient(x) for x in (values, seen, q, k, sums)]
        gradients.insert(0, Gradient(decays, scratch_bytes=decays.n_bytes))
        return kernels.scan(
            self._program, reads, made, saves=[q, k, decays, seen, *side], side=side,
            gradients=gradients, forward_bytes=decays.n_bytes // n + 3 * state * FP32,
        )  # fmt: skip
