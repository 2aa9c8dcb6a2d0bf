"""Bad input: exit code 2, one message that says what and why, nothing on stdout, no traceback."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmsize import cli

TRAIN = "train llama-3.1-8b "


def run(command: str | list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line, in this process."""
    words = shlex.split(command) if isinstance(command, str) else command
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lmsize", *words])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    captured = capsys.readouterr()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, captured.out, captured.err


def refused(command: str | list[str], capsys: pytest.CaptureFixture[str]) -> str:
    code, out, err = run(command, capsys)
    assert code == 2
    assert out == ""
    assert err.strip()
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("train llama-3.1-8", "llama-3.1-8b"),
        ("train lama-3.1-8b", "llama-3.1-8b"),
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
    ],
)
def test_the_nearest_match_is_offered(
    command: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hint in refused(command, capsys)


@pytest.mark.parametrize(
    "value", ["0", "-1", "1e30", "nan", "inf", "", "1.5", "7x", "1G", "0x10", "１", "1kk", "a"]
)
@pytest.mark.parametrize(
    "option", ["--micro-batch", "--seq-len", "-n", "--tp", "--tokens", "--lora-rank"]
)
def test_counts_that_make_no_sense(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    method = ["--method", "lora"] if option == "--lora-rank" else []
    refused(
        ["train", "llama-3.1-8b", *method, f"{option}={value}" if option != "-n" else f"-n{value}"],
        capsys,
    )


@pytest.mark.parametrize("value", ["0", "-0.1", "1.1", "nan", "inf", "", "half"])
@pytest.mark.parametrize("option", ["--mfu", "--efficiency", "--adapter-fraction"])
def test_fractions_that_make_no_sense(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["train", "--engine", "rules", "--params", "1B", f"{option}={value}"], capsys)


@pytest.mark.parametrize("value", ["5", "0d", "-1d", "7y", "nan", "d", "1e30d", ""])
def test_durations_need_a_unit(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["train", "llama-3.1-8b", "--steps", "10", f"--deadline={value}"], capsys)


@pytest.mark.parametrize("value", ["40e9..25e9", "..", "1..", "x", "-5", "1 2", "5QB"])
def test_ranges_of_bytes(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["train", "--engine", "rules", "--params", "1B", f"--activation-bytes={value}"], capsys)


@pytest.mark.parametrize(
    "options",
    [
        "--zero 4", "--steps 1 --tokens 1", "--epochs 1", "--dataset-tokens 1B", "--quant nf4",
        "--lora-rank 8", "--method lora --quant nf4", "--params 7B", "--efficiency 0.5",
        "--leave-out gradients", "--deadline 7d", "--sequence-parallel", "--global-batch 8 --grad-accum 3",
        "--engine rules --params 7B", "--engine trace", "--lora-targets ''",
        "--method lora --lora-targets nothing", "--engine rules --state-precision fp64",
        "--engine rules --leave-out weights", "--catalogue /nonexistent.toml", "--catalogue .",
    ],
)  # fmt: skip
def test_contradictions(options: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(TRAIN + options, capsys)


@pytest.mark.parametrize(
    "command",
    [
        "train", "train ''", "infer", "compare", "train --engine rules", "infer llama-3.1-8b --context 10 --prompt 10",
        "infer llama-3.1-8b --context 10 --output 11", "infer bert-base-uncased --context 513",
        "infer llama-3.1-8b --tp 5", "infer llama-3.1-8b --quant nf5", "explain ''", "compare llama-3.1-8b --method full",
        "train gpt2 extra",
    ],
)  # fmt: skip
def test_commands_that_lack_or_contradict(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(command, capsys)


GOOD = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 100, "intermediate_size": 128,
}  # fmt: skip


def config_bytes() -> dict[str, bytes]:
    text = json.dumps(GOOD)
    return {
        "truncated": text[:40].encode(),
        "empty": b"",
        "binary": bytes(range(256)) * 10,
        "utf-16": text.encode("utf-16"),
        "array": b"[1, 2]",
        "string": b'"llama"',
        "deep": b"[" * 100_000 + b"]" * 100_000,
        "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "long integer": text.replace("64", "9" * 5000).encode(),
        "overflow": text.replace("64", "1e400").encode(),
        "nan": text.replace("64", "NaN").encode(),
        "negative": text.replace("64", "-64").encode(),
        "zero heads": text.replace('"num_attention_heads": 4', '"num_attention_heads": 0').encode(),
        "text for a number": text.replace("64", '"64"').encode(),
        "true for a number": text.replace("64", "true").encode(),
        "a billion layers": text.replace(
            '"num_hidden_layers": 2', '"num_hidden_layers": 1000000000'
        ).encode(),
        "unknown type": b'{"model_type": "nothing-known"}',
        "no keys": b"{}",
    }


@pytest.mark.parametrize("fault", config_bytes())
def test_configs_that_are_none(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_bytes(config_bytes()[fault])
    refused(["train", str(tmp_path)], capsys)


def test_missing_keys_are_all_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "llama", "hidden_size": 64}')
    message = refused(["train", str(file)], capsys)
    assert all(key in message for key in ("num_hidden_layers", "num_attention_heads", "vocab_size"))


def test_an_unknown_type_with_the_usual_keys_is_estimated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GOOD | {"model_type": "brand-new"}))
    code, out, _ = run(["train", str(tmp_path), "--json"], capsys)
    assert code == 0
    assert "unknown-model-type" in {a["code"] for a in json.loads(out)["assumptions"]}


def test_a_folder_without_a_config_and_a_huge_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["train", str(tmp_path)], capsys)
    refused(["train", str(tmp_path / "nothing.json")], capsys)
    huge = tmp_path / "config.json"
    with huge.open("wb") as file:
        file.truncate(2**30)
    assert "16 MiB" in refused(["train", str(huge)], capsys)


