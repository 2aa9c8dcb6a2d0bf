"""Bad options: exit code 2, one message that says what and why, nothing on stdout."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

TRAIN = "train llama-3.1-8b "
MEGATRON = TRAIN + "--stack megatron --stack-options "
RULES = "train --engine rules --params 7B "
Run = Callable[[str | list[str]], Any]
Refused = Callable[[str | list[str]], str]


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("train llama-3.1-8", "llama-3.1-8b"),
        ("train lama-3.1-8b", "llama-3.1-8b"),
        ("train Meta-Llama/Lama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        (TRAIN + "-g a100-80bg", "A100"),
        (TRAIN + "-g rtx-409", "4090"),
        (TRAIN + "--optimizer adamv", "adam"),
        (TRAIN + "--precision bf61", "bf16"),
        (TRAIN + "--stack megatorn", "megatron"),
        (TRAIN + "--method qlorra", "qlora"),
        (TRAIN + "--recompute ful", "full"),
        (TRAIN + "--attention flesh", "flash"),
        (TRAIN + "--engine analitic", "analytic"),
        (TRAIN + "--method qlora --quant nf5", "nf4"),
        (TRAIN + "--method lora --lora-targets q_porj", "q_proj"),
        (TRAIN + "--micro-bach 1", "--micro-batch"),
        (TRAIN + "--mfu 45", "0.45"),
        ("trian llama-3.1-8b", "train"),
        ("explain activatoins", "activations"),
        ("infer llama-3.1-8b --kv-precision fp9", "fp8"),
        ("compare llama-3.1-8b --by methods", "method"),
        (TRAIN + "--tp 3", "2 or 4"),
        (TRAIN + "--pp 33", "32"),
        (TRAIN + "--ep 2 -n 2", "1"),
        (TRAIN + "--tp 8 -n 12", "8 or 16"),
        (TRAIN + "--cp 3 -n 3", "2 or 4"),
        ("train mixtral-8x7b --ep 3 -n 3", "2 or 4"),
        (TRAIN + "--micro-batch 4 --global-batch 10", "8 or 12"),
        ("train bert-base-uncased --seq-len 513", "512"),
        (MEGATRON + "fp8-recipe=mxfp8", "--precision fp8"),
        (MEGATRON + "fp8-param-gather", "--precision fp8"),
        (MEGATRON + "bf16-last-layers=1", "--precision fp8"),
        (MEGATRON + "recompute-layers=4", "--recompute full"),
        (MEGATRON + "recompute-chunk=4 --recompute selective", "--recompute full"),
        (MEGATRON + "recompute-modules=mlp --recompute full", "--recompute selective"),
        (MEGATRON + "deferral-limit=2", "deferred-head"),
        (MEGATRON + "deferral-limit=2,no-deferred-head", "deferred-head"),
        (MEGATRON + "exp-avg-dtype=bf16", "precision-aware"),
        (MEGATRON + "decoder-seq-length=128", "--seq-len"),
        (MEGATRON + "pads-to-capacity", "capacity-factor"),
        (MEGATRON + "router-padding", "--precision fp8"),
        (MEGATRON + "whole-tensors", "--optimizer muon"),
        (MEGATRON + "atention-backend=flash", "attention-backend"),
        (MEGATRON + "no-attention-backend", "attention-backend"),
        (MEGATRON + "attention-backend=flahs", "flash"),
        (MEGATRON + "recompute-modules=mlpp", "mlp"),
    ],
)
def test_the_nearest_match_is_offered(
    command: str, hint: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    offered = refused(command).rpartition("did you mean")[2]
    assert hint in offered


@pytest.mark.parametrize(
    "value",
    ["0", "-1", "1e30", "1e99999999", "nan", "inf", "", " ", "1.5", "7x", "1G", "0x10", "１", "٣",
     "1kk", "a", "1,5", "1__0", "1e-400", "9" * 5000, "1\n2"],
)  # fmt: skip
@pytest.mark.parametrize(
    "option",
    ["--micro-batch", "--seq-len", "--accelerators", "--tp", "--tokens", "--lora-rank", "--pp", "--cp",
     "--ep", "--etp", "--vp", "--zero", "--global-batch", "--grad-accum", "--steps", "--dataset-tokens"],
)  # fmt: skip
def test_counts_that_make_no_sense(option: str, value: str, refused: Refused) -> None:
    method = ["--method", "lora"] if option == "--lora-rank" else []
    if (option, value) == ("--zero", "0"):
        return
    message = refused(["train", "llama-3.1-8b", *method, f"{option}={value}"])
    assert message.startswith(f"error: {option}: ")
    assert len(message) < 300


@pytest.mark.parametrize("value", ["0", "-1", "1e30", "nan", "", "1.5", "7x", "１", "1 000"])
@pytest.mark.parametrize(
    "option",
    ["--context", "--concurrency", "--prompt", "--output", "--prefill-chunk", "--tp", "-n"],
)
def test_counts_of_serving_that_make_no_sense(option: str, value: str, refused: Refused) -> None:
    message = refused(["infer", "llama-3.1-8b", option, value])
    name = "--accelerators" if option == "-n" else option
    assert message.startswith(f"error: {name}: ")
    assert message.count("\n") == 1


@pytest.mark.parametrize("value", ["0", "-1", "nan", "", "7x", "1e30", "１"])
def test_epochs_that_make_no_sense(value: str, refused: Refused) -> None:
    message = refused(["train", "llama-3.1-8b", "--dataset-tokens", "1B", f"--epochs={value}"])
    assert message.startswith(
        f"error: --epochs: {value!r} is not valid: expected a number from 1e-06 to"
    )


@pytest.mark.parametrize("value", ["0", "-0.1", "1.1", "1e-320", "nan", "inf", "", "half"])
@pytest.mark.parametrize("option", ["--mfu", "--efficiency", "--adapter-fraction"])
def test_fractions_that_make_no_sense(option: str, value: str, refused: Refused) -> None:
    message = refused([*RULES.split(), f"{option}={value}"])
    assert f"{option}: '{value}' is not valid: expected a number from 1e-06 to 1\n" in message


@pytest.mark.parametrize("value", ["5", "0d", "-1d", "7y", "nan", "d", "1e30d", "1e-300s", ""])
def test_durations_need_a_unit(value: str, refused: Refused) -> None:
    message = refused(["train", "llama-3.1-8b", "--steps", "10", f"--deadline={value}"])
    assert "--deadline: " in message


@pytest.mark.parametrize("value", ["40e9..25e9", "..", "1..", "x", "-5", "1 2", "5QB", "1e30"])
def test_ranges_of_bytes(value: str, refused: Refused) -> None:
    assert "--activation-bytes: " in refused([*RULES.split(), f"--activation-bytes={value}"])


@pytest.mark.parametrize("value", ["0", "-1", "1e-300", "1e40", "nan", "fast"])
@pytest.mark.parametrize("option", ["--peak-flops", "--flops-per-sequence"])
def test_rates_that_make_no_sense(option: str, value: str, refused: Refused) -> None:
    assert f"{option}: " in refused([*RULES.split(), f"{option}={value}"])


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (TRAIN + "--zero 4", "--zero: '4' is not valid: expected a whole number from 0 to 3\n"),
        (TRAIN + "--steps 1 --tokens 1", "no value beside --steps"),
        (TRAIN + "--epochs 1", "--epochs: '1' is not valid: expected --dataset-tokens beside it"),
        (
            TRAIN + "--dataset-tokens 1B",
            "--dataset-tokens: '1e+09' is not valid: expected --epochs",
        ),
        (TRAIN + "--epochs 0 --dataset-tokens 1B", "--epochs: '0'"),
        (TRAIN + "--quant nf4", "--method full"),
        (TRAIN + "--lora-rank 8", "--method full"),
        (TRAIN + "--lora-targets attention", "--method full"),
        (TRAIN + "--lora-experts", "--method full"),
        (TRAIN + "--method lora --quant nf4", "--method qlora"),
        (TRAIN + "--method lora --lora-targets nothing", "--lora-targets: 'nothing'"),
        (TRAIN + "--method lora --lora-targets ,", "--lora-targets: ','"),
        (TRAIN + "--params 7B", "--engine rules"),
        (TRAIN + "--efficiency 0.5", "--engine rules"),
        (TRAIN + "--leave-out gradients", "--engine rules"),
        (TRAIN + "--deadline 7d", "--steps, --tokens or --epochs"),
        (TRAIN + "--sequence-parallel", "tp above 1"),
        (TRAIN + "--global-batch 8 --grad-accum 3", "8, which --global-batch implies"),
        (TRAIN + "--engine rules --params 7B", "a model or --params"),
        (
            MEGATRON + "fp8-recipe=mxfp8",
            "'fp8-recipe=mxfp8' is not valid: expected --precision fp8",
        ),
        (
            MEGATRON + "optimizer-offload=2",
            "'2' is not valid: expected a number above 0, 1 at most",
        ),
        (MEGATRON + "no-bias-fusion", "'no-bias-fusion' is not valid: expected one of account-for"),
        (
            MEGATRON + "attention-backend",
            "'attention-backend' is not valid: expected attention-backend=KIND, one of auto",
        ),
        (MEGATRON + "attention-backend=", "expected attention-backend=KIND, one of auto"),
        (
            MEGATRON + "bf16_first_layers",
            "expected bf16-first-layers=NUMBER, a whole number from 1",
        ),
        (MEGATRON + "capacity-factor", "expected capacity-factor=NUMBER, a number above 0"),
        (MEGATRON + "recompute-modules", "expected recompute-modules=KIND, one of core_attn"),
        (MEGATRON + "deterministic=1", "expected no value: deterministic or no-deterministic"),
        (MEGATRON + "deterministic=", "expected no value: deterministic or no-deterministic"),
        (MEGATRON + "no-deterministic,deterministic", "deterministic once"),
        (MEGATRON + "=", "'=' is not valid: expected a switch between the commas"),
        (MEGATRON + ",", "'' is not valid: expected a switch between the commas"),
        (MEGATRON + "deterministic,", "'' is not valid: expected a switch between the commas"),
        (MEGATRON + "=flash", "'=flash' is not valid: expected a switch"),
        (TRAIN + "--stack-options deterministic", "expected one of older-foreach"),
        (TRAIN + "--stack unsloth --stack-options deterministic", "no value with --stack unsloth"),
        (
            TRAIN + "--stack torchtitan --stack-options deterministic",
            "compile, compiled-loss, ends-in-root",
        ),
        (TRAIN + "--engine ''", "--engine: ''"),
        (TRAIN + "-g ''", "--accelerator: ''"),
        (TRAIN + "--optimizer ''", "--optimizer: ''"),
        (TRAIN + "--tp 2 --pp 2 -n 6", "a multiple of tp * pp * cp = 4"),
        ("train mixtral-8x7b --ep 2 -n 1", "--ep: 2"),
        (RULES + "--state-precision fp64", "fp32, fp16"),
        (RULES + "--leave-out weights", "gradients"),
        (RULES + "--deadline 7d", "--steps, --tokens or --epochs"),
        ("train", "MODEL: is missing"),
        ("infer", "MODEL: is missing"),
        ("compare", "MODEL: is missing"),
        ("train --engine rules", "a model or --params"),
        ("train ''", "MODEL: ''"),
        ("train gpt2 extra", "extra"),
        ("train gpt2 --steps", "--steps"),
        ("train gpt2 --json=3", "--json"),
        ("--nothing", "--nothing"),
        ("infer llama-3.1-8b --context 10 --prompt 10", "prompt + output = 11"),
        ("infer llama-3.1-8b --context 10 --output 11", "prompt + output = 12"),
        ("infer llama-3.1-8b --context 1", "prompt + output = 2"),
        ("infer bert-base-uncased --context 513", "512"),
        ("infer llama-3.1-8b --tp 5", "--tp: 5"),
        ("infer llama-3.1-8b --quant nf5", "--quant: 'nf5'"),
        ("infer llama-3.1-8b --precision amp-bf16", "--precision: 'amp-bf16'"),
        ("infer llama-3.1-8b --steps 4", "--steps"),
        ("compare llama-3.1-8b --method full", "every method"),
        ("compare llama-3.1-8b --by precision --precision bf16", "asks for each"),
        ("explain ''", "TERM: ''"),
    ],
)
def test_contradictions_name_what_is_wrong(command: str, named: str, refused: Refused) -> None:
    assert named in refused(command)


@pytest.mark.parametrize(
    "command", ["train {} -g h100", "infer {}", "compare {}", "train {} --json"]
)
def test_names_of_any_form_are_refused_as_text(command: str, refused: Refused) -> None:
    for name in ("ламма-3", "模型", "[/bold]", "a" * 5000, "llama\\n3", "~nobody-of-that-name/x"):
        words = [name if word == "{}" else word for word in command.split()]
        message = refused(words)
        assert "MODEL: " in message
        assert message.count("\n") == 1


def test_a_run_that_is_too_big_is_an_answer(run: Run) -> None:
    said = run("train llama-3.1-70b -g rtx-4090 --seq-len 256 --json")
    assert (said.code, said.err) == (1, "")
    verdict = json.loads(said.out)["verdict"]
    assert verdict["fits"] is False
    assert "It would fit with -n " in verdict["sentence"]
    assert run("infer llama-3.1-70b -g rtx-4090").code == 1
    assert run("train llama-3.1-8b").code == 0
    assert run("compare llama-3.1-70b -g rtx-4090").code == 0


def test_huge_but_legal_runs_are_finite(run: Run) -> None:
    for command in (
        TRAIN + "-g h100 --mfu 1e-6 --tokens 1e18 --deadline 1s",
        RULES
        + "--flops-per-sequence 1e30 --steps 1e18 --peak-flops 1 --deadline 1s --efficiency 1e-6",
        "infer llama-3.1-8b -g h100 --concurrency 2e9 --context 2e9",
        TRAIN + "-g h100 -n 1e8 --zero 3 --micro-batch 2e9 --seq-len 2e9",
    ):
        said = run(command + " --json")
        assert said.code in {0, 1}, said.err
        assert json.loads(said.out)["schema"] == "lmsize/estimate/1"
        assert run(command).code == said.code


@pytest.mark.parametrize(
    "command",
    ["train llama-3.1-8b --seq-len 200k", "infer llama-3.1-8b --context 200k",
     "infer llama-3.1-8b --prompt 200k", "compare llama-3.1-8b --seq-len 200k"],
)  # fmt: skip
def test_more_positions_than_the_model_was_made_for_are_said(command: str, run: Run) -> None:
    said = run(command)
    assert said.code == 0, said.err
    assert "beyond-max-positions" in said.out
    assert "131072" in said.out
    within = run(command.replace("200k", "100k"))
    assert "beyond-max-positions" not in within.out
