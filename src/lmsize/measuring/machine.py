"""The machine that a step runs on: names, capacity, versions, clocks."""

from __future__ import annotations

import csv
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lmsize.measuring.parallel import local_rank

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "flash_attn")
# What nvidia-smi is asked for; units are MHz, W and degrees Celsius.
QUERY = {
    "clocks.sm": "clock_sm_mhz", "clocks.mem": "clock_memory_mhz", "power.draw": "power_w",
    "power.limit": "power_limit_w", "temperature.gpu": "temperature_c",
}  # fmt: skip
PATIENCE_S = 10


def device_name(device: str) -> str:
    """What the accelerator is called, or the CPU's model in brackets."""
    if device == "cpu":
        return f"CPU ({cpu_model()})"
    import torch

    return str(torch.cuda.get_device_name())


def capacity_bytes(device: str) -> int | None:
    """The memory that the device has; None if the system does not say."""
    if device == "cpu":
        return _host_bytes()
    import torch

    return int(torch.cuda.mem_get_info()[1])


def cpu_model() -> str:
    """The processor's model name, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of the software that a step runs through, where it is installed."""
    import torch

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = str(torch.version.cuda)
    if torch.version.hip:
        found["rocm"] = str(torch.version.hip)
    return found


def threads() -> dict[str, str]:
    """How many threads a CPU step uses."""
    import torch

    return {"threads": str(torch.get_num_threads())}


def clocks() -> dict[str, str]:
    """Driver, clocks, power and temperature as nvidia-smi tells them now; empty without it."""
    fields = ["driver_version", *QUERY]
    row = nvidia_smi(fields)
    if row is None:
        return {}
    names = ["driver", *QUERY.values()]
    known = (pair for pair in zip(names, row, strict=True) if pair[1] and "N/A" not in pair[1])
    return dict(known)


def device_used_bytes() -> int | None:
    """Memory in use on the device by everyone, read without making a context; None if unknown."""
    row = nvidia_smi(["memory.used"])
    return int(float(row[0]) * 2**20) if row and row[0].replace(".", "").isdecimal() else None


def nvidia_smi(fields: list[str]) -> list[str] | None:
    """One answer of nvidia-smi about this process's device; None without the tool or an answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(  # noqa: S603 -- the driver's own tool, fixed arguments
            [*command, f"--id={_device_id()}"],
            capture_output=True, text=True, timeout=PATIENCE_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    rows = list(csv.reader(said.stdout.splitlines(), skipinitialspace=True))
    return rows[0] if rows and len(rows[0]) == len(fields) else None


def _device_id() -> str:
    """The device of this process in the driver's numbering."""
    local = local_rank()
    visible = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d.strip()]
    return visible[local].strip() if local < len(visible) else str(local)


def _host_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def host_peak_bytes() -> int:
    """Largest resident set of this process so far."""
    import resource
    import sys

    peak: Any = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024
