"""Whether this machine has the memory that a trace itself takes, before torch is imported.

A process that runs out while its libraries load is ended by them, with no chance to say why.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from lmsize.errors import LmsizeError
from lmsize.quantity import format_bytes

# Resident memory of torch, transformers and a trace, and the addresses that their libraries map; and
# what a trace takes where they are imported already.
LEAST_BYTES, LEAST_ADDRESSES = 700 * 2**20, 2 * 2**30
LEAST_OF_TRACE = 200 * 2**20


class RoomError(LmsizeError):
    """This machine, or a limit on this process, leaves too little memory for a trace."""


def refuse_without_room() -> None:
    """Refuse where a trace would not fit.

    Raises:
        RoomError: naming the limit; where nothing can be read, there is none.
    """
    is_imported = "torch" in sys.modules
    for what, free, usual in (*_limits(), ("this machine", _available(), LEAST_BYTES)):
        least = LEAST_OF_TRACE if is_imported else usual
        if free is not None and free < least:
            raise RoomError(
                f"too little memory for a trace: {what} leaves {format_bytes(free)}, and torch, "
                f"transformers and the trace itself take {format_bytes(least)}. Free some or raise the "
                "limit, or use --engine analytic, which takes a tenth"
            )


def _limits() -> Iterator[tuple[str, int | None, int]]:
    """What the process may still take, by limit."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for name, number, used, least in (
        ("the limit on data (ulimit -d)", resource.RLIMIT_DATA, "VmData", LEAST_BYTES),
        ("the limit on addresses (ulimit -v)", resource.RLIMIT_AS, "VmSize", LEAST_ADDRESSES),
    ):
        most = resource.getrlimit(number)[0]
        if most != resource.RLIM_INFINITY:
            yield name, max(most - (_field("/proc/self/status", used) or 0), 0), least
    group = Path("/sys/fs/cgroup")
    allowed, taken = _number(group / "memory.max"), _number(group / "memory.current")
    if allowed is not None and taken is not None:
        cached = _field(str(group / "memory.stat"), "inactive_file", unit=1) or 0
        yield "the limit of the control group", max(allowed - taken + cached, 0), LEAST_BYTES


def _available() -> int | None:
    return _field("/proc/meminfo", "MemAvailable")


def _field(file: str, name: str, *, unit: int = 1024) -> int | None:
    """A line's number, by the line's name."""
    try:
        lines = Path(file).read_text("ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = (line.split() for line in lines if line.startswith(name))
    return next((int(words[1]) * unit for words in found if words[0].rstrip(":") == name), None)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text("ascii"))
    except (OSError, ValueError):  # absent, or "max"
        return None
