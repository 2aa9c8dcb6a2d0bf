"""Reading a ``config.json`` from a path, guarded against files that are not one."""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import Any

from lmsize.errors import ModelError, shortened

LARGEST_CONFIG_BYTES = 16 * 2**20


def config_file(path: Path) -> Path:
    """The file that a path to a config or to its folder means."""
    return path / "config.json" if path.is_dir() else path


def config_at(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or in the ``config.json`` of a folder.

    Raises:
        ModelError: missing, unreadable, too large, not text, not JSON, not an object.
    """
    file = config_file(path)
    try:
        if not file.is_file():
            raise ModelError("MODEL", file, "a config.json or a folder that holds one")
        if file.stat().st_size > LARGEST_CONFIG_BYTES:
            raise ModelError("MODEL", file, "a config.json below 16 MiB")
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ModelError(
            "MODEL", file, "a config.json in UTF-8: this is another encoding or binary"
        ) from None
    except OSError as error:
        raise ModelError("MODEL", file, f"a readable file ({error.strerror or error})") from None
    return config_from(text, file)


def config_from(text: str, shown: PurePath | str) -> dict[str, Any]:
    """Parse the text of a config."""
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ModelError("MODEL", shown, f"valid JSON ({error.msg} at {place})") from None
    except RecursionError:
        raise ModelError("MODEL", shown, "JSON that is nested less deeply") from None
    except ValueError:  # of Python's limit on digits
        raise ModelError("MODEL", shown, "JSON with numbers below 1e4300") from None
    if not isinstance(raw, dict):
        raise ModelError("MODEL", shown, f"a JSON object: it holds {shortened(raw, n_chars=40)}")
    return raw
