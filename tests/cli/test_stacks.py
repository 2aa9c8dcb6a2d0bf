"""`--stack` beside models that it does not train, or trains in another way than its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lmsize.catalogue.tables import recipes, stack_scopes
from lmsize.stacks.scope import IN_TORCH, NAMES
from lmsize.stacks.stack_options import SWITCHES

Run = Callable[[str | list[str]], Any]
Refused = Callable[[str | list[str]], str]


def assumed(run: Run, command: str) -> dict[str, str]:
    """The assumptions of an answer by code."""
    said = run(command + " --json")
    assert said.code == 0, said.err
    return {a["code"]: a["text"] for a in json.loads(said.out)["assumptions"]}


@pytest.mark.parametrize(
    ("command", "kind", "able"),
    [
        ("mamba-130m --stack megatron", "Mamba layers", "transformers or deepspeed or unsloth"),
        ("jamba-v0.1 --stack torchtitan", "Mamba layers", "transformers"),
        ("bert-base-uncased --stack litgpt", "encoders", "megatron"),
        ("bert-base-uncased --stack torchtitan", "encoders", "deepspeed"),
        ("t5-small --stack torchtitan", "encoder-decoders", "megatron"),
        ("t5-small --stack litgpt --method lora", "encoder-decoders", "transformers"),
        ("nemotron-h-56b --stack litgpt", "Mamba-2 layers", "megatron"),
    ],
)
def test_a_stack_that_cannot_train_the_model(
    command: str, kind: str, able: str, run: Run, refused: Refused
) -> None:
    name, _, stack = command.partition(" --stack ")
    message = refused(f"train {command}")
    assert message.startswith(f"error: --stack: {stack.split()[0]!r} is not valid")
    assert f"a stack that trains {kind} ({name}" in message
    assert able in message


@pytest.mark.parametrize(
    "command",
    ["bert-base-uncased --stack megatron", "t5-small --stack megatron",
     "nemotron-h-56b --stack megatron", "llama-3.1-8b --stack unsloth", "mixtral-8x7b --stack litgpt",
     "qwen3-8b --stack torchtitan", "bert-base-uncased --stack deepspeed"],
)  # fmt: skip
def test_a_stack_with_code_for_the_model(command: str, run: Run) -> None:
    assert "stack-model" not in assumed(run, f"train {command}")


@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("bert-base-uncased --stack unsloth", "FastModel"),
        ("t5-small --stack unsloth --method lora", "FastModel"),
        ("mamba-130m --stack unsloth", "FastModel"),
        ("mixtral-8x7b --stack torchtitan", "transformers backend"),
        ("opt-125m --stack litgpt", "no configuration"),
        ("roberta-base --stack megatron", "BERT"),
    ],
)
def test_a_stack_that_needs_something_general(command: str, how: str, run: Run) -> None:
    assert how in assumed(run, f"train {command}")["stack-model"]


@pytest.mark.parametrize(
    ("model", "package"), [("mamba-130m", "mamba-ssm"), ("nemotron-h-56b", "mamba-ssm"),
                           ("qwen3-next-80b-a3b", "flash-linear-attention")],
)  # fmt: skip
def test_recurrences_without_kernels_are_said(model: str, package: str, run: Run) -> None:
    said = assumed(run, f"train {model}")["recurrence-in-torch"]
    assert package in said
    assert "--recompute full" in said
    assert "recurrence-in-torch" not in assumed(run, "train llama-3.1-8b")


def test_every_stack_says_what_it_trains() -> None:
    scopes = stack_scopes()
    assert set(scopes) == {stack for stack, _ in recipes()}
    assert set(SWITCHES) <= set(scopes)
    assert set(IN_TORCH) < set(NAMES)
    for scope in scopes.values():
        assert set(scope.own) <= set(scope.trains) <= set(NAMES)
        assert bool(scope.own) == bool(scope.otherwise)
        assert scope.source
        assert scope.source_date
