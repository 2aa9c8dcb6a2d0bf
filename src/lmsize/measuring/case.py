"""One thing to measure: a config, a filled-in spec and how to go about it."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lmsize.model.read import read_config
from lmsize.model.spec import ModelSpec
from lmsize.workload.training import TrainSpec, batch_of

KEY_LENGTH = 12


@dataclass(frozen=True, slots=True)
class Case:
    """A step to measure.

    Attributes:
        label: what the model is called in reports.
        config: the JSON object of its ``config.json``.
        spec: with every default filled in.
        device: ``cuda`` (also ROCm) or ``cpu``.
        n_processes: data-parallel ranks, one accelerator each.
        n_warmup: steps before those that count; at least 1, since the first makes the states.
        n_steps: steps that are timed; 0 for memory alone.
        optimizer_impl: ``foreach``, ``fused`` or ``loop``; None takes the library's choice.
        clip_grad_norm: largest norm of the gradients; None without clipping.
        memory_limit_bytes: stop with out of memory beyond this; None for what the device has.
        asked: the options as they were given, for the command line that repeats this.
        note: what the label leaves open.
    """

    label: str
    config: Mapping[str, Any]
    spec: TrainSpec
    device: str
    n_processes: int = 1
    n_warmup: int = 2
    n_steps: int = 5
    optimizer_impl: str | None = None
    clip_grad_norm: float | None = None
    memory_limit_bytes: int | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def architecture(self) -> ModelSpec:
        return read_config(self.config, name=self.label)

    @property
    def key(self) -> str:
        """A short name of everything that decides the result, the same in every run.

        What is as usual is left out, so that an option which a later version adds changes nothing.
        """
        usual = TrainSpec().as_dict()
        said = {k: v for k, v in self.spec.as_dict().items() if v != usual[k]}
        decides = [
            self.config, said, self.device, self.n_processes, self.optimizer_impl,
            self.clip_grad_norm, self.memory_limit_bytes,
        ]  # fmt: skip
        text = json.dumps(decides, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]

    @property
    def command(self) -> str:
        """The command line that measures this case again."""
        words = ["lmsize", "measure", self.label]
        for name, value in self.asked.items():
            option = f"--{name.replace('_', '-')}"
            if value is True:
                words.append(option)
            elif value is not None and value is not False:
                words += [option, str(value)]
        line = shlex.join(words)
        if self.n_processes > 1:
            return f"torchrun --nproc-per-node {self.n_processes} -m {line}"
        return line

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Case:
        values = json.loads(text)
        return cls(**values | {"spec": TrainSpec(**values["spec"])})


def summary(case: Case) -> str:
    """A case in one line, as progress shows it."""
    spec = case.spec
    adapters = f" {spec.lora_targets} r{spec.lora_rank}" if spec.method != "full" else ""
    words = [case.label, f"{spec.method}{adapters}", spec.precision, spec.optimizer]
    words += [case.optimizer_impl, spec.attention]
    words += ["recompute"] if spec.recompute == "full" else []
    words += ["clip"] if case.clip_grad_norm else []
    words += [f"zero {spec.zero}"] if spec.zero else []
    n_micro = batch_of(spec, dp=case.n_processes).n_micro
    times = [case.n_processes, n_micro] if case.n_processes > 1 else [n_micro]
    sizes = [*(n for n in times if n > 1), spec.micro_batch, spec.seq_len]
    words.append(" x ".join(str(n) for n in sizes))
    return " ".join(word for word in words if word)
