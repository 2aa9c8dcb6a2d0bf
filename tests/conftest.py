"""What every test needs: nothing of the developer's own machine."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_calibration(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Corrections of the person who runs the tests are not read, nor written over."""
    path = Path(str(tmp_path_factory.getbasetemp())) / "no-calibration" / "calibration.json"
    monkeypatch.setenv("LMSIZE_CALIBRATION", str(path))
    path.unlink(missing_ok=True)
    return path
