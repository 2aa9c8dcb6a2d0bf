"""Which models a stack trains: kinds of models against what its row says."""

from __future__ import annotations

from collections.abc import Mapping

from lmsize.assumption import Assumption
from lmsize.catalogue.rules import StackScope
from lmsize.errors import InputError
from lmsize.model.parts import AttentionCore, Scan
from lmsize.model.spec import ModelSpec

NAMES = {
    "decoder": "decoders", "encoder": "encoders", "encoder-decoder": "encoder-decoders",
    "mamba": "Mamba layers", "mamba2": "Mamba-2 layers", "delta": "gated delta layers",
    "lightning": "lightning attention", "recurrence": "recurrent layers",
}  # fmt: skip
IN_TORCH = {  # recurrence -> the packages whose kernels transformers takes where they are installed
    "mamba": ("mamba-ssm and causal-conv1d", "a loop over tokens that keeps every state"),
    "mamba2": ("mamba-ssm and causal-conv1d", "chunks that keep the scores of every pair of tokens"),
    "delta": ("flash-linear-attention and causal-conv1d", "a loop over chunks that keeps every state"),
}  # fmt: skip


def recurrences(model: ModelSpec) -> tuple[str, ...]:
    """The kinds of recurrent layers that a text runs through, in order of name."""
    found = {
        part.kind or "recurrence"
        for tower, run in model.runs()
        if tower.stream != "idle"
        for part in run.block.parts
        if isinstance(part, Scan)
    }
    return tuple(sorted(found))


def body(model: ModelSpec) -> str:
    """Whether a model is a ``decoder``, an ``encoder`` or an ``encoder-decoder``."""
    if model.is_encoder_decoder:
        return "encoder-decoder"
    causal = [
        part.causal
        for tower, run in model.runs()
        if tower.stream != "idle"
        for part in run.block.parts
        if isinstance(part, AttentionCore)
    ]
    return "encoder" if causal and not any(causal) else "decoder"


def within_scope(
    stack: str, model: ModelSpec, scopes: Mapping[str, StackScope]
) -> tuple[Assumption, ...]:
    """What is taken for granted where a stack trains a model.

    Raises:
        InputError: it does not train models of this kind; names the stacks that do.
    """
    scope = scopes[stack]
    kinds = (body(model), *recurrences(model))
    lacking = next((kind for kind in kinds if kind not in scope.trains), None)
    if lacking is not None:
        able = [name for name, other in scopes.items() if set(kinds) <= set(other.trains)]
        of_it = "is one" if lacking == kinds[0] else "has them"
        trained = ", ".join(NAMES[kind] for kind in scope.trains)
        expected = (
            f"a stack that trains {NAMES[lacking]} ({model.name} {of_it}): {' or '.join(able)}; "
            f"{stack} trains {trained}"
        )
        raise InputError("--stack", stack, expected)
    return (*_of_code(scope, kinds[0], model), *_in_torch(model))


def _of_code(scope: StackScope, kind: str, model: ModelSpec) -> tuple[Assumption, ...]:
    if scope.has_code_for(kind, model.model_type):
        return ()
    text = f"{scope.stack} has no code of its own for {model.model_type}: {scope.otherwise}"
    return (Assumption("stack-model", text),)


def _in_torch(model: ModelSpec) -> tuple[Assumption, ...]:
    """Recurrences that are taken as transformers writes them in plain torch."""
    return tuple(
        Assumption("recurrence-in-torch", _told(NAMES[kind], *IN_TORCH[kind]))
        for kind in recurrences(model)
        if kind in IN_TORCH
    )


def _told(name: str, packages: str, loop: str) -> str:
    return (
        f"{name} run in plain torch, {loop}: with {packages} installed a step takes far less memory, which "
        "no option asks for yet; --recompute full lessens it, and lmsize measure tells it where they are "
        "installed"
    )
