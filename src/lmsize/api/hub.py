"""Fetching a ``config.json`` from the Hugging Face Hub: an extra, once, then from its cache."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any
from urllib.parse import SplitResult, urlsplit

from lmsize.errors import InputError, LmsizeError, ModelError, NetworkError, did_you_mean

REACHABLE_WITHIN_S = 3.0
FETCHED_WITHIN_S = 10.0  # a config is a few kilobytes


def fetched_config(hub_id: str, *, nearest: Sequence[str] = ()) -> Path:
    """The path of a model's config in the Hub's own cache, fetched if it is not there yet.

    Args:
        nearest: known Hub ids like this one, to offer if it leads nowhere.

    Raises:
        NetworkError: offline, or the Hub cannot be reached or does not answer in time.
        ModelError: the Hub has no such model or file, or it needs a licence to be accepted.
        LmsizeError: the ``hub`` extra is not installed, or the cache cannot be written.
    """
    endpoint = _endpoint()
    hub = _client(hub_id)
    try:
        cached = hub.try_to_load_from_cache(hub_id, "config.json")
    except hub.errors.HFValidationError:
        expected = "a catalogue name, a Hub id or a path"
        raise ModelError("MODEL", hub_id, expected, nearest=nearest) from None
    if isinstance(cached, str):
        return Path(cached)
    if hub.constants.HF_HUB_OFFLINE:
        raise _no_network(hub_id, "HF_HUB_OFFLINE is set", nearest)
    if not _connects(endpoint):
        raise _no_network(hub_id, "the Hub cannot be reached", nearest)
    return _downloaded(hub_id, hub, nearest)


def _no_network(hub_id: str, why: str, nearest: Sequence[str]) -> NetworkError:
    advice = "give a catalogue name (lmsize models) or the path of its config.json"
    return NetworkError(
        f"MODEL: {hub_id!r} is not in the catalogue, and {why}: {advice}{did_you_mean(nearest)}"
    )


def _endpoint() -> SplitResult:
    """The Hub's address, checked before its client reads it: that fails with a traceback."""
    text = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        parts = urlsplit(text)
        if parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise InputError("HF_ENDPOINT", text, "an address such as https://huggingface.co")


def _client(hub_id: str) -> ModuleType:
    try:
        import huggingface_hub
    except ImportError:
        raise LmsizeError(
            f"{hub_id} is not in the catalogue, and fetching it needs the hub extra: "
            "pip install 'lmsize[hub]', or give the path of its config.json"
        ) from None
    return huggingface_hub


def _downloaded(hub_id: str, hub: ModuleType, nearest: Sequence[str]) -> Path:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # no word of each retry
    done = _within(
        FETCHED_WITHIN_S, lambda: hub.hf_hub_download(hub_id, "config.json", etag_timeout=5)
    )
    if isinstance(done, str):
        return Path(done)
    if isinstance(done, hub.errors.GatedRepoError):
        expected = "a model open to you: accept its licence on the Hub and log in (hf auth login)"
        raise ModelError("MODEL", hub_id, expected)
    status = getattr(getattr(done, "response", None), "status_code", None)
    if status in (401, 403, 404):
        expected = "a Hub id with a config.json, public or open to you (hf auth login)"
        raise ModelError("MODEL", hub_id, expected, nearest=nearest)
    if isinstance(done, OSError) and done.errno is not None:
        where = f" ({done.filename})" if done.filename else ""
        raise LmsizeError(f"{hub_id}: the config cannot be cached: {done.strerror}{where}")
    reason = type(done).__name__ if done else f"nothing within {FETCHED_WITHIN_S:g} s"
    raise _no_network(hub_id, f"the Hub does not answer as it should ({reason})", nearest)


def _within(limit_s: float, function: Callable[[], Any]) -> Any:
    """What a function returns or raises; None if it takes longer than that."""
    done: list[Any] = []

    def attempt() -> None:
        try:
            done.append(function())
        except Exception as error:  # noqa: BLE001 - the Hub's client lets its HTTP library's pass
            done.append(error)

    thread = Thread(target=attempt, daemon=True)  # looking up a name may hang for longer
    thread.start()
    thread.join(limit_s)
    return done[0] if done else None


def _connects(endpoint: SplitResult) -> bool:
    """Whether a connection opens in time."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    address = (endpoint.hostname, endpoint.port or (443 if endpoint.scheme == "https" else 80))

    def attempt() -> bool:
        socket.create_connection(address, timeout=REACHABLE_WITHIN_S).close()
        return True

    return _within(REACHABLE_WITHIN_S, attempt) is True
