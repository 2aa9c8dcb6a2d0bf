"""``lmsize measure`` as a user runs it: real steps in processes of their own."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmsize.measurements.columns import COLUMNS

TINY = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 64, "max_position_embeddings": 64,
}  # fmt: skip
QUICK = ["--precision", "fp32", "--seq-len", "16", "--steps", "1", "--warmup", "1"]
Process = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # also of the processes that a test starts


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    return str(path)


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_step_becomes_a_row(process: Process, model: str, tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    said = process("measure", model, *QUICK, "--device", "cpu", "--out", str(out), "--json")
    assert said.returncode == 0, said.stderr
    document = json.loads(said.stdout)
    (row,) = rows_in(out)
    assert tuple(row) == COLUMNS
    assert {name: cell for name, cell in row.items() if cell} == document["rows"][0]
    assert row["outcome"] == "fits"
    assert row["gpu"].startswith("CPU (")
    assert 0 < float(row["measured_peak_gib"]) < 0.01
    assert float(row["measured_step_time_s"]) > 0
    assert row["metric_definition"].startswith("max allocated (")
    assert "torch=" in row["extra_config"]


GRID = """
[base]
precision = "fp32"
seq_len = 16
steps = 1
warmup = 1
[[family]]
model = MODEL
micro_batch = SIZES
"""


def grid_text(model: str, sizes: str) -> str:
    return GRID.replace("MODEL", json.dumps(model)).replace("SIZES", sizes)


def test_a_grid_resumes_and_counts_out_of_memory(
    process: Process, model: str, tmp_path: Path
) -> None:
    grid, out = tmp_path / "grid.toml", tmp_path / "rows.csv"
    grid.write_text(grid_text(model, "1"))
    command = ["measure", "--grid", str(grid), "--out", str(out), "--device", "cpu"]
    first = process(*command)
    assert (first.returncode, first.stdout) == (0, f"{out}: 1 fits\n"), first.stderr
    assert "[1/1]" in first.stderr
    before = out.read_text()
    grid.write_text(
        grid_text(model, "1")
        + f"[[case]]\nmodel = {json.dumps(model)}\nmicro_batch = 400_000\nmemory_limit = '500MiB'\n"
    )
    second = process(*command, "--json")
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["outcomes"] == {"OOM": 1}
    assert json.loads(second.stdout)["already_measured"] == 1
    assert out.read_text().startswith(before)
    measured, oom = rows_in(out)
    assert measured["outcome"] == "fits"
    assert (oom["outcome"], oom["measured_peak_gib"]) == ("OOM", "")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes that start meanwhile hear SIGINT, which a shell's background jobs are deaf to."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_grid_ends_what_it_started(model: str, tmp_path: Path) -> None:
    grid, out = tmp_path / "grid.toml", tmp_path / "rows.csv"
    grid.write_text(grid_text(model, "[1, 2]").replace("steps = 1", "steps = 1_000_000"))
    running = subprocess.Popen(
        [sys.executable, "-m", "lmsize", "measure", "--grid", str(grid), "--out", str(out),
         "--device", "cpu"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stderr is not None
    assert "[1/2]" in running.stderr.readline()
    time.sleep(0.5)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "Traceback" not in said
    assert len(children) == 1
    assert not Path(f"/proc/{children[0]}").exists()


def test_a_case_that_takes_too_long_or_crashes_is_a_row(
    model: str, tmp_path: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmsize.measuring import campaign

    grid, out = tmp_path / "grid.toml", tmp_path / "rows.csv"
    grid.write_text(grid_text(model, "[1, 2]"))
    endings = iter(["import time; time.sleep(60)", "import os; os.kill(os.getpid(), 9)"])

    def command(*_: object) -> list[str]:
        return [sys.executable, "-c", next(endings)]

    monkeypatch.setattr(campaign, "_command", command)
    said = run(["measure", "--grid", str(grid), "--out", str(out), "--device", "cpu",
                "--case-limit", "1s"])  # fmt: skip
    assert said.code == 0
    slow, killed = rows_in(out)
    assert (slow["outcome"], killed["outcome"]) == ("timeout", "failed")
    assert "SIGKILL" in killed["notes"]
    assert "1 timeout, 1 failed" in said.out


RANKS = """
import json, lmsize, os, sys
options = dict(precision="fp32", seq_len=16, steps=1, warmup=1, device="cpu", grad_accum=2)
rows = [lmsize.measure(sys.argv[1], zero=zero, **options).rows[0] for zero in (0, 3)]
if os.environ["RANK"] == "0":
    print(json.dumps(rows))
"""


def test_two_processes_share_the_step(model: str, tmp_path: Path) -> None:
    """DDP and FSDP2, by torchrun."""
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    said = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script), model],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    ddp, fsdp = json.loads(said.stdout)
    for row in (ddp, fsdp):
        assert (row["n_gpus"], row["dp"], row["global_batch"]) == ("2", "2", "4")
        assert "of 2 ranks" in row["metric_definition"]
        assert float(row["measured_peak_gib"]) > 0
        assert row["quality"] == "C"  # an upper bound
    assert (ddp["sharding"], fsdp["sharding"]) == ("ddp", "fsdp2")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "MODEL"),
        (["gpt2", "--device", "tpu"], "--device"),
        (["gpt2", "--grid", "x.toml", "--out", "y.csv"], "MODEL"),
        (["--grid", "no-such.toml", "--out", "y.csv"], "--grid"),
        (["--grid", "x.toml"], "--out"),
        (["--grid", "x.toml", "--out", "y.csv", "--seq-len", "8"], "--seq-len"),
        (["gpt2", "--case-limit", "5m"], "--grid"),
        (["gpt2", "--max-minutes", "5"], "--grid"),
        (["gpt2", "--seq-len", "2048", "--device", "cpu"], "1024"),
        (["gpt2", "--micro-bacth", "1"], "--micro-batch"),
        (["gpt3", "--device", "cpu", "--out", "rows.csv"], "gpt2"),
        (["gpt2", "--out", "/no/such/folder/rows.csv", "--device", "cpu"], "--out"),
        (["gpt2", "--precision", "fp8", "--device", "cpu"], "--precision"),
    ],
)
def test_bad_input_is_refused(
    refused: Callable[..., str], arguments: list[str], match: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert match in refused(["measure", *arguments])
    assert list(tmp_path.iterdir()) == []


def test_without_torch_the_extra_is_named(
    refused: Callable[..., str], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmsize.step import extras

    monkeypatch.setattr(extras, "find_spec", lambda _name: None)
    for arguments in ([model], [model, "--device", "cpu"]):
        assert "lmsize[measure]" in refused(["measure", *arguments])


def test_help_needs_no_torch(process: Process) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from lmsize.cli import cli;"
        "r = CliRunner().invoke(cli, ['measure', '--help']); print(r.output);"
        "assert 'torch' not in sys.modules and r.exit_code == 0"
    )
    said: Any = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    assert "--grid" in said.stdout
