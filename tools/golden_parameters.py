"""Count the parameters of real transformers classes at odd sizes, as facts for the golden tests.

Reads ``tools/golden_cases/GROUP.json`` (a list of ``{"class", "config"}``: a class of
transformers and the keys to give its config), builds each class on the meta device and writes
``tests/golden/parameters/GROUP.jsonl``, one case a line: the class, the keys given, the config
as ``save_pretrained`` would write it, and the counts. Needs the `test` extra:

    python tools/golden_parameters.py [GROUP ...]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

ROOT = Path(__file__).parents[1]
CASES, OUT = ROOT / "tools/golden_cases", ROOT / "tests/golden/parameters"
NOISE = {"transformers_version", "output_hidden_states", "return_dict", "chunk_size_feed_forward"}


def unique_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def all_linear_width(model: nn.Module) -> int:
    """Sum of in + out over the modules that peft's ``all-linear`` adapts: its size at rank 1."""
    head = model.get_output_embeddings()
    width = 0
    for name, module in model.named_modules():
        if module is head or name.split(".")[-1] in {"score", "classifier", "qa_outputs"}:
            continue
        if isinstance(module, nn.Linear):
            width += module.in_features + module.out_features
        elif isinstance(module, Conv1D):
            width += sum(module.weight.shape)
    return width


def count(case: dict[str, Any]) -> dict[str, Any]:
    cls = getattr(transformers, case["class"])
    config = cls.config_class(**case["config"])
    with torch.device("meta"):
        model = cls(config)
    model.tie_weights()
    written = {k: v for k, v in json.loads(config.to_json_string()).items() if k not in NOISE}
    given = case["config"] | {"model_type": config.model_type, "architectures": [case["class"]]}
    return {
        "class": case["class"],
        "given": given,
        "written": written | {"architectures": [case["class"]]},
        "n_params": unique_params(model),
        "n_trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "all_linear_width": all_linear_width(model),
    }


def main() -> None:
    groups = sys.argv[1:] or sorted(path.stem for path in CASES.glob("*.json"))
    failed = 0
    for group in groups:
        lines = []
        for case in json.loads((CASES / f"{group}.json").read_text()):
            try:
                lines.append(json.dumps(count(case)))
            except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
                failed += 1
                print(f"{group}: {case['class']}: {type(error).__name__}: {error}", file=sys.stderr)
        (OUT / f"{group}.jsonl").write_text("\n".join(lines) + "\n")
        print(f"{group}: {len(lines)} cases", file=sys.stderr)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
