"""Degrees of parallelism, whether they are legal, and what one rank then holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lmsize.errors import LayoutError
from lmsize.layout.split import EVEN, Split
from lmsize.model.parts import AttentionCore, Experts
from lmsize.model.spec import ModelSpec
from lmsize.numbers import is_plain


@dataclass(frozen=True, slots=True)
class Layout:
    """How a run is spread: ``n_accelerators = dp * tp * pp * cp``; ep * etp lies inside dp * cp * tp.

    Attributes:
        zero: stage 0 to 3; 3 is also FSDP's full sharding.
        etp: tensor parallelism of the experts; None for the same as tp.
        vp: parts that each pipeline stage's layers fall into, run in turn (interleaved schedule).
    """

    dp: int = 1
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    zero: int = 0
    sequence_parallel: bool = False
    etp: int | None = None
    vp: int = 1

    @property
    def expert_tp(self) -> int:
        """Over how many ranks each expert's matrices are divided."""
        return self.tp if self.etp is None else self.etp

    @property
    def n_accelerators(self) -> int:
        return self.dp * self.tp * self.pp * self.cp

    @property
    def n_replicas(self) -> int:
        """Ranks that hold the same dense weights: what ZeRO shards over."""
        return self.dp * self.cp

    @property
    def n_expert_replicas(self) -> int:
        """Ranks that hold the same experts."""
        return self.n_replicas * self.tp // (self.ep * self.expert_tp)

    @property
    def n_groups(self) -> int:
        """Groups of ranks that a rank reduces or gathers in: all of them, and one a degree."""
        n = self.n_accelerators
        return int(n > 1) + sum(1 < degree < n for degree in (self.dp, self.tp, self.cp, self.ep))

    @property
    def n_neighbours(self) -> int:
        """Ranks of its pipeline that a rank talks to, one to one."""
        return min(self.pp - 1, 2)

    @property
    def is_undivided(self) -> bool:
        """Whether each rank has whole layers, whichever candidate is asked for."""
        degrees = (self.tp, self.ep, self.expert_tp)
        return is_plain(*degrees) and degrees == (1, 1, 1)

    def inside_replica(self) -> Layout:
        """How one replica's layers are divided: what the operations of a rank depend on."""
        return Layout(
            tp=self.tp, cp=self.cp, ep=self.ep, etp=self.etp,
            sequence_parallel=self.sequence_parallel,
        )  # fmt: skip

    def shards(self, stage: int, *, expert: bool = False) -> int:
        """Over how many ranks ZeRO divides what stage `stage` divides (1 to 3)."""
        if self.zero < stage:
            return 1
        return self.n_expert_replicas if expert else self.n_replicas


