"""Mamba-2: a short convolution and a scan by chunks, as transformers writes it in plain torch.

Without ``mamba_ssm`` scores of every pair of tokens in a chunk are made for every head, in fp32, and
B and C are repeated for the heads of a group.
"""

from __future__ import annotations

from typing import Any

from lmsize.model.parts import Norm, Scan
from lmsize.numbers import ceil_div
from lmsize.stacks.linears import applied
from lmsize.stacks.mamba import convolved, log_decay, named
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import Setting, Style, parameter
from lmsize.tape import ops
from lmsize.tape.program import Program, Tensor

FP32 = 4


def mamba2(program: Program, x: Tensor, section: Section, setting: Setting, style: Style) -> Tensor:
    """From the normed stream to what the mixer adds to it."""
    del style
    scan = section.scan
    assert scan is not None
    t, heads, groups = setting.n_tokens, scan.n_heads, scan.n_groups * scan.k_dim
    both = applied(program, x, named(section, "in_proj"), setting)
    decay = log_decay(program, heads, setting)
    gate, inner, step = ops.split(
        program, both, (t * scan.width, t * (scan.width + 2 * groups), t * heads)
    )
    inner = convolved(program, inner, section.convs[0], setting)
    u, b, c = ops.split(program, inner, (t * scan.width, t * groups, t * groups))
    out = _Chunks(program, scan, setting).scanned(u, step, decay, b, c)
    program.hold(inner)
    normed = _gated_norm(program, out, gate, section.norms[0] if section.norms else None, setting)
    cast = ops.cast(program, normed, x.itemsize)
    made = applied(program, cast, named(section, "out_proj"), setting)
    program.hold(both, decay, normed, out)
    return made


def _gated_norm(
    program: Program, x: Tensor, gate: Tensor, norm: Norm | None, setting: Setting
) -> Tensor:
    """The norm of groups of what the gate lets through; some classes have only the gate."""
    raised = ops.cast(program, gate, FP32)
    opened = ops.pointwise(program, raised, name="silu", saves="input")
    product = ops.mul(program, x, opened, name="gated")
    if norm is None:
        return product
    square = ops.power(program, product, name="square")
    mean = ops.mean(program, square, numel=setting.n_tokens)
    root = ops.pointwise(
        program, ops.pointwise(program, mean, name="plus epsilon"), name="rsqrt", saves="output"
    )
    scaled = ops.mul(program, product, root, small=root, name="normed")
    weight = parameter(program, norm.name, norm.width, setting)
    made = ops.mul(program, weight, scaled, small=weight, name="norm")
    program.hold(product, scaled, mean)
    return made


