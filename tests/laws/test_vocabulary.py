"""The vocabulary stays small: new layers are composed, not added."""

from __future__ import annotations

import inspect

from lmsize.tape import kernels, ops


def test_the_vocabulary_has_under_25_operations() -> None:
    made_here = [
        f
        for module in (ops, kernels)
        for _, f in inspect.getmembers(module, inspect.isfunction)
        if f.__module__ == module.__name__
    ]
    recording = [f.__name__ for f in made_here if "rogram.record(" in inspect.getsource(f)]
    assert 15 < len(recording) < 25, recording