def test_a_run_that_is_too_big_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run("train llama-3.1-70b -g rtx-4090 --json", capsys)
    assert (code, err) == (1, "")
    assert json.loads(out)["verdict"]["fits"] is False
    assert run("train llama-3.1-8b", capsys)[0] == 0
    assert run("compare llama-3.1-70b -g rtx-4090", capsys)[0] == 0


def process(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lmsize", *arguments], capture_output=True, text=True, timeout=60,
        env=os.environ | environment, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "environment",
    [{"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}],
)
def test_without_a_network_it_says_so_at_once(environment: dict[str, str], tmp_path: Path) -> None:
    started = time.monotonic()
    found = process(["train", "nobody/nothing-at-all"], HF_HOME=str(tmp_path), **environment)
    assert time.monotonic() - started < 20  # the Hub's own client retries for longer than that
    assert found.returncode == 2
    assert "nobody/nothing-at-all" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_hub_id_of_the_catalogue_never_touches_the_network() -> None:
    found = process(
        ["train", "meta-llama/Llama-3.1-8B", "--json"], HF_ENDPOINT="http://127.0.0.1:9"
    )
    assert found.returncode == 0
    assert json.loads(found.stdout)["parameters"]["total"] == 8_030_261_248


@pytest.mark.parametrize(
    "arguments", ["models", "models --json", "accelerators", "train gpt2 --explain"]
)
def test_a_pipe_that_closes_is_no_error(arguments: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m lmsize {arguments} | head -c 1"
    found = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Traceback" not in found.stderr
    assert "Exception" not in found.stderr


@pytest.mark.parametrize(
    "environment",
    [{"COLUMNS": "20"}, {"NO_COLOR": "1"}, {"TERM": "dumb"}, {"PYTHONIOENCODING": "ascii"}],
)
def test_odd_terminals(environment: dict[str, str]) -> None:
    found = process(["train", "gpt2", "-g", "t4"], **environment)
    assert found.returncode == 0, found.stderr
