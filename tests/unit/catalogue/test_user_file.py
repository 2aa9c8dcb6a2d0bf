"""A user's file adds and overrides rows; every fault of a bad one is reported at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lmsize.catalogue import built_in, load_user_catalogue
from lmsize.errors import CatalogueError

GOOD = """
[accelerators."My GPU"]
capacity_bytes = 48_000_000_000
memory_bandwidth_bytes_per_s = 1e12
bf16_flops_per_s = 2e14
aliases = ["mygpu"]

[accelerators."H100-SXM-80GB"]
capacity_bytes = 84_000_000_000

[nodes.my-box]
provider = "me"
accelerator = "My GPU"
n_accelerators = 4
on_demand_usd_per_accelerator_h = 0.5

[optimizers.mine]
states = [{ name = "m" }, { name = "v", dtype = "int8-block256" }]

[optimizers.adamw]
foreach_copies = 2

[precisions.int5]
bits = 5.0

[carbon.HOME]
name = "Home"
g_co2e_per_kwh = 20
year = 2026

[models.tiny]
model_type = "llama"
hidden_size = 64
hf_id = "me/tiny"
"""


def write(folder: Path, text: str | bytes, name: str = "own.toml") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def faults(folder: Path, text: str | bytes, name: str = "own.toml") -> list[str]:
    with pytest.raises(CatalogueError) as caught:
        load_user_catalogue(write(folder, text, name))
    assert str(folder) in str(caught.value)
    return list(caught.value.faults)


def test_rows_are_added(tmp_path: Path) -> None:
    own = load_user_catalogue(write(tmp_path, GOOD))
    row, assumed = own.accelerator("mygpu")
    assert (row.name, row.capacity_bytes, assumed) == ("My GPU", 48_000_000_000, ())
    assert row.source == "own.toml"
    assert row.source_date.startswith("20")
    price = own.price(row)
    assert price is not None
    assert price.usd_per_accelerator_h == 0.5
    assert [s.dtype for s in own.optimizer("mine").states] == ["state", "int8-block256"]
    assert own.precision("int5").bits_per_value == 5
    assert own.carbon("home").g_co2e_per_kwh == 20
    entry, _ = own.model("tiny")
    assert own.model("me/TINY")[0] is entry
    assert entry.config == {"model_type": "llama", "hidden_size": 64}
    assert len(own.models()) == 235
    assert "mine" in own.optimizers()


def test_an_override_changes_only_the_keys_given(tmp_path: Path) -> None:
    own = load_user_catalogue(write(tmp_path, GOOD))
    row, before = own.accelerator("h100-sxm")[0], built_in().accelerator("h100-sxm")[0]
    assert row.capacity_bytes == 84_000_000_000
    assert row.reported_bytes is None  # it belonged to the other figure
    assert row.bf16_flops_per_s == before.bf16_flops_per_s
    adamw = own.optimizer("adamw_torch")
    assert adamw.foreach_copies == 2.0
    assert adamw.states == built_in().optimizer("adamw").states


def test_the_package_is_not_touched(tmp_path: Path) -> None:
    load_user_catalogue(write(tmp_path, GOOD))
    assert built_in().accelerator("h100-sxm")[0].capacity_bytes != 84_000_000_000
    assert "mine" not in built_in().optimizers()


def test_csv_tables_are_told_by_their_columns(tmp_path: Path) -> None:
    text = (
        "name,capacity_bytes,memory_bandwidth_bytes_per_s,fp16_flops_per_s,aliases\n"
        "Chip A,8000000000,5e11,1e13,chip-a;a1\n"
        "\n"
        "H200-SXM-141GB,,5e12,,\n"
    )
    own = load_user_catalogue(write(tmp_path, text, "chips.csv"))
    assert own.accelerator("a1")[0].name == "Chip A"
    assert own.accelerator("h200-sxm")[0].memory_bandwidth_bytes_per_s == 5e12
    prices = (
        "instance,provider,accelerator,n_accelerators,on_demand_usd_per_accelerator_h\n"
        "rack,we,H100-SXM-80GB,8,1.25\n"
    )
    own = load_user_catalogue(write(tmp_path, prices, "prices.csv"))
    price = own.price(own.accelerator("h100-sxm")[0])
    assert price is not None
    assert price.usd_per_accelerator_h == 1.25
    carbon = "region,name,g_co2e_per_kwh,year\nFRA,France,50.5,2026\nX,Mine,0,2026\n"
    own = load_user_catalogue(write(tmp_path, "\ufeff" + carbon, "grid.CSV"))
    assert own.carbon("fr").g_co2e_per_kwh == 50.5


BAD = """
[accelerators."My GPU"]
capacity_bytes = 48.7
memory_bandwidth_bytes_per_s = nan
bf16_flop_per_s = 2e14
named_only = 1
[accelerators.B]
capacity_bytes = -1
memory_bandwidth_bytes_per_s = 0
bf16_flops_per_s = "8"
[accelerators.C]
tdp_w = 400.0
[nods.x]
a = 1
[nodes.y]
provider = "p"
accelerator = "H1000"
n_accelerators = true
[optimizers.o]
states = [{ name = "m", shape = "liek" }, { nme = "v" }]
applies_to = "matrix"
fallback = "adamv"
"""


def test_every_fault_is_reported_with_its_path(tmp_path: Path) -> None:
    found = "\n".join(faults(tmp_path, BAD))
    for part in (
        'accelerators."My GPU".capacity_bytes: 48.7 is not a whole number',
        'accelerators."My GPU".memory_bandwidth_bytes_per_s: nan is not a finite number',
        'accelerators."My GPU".bf16_flop_per_s: unknown key (did you mean bf16_flops_per_s?)',
        'accelerators."My GPU".named_only: 1 is not true or false',
        'accelerators."B".capacity_bytes: -1 is out of range',
        'accelerators."B".memory_bandwidth_bytes_per_s: 0 is out of range',
        "accelerators.\"B\".bf16_flops_per_s: '8' is not a finite number",
        'accelerators."C".capacity_bytes: missing',
        "nods: unknown table (did you mean nodes?)",
        "nodes.\"y\".accelerator: unknown 'H1000'",
        'nodes."y".n_accelerators: True is not a whole number',
        "optimizers.\"o\".states[0].shape: 'liek' is not one of like",
        'optimizers."o".states: unknown key nme',
        "optimizers.\"o\".fallback: unknown 'adamv' (did you mean adam",
    ):
        assert part in found


CHIP = "[accelerators.X]\ncapacity_bytes = 8_000_000_000\nmemory_bandwidth_bytes_per_s = 1e11\n"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is empty"),
        ("   \n# nothing\n", "holds no row"),
        ("[accelerators]", "holds no row"),
        ("accelerators = 3", "expected rows"),
        ("[accelerators]\nx = 3", "expected a row"),
        ("a = = b", "is not TOML"),
        ("[a]\nx = 1\n[a]\ny = 2", "is not TOML"),
        (b"\xff\xfe\x00\x01", "not UTF-8"),
        ("é".encode("latin-1") * 9, "not UTF-8"),
        (b"[a]\x00", "binary"),
        (CHIP, "no peak rate"),
        (CHIP + "bf16_flops_per_s = inf", "not a finite number"),
        (CHIP + "bf16_flops_per_s = true", "not a finite number"),
        (CHIP + "bf16_flops_per_s = 1e13\nname = 'Y'", "unknown key"),
        (CHIP + "bf16_flops_per_s = 1e13\naliases = 'y'", "is not a list"),
        (CHIP + "bf16_flops_per_s = 1e13\naliases = [1]", "is not a string"),
        (CHIP + "bf16_flops_per_s = 1e13\nsource = ''", "is empty"),
        (CHIP + "bf16_flops_per_s = 1e13\nvendor = 7", "is not a string"),
        (CHIP + "bf16_flops_per_s = 1e13\nlaunch_year = 20", "out of range"),
        (CHIP + "bf16_flops_per_s = 1e13\nreported_bytes = 7_000_000_000", "larger than"),
        ("[models.m]\nhidden_size = 64", "model_type: missing"),
        ("[models.m]\nmodel_type = 3", "model_type: missing"),
        ("[optimizers.o]\nlabel = 'x'", "states: missing"),
        ("[optimizers.o]\nstates = 3", "is not a list"),
        ("[optimizers.o]\nstates = [3]", "is not a table"),
        ("[optimizers.o]\nstates = []\napplies_to = 'matrix'", "fallback: needed"),
        ("[optimizers.o]\nstates = []\nrank = -3", "out of range"),
        ("[precisions.p]\nbits = 0", "out of range"),
        ("[carbon.C]\nname = 'c'\ng_co2e_per_kwh = -4\nyear = 2026", "out of range"),
    ],
)
def test_bad_toml_is_refused(tmp_path: Path, text: str | bytes, part: str) -> None:
    assert part in "\n".join(faults(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name,capacity\nX,3\n", "unknown column 'capacity' (did you mean capacity_bytes?)"),
        ("capacity_bytes,memory_bandwidth_bytes_per_s\n8,3\n", "no column 'name'"),
        ("name,name\nX,Y\n", "named twice"),
        ("name,capacity_bytes\n", "holds no row"),
        ("name,capacity_bytes\nX\n", "line 2: 1 cells, expected 2"),
        ("name,capacity_bytes\nX,8.7\n", "line 2, capacity_bytes: '8.7' is not a whole number"),
        ("name,capacity_bytes\nX,8_000\n", "is not a whole number"),
        ("name,tdp_w\nT4,nan\n", "is not a number"),
        ("name,tdp_w\nT4,4e\n", "line 2, tdp_w: '4e' is not"),
        ("name,named_only\nT4,1\n", "is not true or false"),
        ("name,tdp_w\nT4,3\nT4,4\n", "line 3: name is given twice"),
        ("name,tdp_w\n,3\n", "line 2: name is missing"),
        ('name,tdp_w\n"T4,3\n', "is not CSV"),
    ],
)
def test_bad_csv_is_refused(tmp_path: Path, text: str, part: str) -> None:
    assert part in "\n".join(faults(tmp_path, text, "own.csv"))


def test_unreadable_paths_are_refused(tmp_path: Path) -> None:
    for path, part in (
        (tmp_path, "is a folder"),
        (tmp_path / "none.toml", "No such file"),
        (tmp_path / "x\0y", "cannot be read"),
        (Path("n" * 5000), "cannot be read"),
    ):
        with pytest.raises(CatalogueError, match=part):
            load_user_catalogue(str(path))


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    assert "at most" in faults(tmp_path, b"#" * (9 * 2**20))[0]


def test_deeply_nested_toml_is_refused(tmp_path: Path) -> None:
    assert "TOML" in faults(tmp_path, "a = " + "[" * 100_000)[0]


def test_the_catalogue_itself_needs_neither_numpy_nor_cattrs() -> None:
    code = (
        "import sys; from lmsize.catalogue import built_in; c = built_in(); "
        "c.accelerator('h100'); c.model('gpt2'); c.optimizer('adamw'); "
        "print(sorted({'numpy', 'cattrs', 'torch'} & set(sys.modules)))"
    )
    source = Path(__file__).parents[3] / "src"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(source)},
    )  # fmt: skip
    assert ran.stdout.strip() == "[]"