class _Chunks:
    """The body of ``mamba2_chunk_scan``; b, c, l, s, h, p and n are batch, chunk, two places in a
    chunk, head, its width and the state's.
    """

    def __init__(self, program: Program, scan: Scan, setting: Setting) -> None:
        self._program, self._scan, self._setting = program, scan, setting
        self._n_chunks = ceil_div(setting.seq_len, scan.chunk)
        self._rows = setting.micro_batch * self._n_chunks * scan.chunk * scan.n_heads  # b c l h

    def scanned(self, u: Tensor, step: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """The recurrence's output, in fp32."""
        program, scan = self._program, self._scan
        step = self._steps(step)
        raised = ops.cast(program, u, FP32)
        b, c = self._repeated(b), self._repeated(c)
        skip = ops.view(program, parameter(program, "D", scan.n_heads, self._setting))
        residual = ops.mul(
            program, self._padded(raised, scan.v_dim), skip, small=skip, name="residual"
        )
        spread = ops.cast(program, step, FP32)
        scaled = ops.mul(program, raised, spread, small=spread, name="scaled")
        again = ops.cast(program, step, FP32)
        exponent = ops.mul(program, again, decay, small=decay, name="exponent")
        scaled, exponent = self._padded(scaled, scan.v_dim), self._padded(exponent, 1)
        b, c = self._padded(b, scan.k_dim), self._padded(c, scan.k_dim)
        sums = ops.pointwise(program, exponent, name="cumulative")
        inside, held = self._inside(scaled, exponent, b, c)
        between, also = self._between(scaled, sums, b, c)
        out = ops.copy(program, ops.add(program, inside, between))
        program.hold(step, b, c, scaled, exponent, sums, inside, between, *held, *also)
        whole = ops.add(program, out, residual)
        return ops.narrow(program, whole, numel=self._setting.n_tokens * scan.width)

    def _steps(self, step: Tensor) -> Tensor:
        program = self._program
        bias = parameter(program, "dt_bias", self._scan.n_heads, self._setting)
        biased = ops.pointwise(program, step, name="biased")
        program.hold(bias)
        soft = ops.pointwise(program, ops.raised(program, biased), name="softplus", saves="input")
        return ops.pointwise(program, soft, name="clamp", saves="input")

    def _repeated(self, x: Tensor) -> Tensor:
        raised = ops.cast(self._program, x, FP32)
        numel = self._setting.n_tokens * self._scan.n_heads * self._scan.k_dim
        return ops.copy(self._program, raised, numel=numel, name="repeated")

    def _padded(self, x: Tensor, width: int) -> Tensor:
        """To whole chunks; a copy even where nothing is added."""
        return ops.copy(self._program, x, numel=self._rows * width, name=f"{x.name} padded")

    def _segment_sums(self, x: Tensor, numel: Any, *, n_pairs: Any) -> Tensor:
        """Sums from each place of a chunk to each later one, `n_pairs` masked alike."""
        program = self._program
        spread = ops.expanded(program, x, numel=numel)
        filled = ops.pointwise(program, spread, name="masked", n_masked=n_pairs)
        sums = ops.pointwise(program, filled, name="sums")
        made = ops.pointwise(program, sums, name="masked again", n_masked=n_pairs)
        program.hold(filled, sums)
        return made

    def _inside(
        self, scaled: Tensor, exponent: Tensor, b: Tensor, c: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What tokens of the same chunk add; and what the function still names."""
        program, n_pairs = self._program, self._rows * self._scan.chunk
        decays = ops.pointwise(
            program,
            self._segment_sums(exponent, n_pairs, n_pairs=self._scan.chunk**2),
            name="exp",
            saves="output",
        )
        scores = _product(program, c, b, n_pairs, copies="ab")
        masked = ops.mul(program, scores, decays, name="decayed scores")
        out = _product(program, masked, scaled, self._rows * self._scan.v_dim, copies="b")
        return out, (decays, scores, masked)

    def _between(
        self, scaled: Tensor, sums: Tensor, b: Tensor, c: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What chunks before add, by the states at their ends; and what is named still."""
        program, scan, setting = self._program, self._scan, self._setting
        one = setting.micro_batch * scan.n_heads
        state = one * scan.v_dim * scan.k_dim
        left = ops.pointwise(program, sums, name="to the end")
        to_end = ops.pointwise(program, left, name="exp", saves="output")
        decayed = ops.mul(program, b, to_end, small=to_end, name="B decayed")
        states = _product(program, decayed, scaled, self._n_chunks * state, copies="ab")
        zeros = Tensor("zeros", state, states.itemsize)
        every = ops.cat(program, [zeros, states], name="states")
        last = ops.narrow(program, sums, numel=one * self._n_chunks)
        ends = ops.copy(program, last, numel=one * (self._n_chunks + 1), name="ends")
        pairs = one * (self._n_chunks + 1) * (self._n_chunks + 1)
        spread = self._segment_sums(ends, pairs, n_pairs=(self._n_chunks + 1) ** 2)
        decays = ops.pointwise(program, spread, name="exp", saves="output")
        made = _product(program, decays, every, (self._n_chunks + 1) * state, copies="b")
        program.hold(zeros, every)  # whose name the states at the chunks' starts take
        starts = ops.narrow(program, made, numel=self._n_chunks * state)
        from_start = ops.pointwise(program, sums, name="exp", saves="output")
        read = _product(program, c, starts, self._rows * scan.v_dim, copies="ab")
        out = ops.mul(program, read, from_start, small=from_start, name="between chunks")
        return out, (left, to_end, decayed, zeros, decays, made, read)


def _product(program: Program, a: Tensor, b: Tensor, numel: Any, *, copies: str) -> Tensor:
    """An einsum, which autocast lowers; operands that do not lie as it wants them are copied first."""
    a, b = ops.lowered(program, a), ops.lowered(program, b)
    a = ops.copy(program, a) if "a" in copies else a
    b = ops.copy(program, b) if "b" in copies else b
    return ops.matmul(program, a, b, numel=numel, name="einsum")
