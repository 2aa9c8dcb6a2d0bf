"""Fetching a ``config.json`` from the Hugging Face Hub: an extra, once, then from its cache."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

from lmsize.errors import LmsizeError, ModelError, NetworkError

REACHABLE_WITHIN_S = 3.0


def fetched_config(hub_id: str) -> Path:
    """The path of a model's config in the Hub's own cache, fetched if it is not there yet.

    Raises:
        NetworkError: offline, or the Hub cannot be reached; said at once, without retries.
        ModelError: the Hub has no such model or file, or it needs a licence to be accepted.
        LmsizeError: the ``hub`` extra is not installed, or the cache cannot be written.
    """
    try:
        import huggingface_hub as hub
    except ImportError:
        raise LmsizeError(
            f"{hub_id} is not in the catalogue, and fetching it needs the hub extra: "
            "pip install 'lmsize[hub]', or give the path of its config.json"
        ) from None
    cached = hub.try_to_load_from_cache(hub_id, "config.json")
    if isinstance(cached, str):
        return Path(cached)
    _check_reachable(
        hub_id, str(hub.constants.ENDPOINT), offline=bool(hub.constants.HF_HUB_OFFLINE)
    )
    try:
        return Path(hub.hf_hub_download(hub_id, "config.json", etag_timeout=5))
    except hub.errors.GatedRepoError:
        raise ModelError(
            "MODEL",
            hub_id,
            "a model open to you: accept its licence on the Hub and log in (hf auth login)",
        ) from None
    except (
        hub.errors.RepositoryNotFoundError,
        hub.errors.EntryNotFoundError,
        hub.errors.HFValidationError,
    ):
        raise ModelError("MODEL", hub_id, "a Hub id with a config.json") from None
    except OSError as error:
        raise LmsizeError(
            f"{hub_id}: the config could not be fetched and cached: {error}"
        ) from None


def _check_reachable(hub_id: str, endpoint: str, *, offline: bool) -> None:
    advice = "give a catalogue name (lmsize models) or the path of its config.json"
    if offline or os.environ.get("HF_HUB_OFFLINE", "") in ("1", "ON", "YES", "TRUE"):
        raise NetworkError(f"{hub_id} is not in the catalogue and HF_HUB_OFFLINE is set: {advice}")
    parts = urlsplit(endpoint)
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    if not _connects(address):
        raise NetworkError(
            f"{hub_id} is not in the catalogue and the Hub cannot be reached: {advice}"
        )


def _connects(address: tuple[str, int]) -> bool:
    """Whether a connection opens in time; looking up a name may hang, so in a thread."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    opened: list[bool] = []

    def attempt() -> None:
        try:
            socket.create_connection(address, timeout=REACHABLE_WITHIN_S).close()
            opened.append(True)
        except OSError:
            pass

    thread = Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(REACHABLE_WITHIN_S)
    return bool(opened)
