"""Why a row cannot be put as a question."""

from __future__ import annotations

from lmsize.errors import LmsizeError


class UnmodelledError(LmsizeError):
    """A row that lmsize cannot model: the message is the reason, in a few words."""
