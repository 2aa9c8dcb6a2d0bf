"""Grid files: families, cases, order, and every mistake by its place."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmsize.api.measuring import grid_cases
from lmsize.errors import LmsizeError
from lmsize.measuring import campaign as campaigns
from lmsize.measuring.campaign import campaign, ordered
from lmsize.measuring.case import Case
from lmsize.measuring.outcome import Measured, Peak
from lmsize.measuring.store import Store

GRIDS = Path(__file__).parents[3] / "benchmarks/grids"
Write = Callable[[str], list[Case]]


@pytest.fixture
def cases(tmp_path: Path, tiny: dict[str, Any]) -> Write:
    """The cases of a grid file's text; MODEL stands for the tiny model."""
    model = tmp_path / "tiny.json"
    model.write_text(json.dumps(tiny))

    def read(text: str) -> list[Case]:
        path = tmp_path / "grid.toml"
        path.write_text(text.replace("MODEL", json.dumps(str(model))))
        return grid_cases(path, device="cpu")

    return read


def test_lists_are_axes_and_base_holds_for_all(cases: Write) -> None:
    found = cases("""
        [base]
        seq_len = 8
        [[family]]
        model = MODEL
        micro_batch = [1, 2]
        precision = ["fp32", "bf16"]
        [[case]]
        model = MODEL
        seq_len = 4
        processes = 2
        zero = 3
    """)
    seen = [(c.spec.micro_batch, c.spec.precision, c.spec.seq_len, c.n_processes) for c in found]
    product = itertools.product([1, 2], ["fp32", "bf16"])
    assert seen == [(b, p, 8, 1) for b, p in product] + [(1, "amp-bf16", 4, 2)]


def test_a_smaller_model_of_a_kind(cases: Write) -> None:
    (case,) = cases("""
        [models.smaller]
        like = MODEL
        config = { num_hidden_layers = 1 }
        [[case]]
        model = "smaller"
    """)
    assert case.label.endswith("tiny.json (smaller)")
    assert case.note == "smaller: with num_hidden_layers=1"
    assert case.architecture.n_layers == 1


def test_each_case_once_and_small_ones_first(cases: Write) -> None:
    found = cases("""
        [[family]]
        model = MODEL
        micro_batch = [4, 1, 2, 1]
        seq_len = [64, 16]
    """)
    sizes = [(c.spec.micro_batch or 0) * (c.spec.seq_len or 0) for c in ordered(found)]
    assert sizes == sorted(sizes)
    assert len(sizes) == 6


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "at least one"),
        ("[[case]\n", "valid TOML"),
        ("[[case]]\nmodel = MODEL\nmicro_bacth = 1\n", "case 1.*micro_batch"),
        ("[[case]]\nmicro_batch = 1\n", "case 1: model"),
        ("[[case]]\nmodel = MODEL\nmicro_batch = [1, 2]\n", "family"),
        ("[[family]]\nmodel = MODEL\nmicro_batch = []\n", "not empty"),
        ("[[family]]\nmodel = MODEL\nmicro_batch = [1, 0]\n", "family 1: --micro-batch"),
        ("[[family]]\nmodel = MODEL\nmicro_batch = [[1]]\n", "family 1: micro_batch"),
        ("[[family]]\nmodel = 3\n", "in quotes"),
        ("[[family]]\nmodel = 'llama-3.1-8x'\n", "family 1: MODEL.*llama-3.1-8b"),
        ("[family]\nmodel = MODEL\n", "double brackets"),
        ("families = 3\n", "family"),
        ("base = 3\n[[case]]\nmodel = MODEL\n", "a table"),
        ("[base]\ndevice = 'cpu'\n[[case]]\nmodel = MODEL\n", "device"),
        ("[models.x]\nlik = 'gpt2'\n[[case]]\nmodel = 'x'\n", "like"),
        ("[models.x]\nlike = 3\n[[case]]\nmodel = 'x'\n", "in quotes"),
        ("[models.x]\nlike = 'gpt2'\nconfig = 3\n[[case]]\nmodel = 'x'\n", "a table"),
        ("[models.x]\nlike='gpt2'\nconfig={n_layer='x'}\n[[case]]\nmodel='x'\n", "n_layer"),
        ("[[case]]\nmodel = MODEL\nprocesses = 0\n", "processes"),
        ("[[case]]\nmodel = MODEL\nzero = 3\n", "--zero"),
        ("[[case]]\nmodel = MODEL\nseq_len = 1e400\n", "--seq-len"),
        ("[[case]]\nmodel = MODEL\nlora_rank = 4\n", "--lora-rank"),
    ],
)
def test_mistakes_are_named_with_their_place(cases: Write, text: str, match: str) -> None:
    with pytest.raises(LmsizeError, match=match) as caught:
        cases(text)
    assert "grid.toml" in str(caught.value)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "none.toml", tmp_path, binary):
        with pytest.raises(LmsizeError, match="--grid"):
            grid_cases(path, device="cpu")


def test_the_grids_that_ship_are_sound() -> None:
    assert len({c.key for c in grid_cases(GRIDS / "accelerator.toml", device="cpu")}) >= 150
    assert 15 <= len({c.key for c in grid_cases(GRIDS / "cpu.toml", device="cpu")}) <= 30


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Stand in for the processes: what does not fit 100 tokens is out of memory."""
    seen: list[tuple[int, int]] = []

    def stand_in(case: Case, *, limit_s: float) -> Measured:
        size = (case.spec.micro_batch or 0, case.spec.seq_len or 0)
        seen.append(size)
        if size[0] * size[1] > 100:
            return Measured("OOM", reason=f"within {limit_s:g} s", device_name="CPU (x)")
        return Measured(
            "fits", peaks=(Peak("allocated", 2**20, "max allocated (x)"),), step_s=(1.0,)
        )

    monkeypatch.setattr(campaigns, "in_own_process", stand_in)
    return seen


SIZES = """
    [[family]]
    model = MODEL
    seq_len = 32
    micro_batch = [1, 2, 4, 8, 16]
"""


def test_sizes_beyond_out_of_memory_are_not_run(
    cases: Write, measured: list[tuple[int, int]], tmp_path: Path
) -> None:
    said: list[str] = []
    store = Store(tmp_path / "rows.csv")
    tally = campaign(cases(SIZES), store, tell=said.append, case_limit_s=5)
    assert measured == [(1, 32), (2, 32), (4, 32)]
    assert (tally.counts, tally.n_implied) == ({"fits": 2, "OOM": 1}, 2)
    assert "left" in said[2]
    assert "not run" in said[-1]


def test_a_campaign_goes_on_where_it_stopped(
    cases: Write, measured: list[tuple[int, int]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    grid = cases(SIZES)
    first = campaign(grid, Store(path), tell=str, case_limit_s=5, total_limit_s=0.0)
    assert (measured, first.n_left) == ([], 5)
    campaign(grid[:2], Store(path), tell=str, case_limit_s=5)
    second = campaign(grid, Store(path), tell=str, case_limit_s=5)
    assert measured == [(1, 32), (2, 32), (4, 32)]
    assert second.n_skipped == 2
