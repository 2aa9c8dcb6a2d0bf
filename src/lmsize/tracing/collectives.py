"""What ranks share, as the tracker sees it: gathered weights, gradients on their way, and nothing else."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from lmsize.tracing.tracker import Tracker

GATHERS = "gathers"
# Where FSDP2 makes what it gathers and what it reduces.
_GROUP = "torch.distributed.fsdp._fully_shard._fsdp_param_group"
_MAKERS = ("foreach_all_gather", "foreach_all_gather_copy_out", "foreach_reduce")
# A DTensor finds out shapes by running an operation on tensors of the global shape, once.
_GLOBAL_SHAPES = (
    "torch.distributed.tensor._sharding_prop.ShardingPropagator._propagate_tensor_meta_non_cached"
)


@contextmanager
def collectives_seen(tracker: Tracker) -> Iterator[None]:
    """While it lasts, buffers of collectives are told apart, and tensors of no rank are not seen."""
    with ExitStack() as stack:
        for name in _MAKERS:
            _around(stack, f"{_GROUP}.{name}", lambda: tracker.ledger.making(GATHERS))
        _around(stack, _GLOBAL_SHAPES, tracker.looking_away)
        yield


def _around(stack: ExitStack, target: str, context: Callable[[], Any]) -> None:
    """Let a function of torch run inside of a context."""
    owner, name = pkgutil.resolve_name(target.rpartition(".")[0]), target.rpartition(".")[2]
    original = getattr(owner, name)

    def inside(*args: Any, **kwargs: Any) -> Any:
        with context():
            return original(*args, **kwargs)

    stack.enter_context(mock.patch.object(owner, name, inside))
