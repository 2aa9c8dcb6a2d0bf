"""Which modules get a LoRA adapter, and the two small matrices each one adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lmsize.errors import InputError, nearest_names
from lmsize.model.adapted import SAVED
from lmsize.model.parts import AttentionCore, Embedding, Experts, Linear, Part, Plain
from lmsize.model.spec import Block, ModelSpec, Run, Tower

MAGNITUDES = ".lora_magnitude_vector"


def adapters_of(linear: Linear, *, rank: int) -> tuple[Linear, Linear]:
    """The pair that peft adds to one linear: ``rank * (n_in + n_out)`` parameters.

    Tensor parallelism splits the side that the base splits, and the other stays whole.
    """
    down = replace(
        linear, name=f"{linear.name}.lora_A", n_out=rank, bias=False, tied=False,
        split="row" if linear.split == "row" else None,
    )  # fmt: skip
    up = replace(
        linear, name=f"{linear.name}.lora_B", n_in=rank, bias=False, tied=False,
        split="column" if linear.split == "column" else None,
    )  # fmt: skip
    return down, up


def expert_adapters(experts: Experts, *, rank: int) -> Experts:
    """Adapters on every routed expert's matrices, each of its own."""
    pairs = []
    for name, n_in, n_out in experts.matrices:
        pairs += [(f"{name}.lora_A", n_in, rank), (f"{name}.lora_B", rank, n_out)]
    return replace(experts, matrices=tuple(pairs), bias=False)


def saved_copy(part: Linear | Embedding) -> Part:
    """The copy of a whole module that peft trains in its place (``modules_to_save``); never tied."""
    name = f"{part.name}{SAVED}"
    return replace(part, name=name, tied=False) if isinstance(part, Linear) else replace(
        part, name=name, trainable=True
    )  # fmt: skip


def adapter_model(
    model: ModelSpec,
    *,
    rank: int,
    targets: str,
    experts: bool = False,
    saved: str = "",
    kind: str = "lora",
) -> ModelSpec:
    """The adapters of a model as a model of its own: same towers and runs, only adapter parts.

    Args:
        targets: ``all-linear`` (every linear but the output head), ``attention`` (the linears of
            attention layers) or module names, comma-separated (``q_proj,v_proj``).
        kind: ``dora`` adds a magnitude for every output of an adapted linear.
        experts: whether routed experts are adapted too (peft's ``target_parameters``).
        saved: names of modules that are trained whole beside them, comma-separated.

    Raises:
        InputError: nothing in the model matches; the names that could have been are offered.
    """
    chosen, whole = _chooser(model, targets), _saved_names(model, saved)
    towers = []
    n_found = 0
    for tower in model.towers:
        runs = []
        for run in tower.runs:
            parts: list[Part] = []
            for part in run.block.parts:
                if isinstance(part, Linear | Embedding) and part.name in whole:
                    parts.append(saved_copy(part))
                elif isinstance(part, Linear) and part.adaptable and chosen(run.block, part):
                    parts += adapters_of(part, rank=rank)
                    if kind == "dora":
                        name = f"{part.name}{MAGNITUDES}"
                        parts.append(Plain(name, (part.n_out,), indexer=part.indexer))
                elif isinstance(part, Experts) and experts:
                    parts.append(expert_adapters(part, rank=rank))
            n_found += len(parts)
            block = Block(run.block.name, tuple(parts), run.block.role)
            runs.append(Run(block, run.n_layers, run.n_copies))
        towers.append(Tower(tower.name, tuple(runs), tower.stream))
    if not n_found:
        raise InputError("--lora-targets", targets, "modules that this model has")
    return replace(model, towers=tuple(towers))


def _saved_names(model: ModelSpec, saved: str) -> set[str]:
    """Names of the modules to be trained whole."""
    known = {
        part.name for _, run in model.runs() for part in run.block.parts
        if isinstance(part, Linear | Embedding)
    }  # fmt: skip
    names: set[str] = set()
    for wanted in filter(None, map(str.strip, saved.split(","))):
        found = {full for full in known if _matches(full, wanted)}
        if not found:
            leaves = {full.rsplit(".", 1)[-1] for full in known}
            near = nearest_names(wanted, leaves) or sorted(leaves)[:8]
            raise InputError("--modules-to-save", wanted, "a module of the model", nearest=near)
        names |= found
    return names


def _chooser(model: ModelSpec, targets: str) -> Callable[[Block, Linear], bool]:
    if targets == "all-linear":
        return lambda _block, _linear: True
    if targets == "attention":
        return lambda block, linear: linear.name in _attention_names(block)
    wanted = [name.strip() for name in targets.split(",") if name.strip()]
    known = {
        part.name for _, run in model.runs() for part in run.block.parts
        if isinstance(part, Linear) and part.adaptable
    }  # fmt: skip
    for name in wanted:
        if not any(_matches(full, name) for full in known):
            leaves = {full.rsplit(".", 1)[-1] for full in known}
            near = nearest_names(name, leaves) or sorted(leaves)[:8]
            raise InputError(
                "--lora-targets", name, "attention, all-linear or module names", nearest=near
            )
    return lambda _block, linear: any(_matches(linear.name, name) for name in wanted)


def _matches(full: str, name: str) -> bool:
    """As peft does: a target is a module's name or the end of its path."""
    return full == name or full.endswith(f".{name}")


def _attention_names(block: Block) -> set[str]:
    """The linears of attention: siblings of the one before each core, and the one after it."""
    names: set[str] = set()
    for at, part in enumerate(block.parts):
        if not isinstance(part, AttentionCore):
            continue
        before = [p for p in block.parts[:at] if isinstance(p, Linear)]
        after = [p for p in block.parts[at:] if isinstance(p, Linear)]
        if before:
            module = before[-1].name.rpartition(".")[0]
            names |= {p.name for p in before if p.name.rpartition(".")[0] == module}
        names |= {p.name for p in after[:1]}
    return names
