"""The index of families names what the modules register."""

from __future__ import annotations

from lmsize.model.family import readers, registered


def test_the_index_is_what_is_registered() -> None:
    """Run tools/build_family_index.py after adding a family."""
    found = registered()
    assert dict(readers().items()).keys() == found.keys()
    assert {
        name: reader.__module__.rpartition(".")[2] for name, reader in readers().items()
    } == found
