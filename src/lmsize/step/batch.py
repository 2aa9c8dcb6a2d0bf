"""Batches: token ids and labels; a mask where sequences are padded, positions where they are packed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lmsize.errors import InputError
from lmsize.model.read import read_config
from lmsize.numbers import ceil_div

SEQUENCES = ("full", "padded", "packed")
IGNORED = -100  # a label that no loss is taken of


def batch(
    config: Mapping[str, Any], *, micro_batch: int, seq_len: int, device: Any = "cpu",
    sequences: str = "full",
) -> dict[str, Any]:  # fmt: skip
    """One micro-batch: ``input_ids`` and ``labels``, int64, each (micro_batch, seq_len).

    Ids are random over the vocabulary without the special tokens, which some models look for
    (images, padding). The labels of a decoder are its inputs; of an encoder-decoder, as many
    others.

    Args:
        sequences: ``full``: all are of that length. ``padded``: the last is half as long, and an
            ``attention_mask`` says so. ``packed``: they lie in one row, and ``position_ids`` begin
            again with each; a lone one is two, each half as long. Memory and work do not depend on
            where they end.

    Raises:
        InputError: another arrangement.
    """
    if sequences not in SEQUENCES:
        raise InputError("--sequences", sequences, f"one of {', '.join(SEQUENCES)}")
    architecture = read_config(config, name="config")
    special = {value for value in special_ids(config) if value < architecture.vocab_size}
    first = _first_plain_id(special)

    def drawn() -> Any:
        import torch

        ids = torch.randint(architecture.vocab_size, (micro_batch, seq_len), device=device)
        for value in special:
            ids = torch.where(ids == value, first, ids)
        return ids

    ids = drawn()
    labels = drawn() if architecture.is_encoder_decoder else ids.clone()
    if sequences == "padded":
        return _padded(ids, labels)
    return _packed(ids, labels) if sequences == "packed" else {"input_ids": ids, "labels": labels}


def _padded(ids: Any, labels: Any) -> dict[str, Any]:
    """As DataCollatorWithPadding pads on the right."""
    import torch

    mask = torch.ones_like(ids)
    mask[-1, ids.shape[1] - ids.shape[1] // 2 :] = 0
    labels = torch.where(mask == 0, IGNORED, labels)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _packed(ids: Any, labels: Any) -> dict[str, Any]:
    """As DataCollatorWithFlattening lays them out."""
    import torch

    n, length = ids.shape
    each = length if n > 1 else ceil_div(length, 2)
    positions = torch.arange(n * length, device=ids.device).remainder(each).unsqueeze(0)
    labels = torch.where(positions == 0, IGNORED, labels.view(1, -1))
    return {"input_ids": ids.view(1, -1), "labels": labels, "position_ids": positions}


def special_ids(config: Mapping[str, Any]) -> Iterator[int]:
    """Every ``*_token_id`` and ``*_token_index`` of a config and its sections."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from special_ids(value)
        elif key.endswith(("_token_id", "_token_index")) and isinstance(value, int):
            yield value


def _first_plain_id(special: set[int]) -> int:
    value = 0
    while value in special:
        value += 1
    return value
