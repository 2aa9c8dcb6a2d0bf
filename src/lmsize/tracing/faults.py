"""What can go wrong in a trace, as a message that says what to do next."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from torch._subclasses import fake_tensor

from lmsize.errors import LmsizeError
from lmsize.measuring.limit import is_out_of_memory
from lmsize.tracing.replication import NotAlikeError

_MOST_CHARS = 400


class TraceError(LmsizeError):
    """The step cannot be run on fake tensors."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn whatever a program raises into one message.

    Args:
        what: whose step it is.

    Raises:
        LmsizeError: as the program's own error says.
    """
    try:
        yield
    except (LmsizeError, NotAlikeError):
        raise
    except SystemExit as error:
        raise TraceError(
            f"{what}: ends the program (SystemExit {error.code}) ({_place(error)})"
        ) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise TraceError(
                f"{what}: this machine has too little memory for the trace itself; a trace of fake "
                "tensors needs about 1 GiB: free some, or see what makes real tensors"
            ) from error
        own = _own(error)
        if own is not None:
            raise own from error
        raise TraceError(f"{what}: {_message(error)}") from error


def _own(error: BaseException) -> LmsizeError | None:
    """An error of this package that the program has wrapped in one of its own."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, LmsizeError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _message(error: Exception) -> str:
    where = _place(error)
    if isinstance(
        error, fake_tensor.DynamicOutputShapeException | fake_tensor.DataDependentOutputException
    ):
        return (
            f"the shape or value that {error.func} gives depends on data, which a trace does not have "
            f"({where}). Write it with static shapes, or measure a real step (lmsize measure)"
        )
    if isinstance(error, fake_tensor.UnsupportedOperatorException):
        return (
            f"{error.func} has no fake kernel ({where}). Register one: "
            "torch.library.register_fake says how"
        )
    said = " ".join(str(error).split())
    if isinstance(error, fake_tensor.FakeTensorDeviceMismatchError) or "same device" in said:
        return f"{said} ({where}): make tensors without a device, on the default one that is traced"
    if "SparseTensorImpl" in said or "SparseCsrTensorImpl" in said:
        return (
            f"sparse tensors have no storage that a trace could follow ({where}): embeddings with "
            "sparse=False, or measure a real step (lmsize measure)"
        )
    if "No available kernel" in said:
        return (
            "the attention kernel that was asked for cannot serve this model's types, masks, head "
            f"sizes or dropout ({where}): --attention sdpa takes one that can"
        )
    if "not differentiable with respect to argument 'attn_bias'" in said:
        return (
            "cuDNN's attention, which torch takes first on this GPU, gives no gradient to a bias of "
            f"positions that is trained ({where}); a real run ends the same way: --attention eager, "
            "or -g a GPU of another generation (a100-80gb), whose kernel does"
        )
    if "'tuple' object has no attribute 'dtype'" in said and "/peft/" in where:
        return (
            "peft puts an adapter on a router that gives back more than one tensor, and asks for the "
            f"type of all ({where}); a real run ends the same way: --lora-targets attention, or names"
        )
    if "calculation overflowed" in said:
        return (
            f"a tensor is too large for any machine ({where}): shorter sequences, a smaller batch"
        )
    if "register_fake" in said or "Meta" in said or "meta" in said:
        said = f"{said[:_MOST_CHARS]}. An operator without a fake kernel needs torch.library.register_fake"
    return f"raises {type(error).__name__} ({where}): {said[: 2 * _MOST_CHARS]}"


def _place(error: BaseException) -> str:
    """The innermost line of the program that is neither torch's nor this package's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/torch/" not in f.filename and "/lmsize/" not in f.filename]
    found = (own or frames)[-1]
    return f"{found.filename}:{found.lineno}"
