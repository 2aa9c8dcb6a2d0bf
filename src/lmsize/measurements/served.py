"""What a row of a serving measurement measured, in bytes or seconds, and by which definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lmsize.measurements.cells import count, number
from lmsize.measurements.engines import serving_engine
from lmsize.measurements.unmodelled import UnmodelledError
from lmsize.measurements.words import REMARK, read

BYTES = {"gib": 2.0**30, "mib": 2.0**20, "gb": 1e9, "mb": 1e6, "bytes": 1.0}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
# Metrics that lmsize has no estimate for, and why.
NO_ESTIMATE = {
    "tail": "a tail of a distribution is not estimated",
    "budget": "a server's budget for its cache is what is left, not a need",
    "activations": "the working memory of a server's own trial run is not estimated",
}
IN_GIB = ("gib", "2**30", "1024")


@dataclass(frozen=True, slots=True)
class Load:
    """How many sequences were served, and how.

    Attributes:
        n_sequences: at once, over all replicas; `n_accelerators` that served them.
        prompt: tokens of each prompt; `output` generated for it.
        is_stated: whether the lengths are the row's or its engine's, not mere defaults.
    """

    n_sequences: int
    n_accelerators: int
    prompt: int
    output: int
    is_stated: bool = True


@dataclass(frozen=True, slots=True)
class Served:
    """A measured value.

    Attributes:
        value: bytes on one accelerator, or seconds.
        what: ``allocated``, ``reserved``, ``driver``, ``weights``, ``context`` for bytes;
            ``first token``, ``token``, ``request`` for seconds.
        comes_and_goes: requests came and went at a steady load; else one batch started and ended
            together.
    """

    value: float
    what: str
    comes_and_goes: bool = False

    @property
    def is_time(self) -> bool:
        return self.what in ("first token", "token", "request")


def served(row: Mapping[str, str], load: Load) -> Served:
    """The value that a row states.

    Args:
        load: of the question.

    Raises:
        UnmodelledError: lmsize has no estimate of it, or the value or the unit cannot be read.
    """
    kind, said = _kind(row.get("metric", "")), row.get("metric_definition", "")
    left, right = _unit(row.get("unit", ""))
    if left == "oom":
        raise UnmodelledError("out of memory: no value is stated")
    value = number(row, "value")
    if not value:
        raise UnmodelledError(f"value {row.get('value', '')!r} is no positive number")
    has_batch = count(row, "batch_size") is not None
    if kind in ("memory", "weights", "context"):
        if left not in BYTES:
            raise UnmodelledError(f"unit {row.get('unit', '')!r} is no size")
        if kind == "memory" and not (has_batch or load.is_stated):
            raise UnmodelledError("the load is not stated: a peak needs sequences or their lengths")
        return _memory(row, kind, value * _size(left, said))
    if not has_batch:
        raise UnmodelledError("the load is not stated: a time needs the sequences in flight")
    steady = read("serving_load", said).meaning == "load" and load.n_sequences > 1
    seconds, what = _seconds(kind, value, (left, right), said, load)
    return Served(seconds, what, steady)


def _kind(metric: str) -> str:
    """What a metric's name means.

    Raises:
        UnmodelledError: it cannot be read, or lmsize has no estimate of it.
    """
    kind = read("serving_metric", metric).meaning
    if kind is None:
        raise UnmodelledError(f"metric {metric!r} is not read")
    if kind in NO_ESTIMATE:
        raise UnmodelledError(f"metric {metric!r}: {NO_ESTIMATE[kind]}")
    return kind


def _unit(cell: str) -> tuple[str | None, str | None]:
    """What is counted, and for each of what (``user``, ``each`` accelerator)."""
    bare = REMARK.sub(" ", cell.casefold()).replace(" per ", "/").replace("_per_", "/")
    sides = [read("serving_unit", side).meaning for side in bare.split("/")]
    if sides[0] == "tokens-per-s":
        sides[:1] = ["tokens", "s"]
    if sides[0] == "tokens" and sides[1:2] == ["s"]:
        return "rate", sides[2] if len(sides) > 2 else None
    return sides[0], None


def _size(unit: str, said: str) -> float:
    """Bytes of a unit; some tools print GB for 2**30, where the definition says so."""
    if unit == "gb" and any(word in said.casefold() for word in IN_GIB):
        unit = "gib"
    return BYTES[unit]


def _memory(row: Mapping[str, str], kind: str, n_bytes: float) -> Served:
    said = f"{row.get('metric', '')} {row.get('metric_definition', '')}".replace("_", " ")
    n = count(row, "n_gpus") or 1
    if n > 1 and read("serving_scope", said).meaning == "total":
        n_bytes /= n
    if kind != "memory":
        return Served(n_bytes, kind)
    metric = read("metric", row.get("metric_definition", "")).meaning
    if metric == "formula":
        raise UnmodelledError("the figure is a formula's, not a measurement")
    usual = serving_engine(row.get("engine", "") or row.get("framework", "")).memory
    return Served(n_bytes, metric or usual)


def _seconds(
    kind: str, value: float, unit: tuple[str | None, str | None], said: str, load: Load
) -> tuple[float, str]:
    """Seconds, and of what, by the row's own definition.

    Raises:
        UnmodelledError: the unit does not fit the metric, or the load is not known.
    """
    found = _time(kind, value, unit, said, load)
    if found[1] != "token" and not load.is_stated:
        raise UnmodelledError("the load is not stated: a time needs the lengths of prompts")
    return found


def _time(
    kind: str, value: float, unit: tuple[str | None, str | None], said: str, load: Load
) -> tuple[float, str]:
    counted, each = unit
    if counted in SECONDS:
        of = {"first-token": "first token", "token": "token", "request": "request"}.get(kind)
        if of is None:
            raise UnmodelledError(f"unit {counted!r} is no rate")
        return value * SECONDS[counted], of
    if counted != "rate" or not kind.endswith("-rate"):
        raise UnmodelledError("the unit is neither a time nor a rate of tokens")
    scale = {"each": load.n_accelerators, "user": load.n_sequences}.get(each or "", 1)
    rate = value * scale
    if kind == "prefill-rate":
        return load.n_sequences * load.prompt / rate, "first token"
    if kind == "decode-rate" and read("serving_span", said).meaning != "request":
        return load.n_sequences / rate, "token"
    tokens = load.output
    if read("serving_tokens", said).meaning == "all":
        tokens += load.prompt
    return load.n_sequences * tokens / rate, "request"
