"""The pieces a block is made of.

A part says which parameter tensors it holds; everything that is counted from parameters
(bytes, optimizer states, adapters, quantised weights, shards) walks over
:class:`Parameter`, so a count is written once. Parts without parameters (the attention core,
the scan) carry the dimensions that arithmetic and caches need.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lmsize.model.parameter import Parameter, Split

Indexer = Literal["", "lightning", "pooled", "blocks"]
"""What a part belongs to that picks what attention sees, and learns nothing: DeepSeek's, of every
token; of pooled entries; of blocks. Empty for most parts.
"""


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix that multiplies every token: `n_in` features to `n_out`.

    Attributes:
        name: module path inside the block, as in transformers.
        bias: whether it adds a bias of `n_out`.
        split: how tensor parallelism divides it; None keeps it whole on every rank.
        n_units: indivisible units of the split dimension (heads); None: its size.
        adaptable: an ``nn.Linear`` or ``Conv1D``, which peft's ``all-linear`` and bitsandbytes
            find. False for routers and other raw parameters.
        tied: shares its matrix with the token embedding or an earlier layer: works, but holds no
            parameters (a bias is still its own).
        per_token: how many times it runs per token (a pooler on one token of a sequence: 0).
        n_modules: how many such modules the block holds (unfused experts, codebooks).
        stays_fp32: what its class keeps in fp32 (``_keep_in_fp32_modules``), which no library
            quantises.
        is_derived: of a class derived from ``nn.Linear``, which multiplies by the transposed weight
            and adds its bias apart; quantisation replaces ``nn.Linear`` alone.
        indexer: whose it is, where that is an indexer.
    """

    name: str
    n_in: int
    n_out: int
    bias: bool = False
    split: Split | None = None
    n_units: int | None = None
    adaptable: bool = True
    tied: bool = False
    per_token: float = 1.0
    n_modules: int = 1
    stays_fp32: bool = False
    is_derived: bool = False
    indexer: Indexer = ""

    @property
    def quantisable(self) -> bool:
        """Whether its weight is stored in few bits where the base is."""
        return self.adaptable and not (self.is_derived or self.stays_fp32)

    def parameters(self) -> Iterator[Parameter]:
        units = self.n_units or (self.n_in if self.split == "row" else self.n_out)
        if not self.tied:
            yield Parameter(
                f"{self.name}.weight", (self.n_out, self.n_in), "matrix",
                self.split, units, self.n_modules, min(self.per_token, 1.0) or 1.0,
                picks=bool(self.indexer),
            )  # fmt: skip
        if self.bias:
            split = self.split if self.split == "column" else None
            yield Parameter(
                f"{self.name}.bias", (self.n_out,), "vector", split, units, self.n_modules,
                picks=bool(self.indexer),
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Experts:
    """Routed experts, fused as transformers 5 stores them: one 3-D tensor for each matrix.

    Attributes:
        matrices: ``(name, n_in, n_out)`` of each expert's matrices, e.g.
            ``(("gate_up_proj", h, 2 * f), ("down_proj", f, h))``.
        n_experts: routed experts of the layer (shared ones are plain :class:`Linear`).
        top_k: experts that one token uses.
        bias: whether each matrix adds a bias.
    """

    name: str
    matrices: tuple[tuple[str, int, int], ...]
    n_experts: int
    top_k: int
    bias: bool = False

    def parameters(self) -> Iterator[Parameter]:
        active = self.top_k / self.n_experts
        for matrix, n_in, n_out in self.matrices:
            name = f"{self.name}.{matrix}"
            yield Parameter(
                name, (self.n_experts, n_out, n_in), "expert",
                n_units=self.n_experts, active_frac=active,
            )  # fmt: skip
            if self.bias:
                yield Parameter(
                    f"{name}_bias", (self.n_experts, n_out), "expert",
                    n_units=self.n_experts, active_frac=active,
                )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Embedding:
    """A table that is looked up: tokens, positions, types.

    Attributes:
        is_vocabulary: the token table, which tensor parallelism divides by rows.
        trainable: False for sinusoids that transformers stores as a frozen parameter.
    """

    name: str
    n_rows: int
    width: int
    is_vocabulary: bool = False
    trainable: bool = True

    def parameters(self) -> Iterator[Parameter]:
        yield Parameter(
            f"{self.name}.weight", (self.n_rows, self.width), "embedding",
            "column" if self.is_vocabulary else None, self.n_rows, trainable=self.trainable,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation over the last dimension: RMSNorm, or LayerNorm, with or without a bias.

    Attributes:
        is_layer_norm: torch's LayerNorm, though it has no bias; one that has is LayerNorm anyway.
    """

    name: str
    width: int
    bias: bool = False
    weight: bool = True
    is_layer_norm: bool = False
    indexer: Indexer = ""

    @property
    def has_means(self) -> bool:
        """Whether rows lose their mean: LayerNorm does so, RMSNorm does not."""
        return self.bias or self.is_layer_norm

    def parameters(self) -> Iterator[Parameter]:
        picks = bool(self.indexer)
        if self.weight:
            yield Parameter(f"{self.name}.weight", (self.width,), "vector", picks=picks)
        if self.bias:
            yield Parameter(f"{self.name}.bias", (self.width,), "vector", picks=picks)


@dataclass(frozen=True, slots=True)
class Plain:
    """Any other parameter tensor (a scale, a decay, a relative-position table)."""

    name: str
    shape: tuple[int, ...]
    trainable: bool = True
    indexer: Indexer = ""

    def parameters(self) -> Iterator[Parameter]:
        picks = bool(self.indexer)
        yield Parameter(self.name, self.shape, "vector", trainable=self.trainable, picks=picks)


@dataclass(frozen=True, slots=True)
class Conv:
    """A one-dimensional convolution along the sequence."""

    name: str
    n_in: int
    n_out: int
    kernel: int
    n_groups: int = 1
    bias: bool = True

    def parameters(self) -> Iterator[Parameter]:
        shape = (self.n_out, self.n_in // self.n_groups, self.kernel)
        yield Parameter(f"{self.name}.weight", shape, "vector")
        if self.bias:
            yield Parameter(f"{self.name}.bias", (self.n_out,), "vector")


@dataclass(frozen=True, slots=True)
class AttentionCore:
    """Scores and weighted values of one attention layer; holds no parameters.

    Attributes:
        head_dim: width of a query or key head.
        v_head_dim: width of a value head.
        window: keys that one query sees at most, its own included (sliding or chunked; both
            sides together where not causal); None for all.
        causal: whether a token sees only those before it.
        cross: whether keys and values come from the encoder.
        cache_width: numbers cached per token and layer while serving; None for keys and values
            of every kv head. Latent attention caches its compressed latent, a layer that reuses
            another's cache caches 0.
    """

    n_heads: int
    n_kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int | None = None
    causal: bool = True
    cross: bool = False
    cache_width: int | None = None
    indexer: Indexer = ""

    @property
    def cached_per_token(self) -> int:
        """Numbers that one token leaves in the cache of this layer."""
        if self.cache_width is not None:
            return self.cache_width
        return self.n_kv_heads * (self.head_dim + self.v_head_dim)

    def parameters(self) -> Iterator[Parameter]:
        return iter(())


@dataclass(frozen=True, slots=True)
class Scan:
    """A recurrence along the sequence (Mamba, linear attention, RWKV); parameters are separate.

    Attributes:
        state_size: numbers of state kept per sequence and layer, the convolution's included.
        flops_per_token: forward FLOPs of the recurrence for one token, projections excluded.
        kind: ``mamba``, ``mamba2``, ``delta``, ``lightning``; whose program it is.
        n_heads: states of `k_dim` by `v_dim` numbers each; a channel of Mamba's is a head.
        n_groups: groups of heads that share what is written and read (B and C, keys).
        chunk: tokens that a chunked form computes at once.
    """

    state_size: int
    flops_per_token: int
    kind: str = ""
    n_heads: int = 1
    k_dim: int = 1
    v_dim: int = 1
    n_groups: int = 1
    chunk: int = 64

    @property
    def width(self) -> int:
        """Of the values of all heads."""
        return self.n_heads * self.v_dim

    def parameters(self) -> Iterator[Parameter]:
        return iter(())


@dataclass(frozen=True, slots=True)
class Buffer:
    """A table that a module keeps and does not train (sinusoids, a causal mask).

    Attributes:
        itemsize: bytes of a number; None for those of a weight.
    """

    name: str
    shape: tuple[int, ...]
    itemsize: int | None = None

    def parameters(self) -> Iterator[Parameter]:
        return iter(())


Part = Linear | Experts | Embedding | Norm | Plain | Conv | AttentionCore | Scan | Buffer