def divisors(n: int, *, most: int = 1 << 20) -> list[int]:
    """All divisors of `n` up to `most`, ascending."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return sorted(d for d in {*small, *(n // d for d in small)} if d <= most)


def near(value: int, legal: list[int]) -> list[int]:
    """The legal values on either side of `value`."""
    below = [d for d in legal if d < value]
    above = [d for d in legal if d > value]
    return [*below[-1:], *above[:1]]


def with_count(layout: Layout, n_accelerators: int | None) -> Layout:
    """The layout with dp filled in from the number of accelerators.

    Raises:
        LayoutError: tp * pp * cp does not divide the count.
    """
    group = layout.tp * layout.pp * layout.cp
    if n_accelerators is None:
        n_accelerators = group * max(1, -(-layout.ep * layout.expert_tp // (layout.cp * layout.tp)))
    if n_accelerators % group:
        multiple = n_accelerators // group * group
        nearest = [n for n in (multiple, multiple + group) if n]
        raise LayoutError(
            "--accelerators", n_accelerators,
            f"a multiple of tp * pp * cp = {group}", nearest=nearest,
        )  # fmt: skip
    return replace(layout, dp=n_accelerators // group)


def check(layout: Layout, model: ModelSpec, *, seq_len: int, split: Split = EVEN) -> None:
    """Refuse a layout that this model cannot run on, with the nearest legal values.

    Args:
        split: how stages come by their layers.

    Raises:
        LayoutError: tp does not divide the heads (of any attention layer), more stages than
            layers, parts that do not come out, experts or their ranks not divided by ep, a
            sequence not divided by cp.
    """
    _check_heads(layout, model)
    _check_stages(layout, model, split)
    if seq_len % layout.cp:
        legal = divisors(seq_len)
        raise LayoutError(
            "--cp", layout.cp, f"a divisor of the sequence length {seq_len}",
            nearest=near(layout.cp, legal),
        )  # fmt: skip
    if layout.sequence_parallel and layout.tp == 1:
        raise LayoutError(
            "--sequence-parallel", layout.tp, "tp above 1, whose ranks share the sequence"
        )
    _check_experts(layout, model)


def _check_heads(layout: Layout, model: ModelSpec) -> None:
    cores = {(p.n_heads, p.n_kv_heads) for p in _text_parts(model) if isinstance(p, AttentionCore)}
    for n_heads, n_kv_heads in sorted(cores):
        legal = [d for d in divisors(n_heads) if n_kv_heads % d == 0 or d % n_kv_heads == 0]
        if layout.tp not in legal:
            why = f"a divisor of its {n_heads} heads that fits its {n_kv_heads} kv heads"
            raise LayoutError("--tp", layout.tp, why, nearest=near(layout.tp, legal))


def _check_stages(layout: Layout, model: ModelSpec, split: Split) -> None:
    n_layers = sum(
        r.n_layers for t, r in model.runs() if r.block.role == "layer" and t.stream != "idle"
    )
    if layout.pp > n_layers:
        raise LayoutError("--pp", layout.pp, f"at most the {n_layers} layers", nearest=[n_layers])
    if split.is_even and layout.vp > 1 and n_layers % (layout.pp * layout.vp):
        legal = [d for d in divisors(n_layers) if n_layers % (layout.pp * d) == 0]
        raise LayoutError(
            "--vp", layout.vp, f"a number of parts that divides the {n_layers} layers with pp",
            nearest=near(layout.vp, legal),
        )  # fmt: skip
    n_parts = len(split.parts)
    if n_parts and layout.vp > 1 and n_parts != layout.pp * layout.vp:
        what = f"the {n_parts} parts whose layers are said, over pp = {layout.pp} stages"
        raise LayoutError("--vp", layout.vp, what)


def _text_parts(model: ModelSpec) -> list[object]:
    return [p for t, r in model.runs() if t.stream != "idle" for p in r.block.parts]


def _check_experts(layout: Layout, model: ModelSpec) -> None:
    if layout.tp % layout.expert_tp:
        legal = divisors(layout.tp)
        raise LayoutError(
            "--etp", layout.etp, f"a divisor of tp = {layout.tp}",
            nearest=near(layout.expert_tp, legal),
        )  # fmt: skip
    if layout.ep == 1:
        return
    counts = {p.n_experts for p in _text_parts(model) if isinstance(p, Experts)}
    if not counts:
        raise LayoutError("--ep", layout.ep, "1: this model has no experts", nearest=[1])
    for n_experts in sorted(counts):
        if n_experts % layout.ep:
            legal = divisors(n_experts)
            raise LayoutError(
                "--ep", layout.ep, f"a divisor of its {n_experts} experts",
                nearest=near(layout.ep, legal),
            )  # fmt: skip
    ranks = layout.n_replicas * layout.tp // layout.expert_tp
    if ranks % layout.ep:
        split = " * tp / etp" if layout.expert_tp != layout.tp else ""
        raise LayoutError(
            "--ep", layout.ep, f"a divisor of dp * cp{split} = {ranks}",
            nearest=near(layout.ep, divisors(ranks)),
        )  # fmt: skip
