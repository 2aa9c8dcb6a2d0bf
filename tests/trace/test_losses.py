"""Every way to take the loss, written in plain torch behind a real model, against the tape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import lmsize

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

V, H, B, S = 32000, 256, 4, 512
CONFIG: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": H,
    "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": V, "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}  # fmt: skip


def plain(hidden: Any, weight: Any, labels: Any) -> Any:
    logits = torch.nn.functional.linear(hidden, weight).float()
    padded = torch.nn.functional.pad(labels, (0, 1), value=-100)
    shifted = padded[..., 1:].contiguous().view(-1)
    return torch.nn.functional.cross_entropy(logits.view(-1, V), shifted)


def chunked(hidden: Any, weight: Any, labels: Any) -> Any:
    rows = hidden.view(-1, H).chunk(8)
    logits = [torch.nn.functional.linear(chunk, weight) for chunk in rows]
    losses = [
        torch.nn.functional.cross_entropy(chunk.float(), target, reduction="sum")
        for chunk, target in zip(logits, labels.view(-1).chunk(8), strict=True)
    ]
    return sum(losses) / labels.numel()


class Liger(torch.autograd.Function):
    """Gradients of the stream and the weight in the forward, as large as the stream a chunk."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, labels: Any) -> Any:
        n_rows = hidden.shape[0]
        size = 1 << (-(-n_rows // -(-V // H)) - 1).bit_length()
        to_hidden, to_weight = torch.zeros_like(hidden), torch.zeros_like(weight)
        losses = torch.zeros(n_rows, device=hidden.device)
        for at in range(0, n_rows, size):
            rows = slice(at, at + size)
            probs = (hidden[rows] @ weight.t()).exp_()
            to_hidden[rows] = probs @ weight
            torch.addmm(to_weight, probs.t(), hidden[rows], out=to_weight)
            del probs
        ctx.save_for_backward(to_hidden.detach(), to_weight.detach())
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        to_hidden, to_weight = ctx.saved_tensors
        return to_hidden.mul_(grad), to_weight.mul_(grad), None


class Cut(torch.autograd.Function):
    """Sums a token and a word are all that is kept; a kernel would hold the rest in registers."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, labels: Any) -> Any:
        sums = torch.zeros(hidden.shape[0], device=hidden.device)
        means = torch.zeros(V, device=hidden.device)
        ctx.save_for_backward(hidden, weight, sums, means)
        return sums.sum()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        hidden, weight, _sums, means = ctx.saved_tensors
        order = torch.argsort(means)
        order = order.to(torch.int32)
        return torch.zeros_like(hidden), torch.zeros_like(weight), None


def fused(function: Any) -> Callable[..., Any]:
    return lambda hidden, weight, labels: function.apply(
        hidden.view(-1, H), weight, labels.view(-1)
    )


LOSSES = {"plain": plain, "chunked": chunked, "liger": fused(Liger), "cut": fused(Cut)}


def traced(loss: str, dtype: Any) -> int:
    def factory() -> Any:
        from transformers import LlamaConfig, LlamaForCausalLM

        keys = {k: v for k, v in CONFIG.items() if k not in ("model_type", "architectures")}
        model = LlamaForCausalLM(LlamaConfig(**keys, attn_implementation="sdpa")).to(dtype)
        batch = {name: torch.zeros(B, S, dtype=torch.int64) for name in ("input_ids", "labels")}

        def taken(model: Any, batch: Any) -> Any:
            hidden = model.model(input_ids=batch["input_ids"]).last_hidden_state
            return LOSSES[loss](hidden, model.lm_head.weight, batch["labels"])

        return model, batch, taken

    return lmsize.trace(factory).memory.peak_allocated_bytes or 0


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_the_tape_has_what_plain_torch_holds(loss: str, precision: str) -> None:
    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    taped = lmsize.train(
        CONFIG, precision=precision, loss=loss, micro_batch=B, seq_len=S, optimizer="adamw"
    ).memory
    assert taped.peak_allocated_bytes == pytest.approx(traced(loss, kind), rel=0.01)


def test_what_is_never_whole_takes_less() -> None:
    asked = {"precision": "bf16", "micro_batch": B, "seq_len": S}
    peaks = {
        loss: lmsize.train(CONFIG, loss=loss, **asked).memory.peak_allocated_bytes or 0
        for loss in LOSSES
    }
    assert peaks["cut"] <= peaks["liger"] < peaks["chunked"] < peaks["plain"]
