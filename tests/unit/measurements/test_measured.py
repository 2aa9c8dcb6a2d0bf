"""What was measured, and by which definition."""

from __future__ import annotations

import pytest

from lmsize.measurements.measured import measured_memory, measured_time
from lmsize.measurements.unmodelled import UnmodelledError

GIB = 2**30


def memory(**cells: str) -> object:
    return measured_memory({"measured_peak_gib": "10", **cells})


def test_metrics_of_memory() -> None:
    found = measured_memory({"measured_peak_gib": "10", "metric_definition": "max_memory_reserved"})
    assert found is not None
    assert (found.n_bytes, found.metric, found.stage) == (10 * GIB, "reserved", "worst")
    last = measured_memory(
        {"measured_peak_gib": "10", "metric_definition": "max_allocated on the LAST rank"}
    )
    assert last is not None
    assert (last.metric, last.stage) == ("allocated", "last")


def test_a_metric_that_is_not_stated_is_the_drivers() -> None:
    found = measured_memory({"measured_peak_gib": "10"})
    assert found is not None
    assert found.metric == "driver"
    assert found.is_vague


def test_a_sum_over_accelerators_is_shared_out_unless_it_was() -> None:
    said = {"measured_peak_gib": "80", "n_gpus": "4"}
    total = measured_memory(said | {"metric_definition": "nvidia-smi, sum over all GPUs"})
    each = measured_memory(said | {"metric_definition": "nvidia-smi, sum over GPUs, divided by 4"})
    assert total is not None
    assert each is not None
    assert (total.n_bytes, each.n_bytes) == (20 * GIB, 80 * GIB)


def test_formulas_and_nonsense_are_no_measurements() -> None:
    with pytest.raises(UnmodelledError, match="formula"):
        memory(metric_definition="paper-formula (params + activations)")
    for cell in ("0", "nan", "-3", "many"):
        with pytest.raises(UnmodelledError, match="size"):
            memory(measured_peak_gib=cell)
    assert measured_memory({"measured_peak_gib": ""}) is None


def time(**cells: str) -> object:
    return measured_time(cells, n_tokens=8192, n_accelerators=4, n_micro=2)


def test_times_come_before_rates() -> None:
    found = measured_time(
        {"measured_step_time_s": "2", "measured_mfu": "0.4"},
        n_tokens=1,
        n_accelerators=1,
        n_micro=2,
    )
    assert found is not None
    assert found.step_s == 2.0


def test_a_time_per_micro_batch_is_a_part_of_the_step() -> None:
    cells = {"measured_step_time_s": "2", "notes": "step_time is per micro-batch"}
    found = measured_time(cells, n_tokens=1, n_accelerators=1, n_micro=8)
    assert found is not None
    assert found.step_s == 16.0


def test_tokens_a_second_are_per_accelerator() -> None:
    found = measured_time(
        {"measured_tokens_per_s_per_gpu": "1024"}, n_tokens=8192, n_accelerators=4, n_micro=1
    )
    assert found is not None
    assert found.step_s == 2.0


@pytest.mark.parametrize(
    ("cells", "recompute", "unmasked", "peak"),
    [
        ({"measured_mfu": "0.4", "mfu_definition": "model FLOPs / 312"}, False, True, 312e12),
        ({"measured_mfu": "40", "mfu_definition": "MFU"}, False, True, None),
        ({"measured_hfu": "0.5", "mfu_definition": "hardware FLOPs incl. recompute / 989"}, True, True, 989e12),
        ({"measured_mfu": "0.4", "mfu_definition": "causal attention counted"}, False, False, None),
    ],
)  # fmt: skip
def test_definitions_of_utilisation(
    cells: dict[str, str], recompute: bool, unmasked: bool, peak: float | None
) -> None:
    found = measured_time(cells, n_tokens=1, n_accelerators=1, n_micro=1)
    assert found is not None
    assert found.is_fraction
    assert 0.3 < (found.flops_per_s or 0) < 0.6
    assert (found.counts_recompute, found.counts_unmasked) == (recompute, unmasked)
    assert found.peak_flops_per_s == peak


def test_nothing_measured_is_none() -> None:
    assert time() is None
    assert time(measured_step_time_s="n/a", measured_mfu="") is None
