"""One case of a grid, in a process of its own: ``python -m lmsize.measuring.worker CASE RESULT``.

Under torchrun the first rank writes the result; a rank that fails writes its failure where there is
none yet, since the others would wait for it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lmsize.errors import LmsizeError
from lmsize.measuring.case import Case
from lmsize.measuring.outcome import FAILED, FITS, Measured
from lmsize.measuring.parallel import rank
from lmsize.measuring.running import measured


def main(case_file: str, result_file: str) -> int:
    """Measure the case in one file and write what came of it into the other."""
    try:
        found = measured(Case.from_json(Path(case_file).read_text("utf-8")))
    except LmsizeError as error:
        found = Measured(FAILED, reason=str(error))
    if rank() == 0 or found.outcome != FITS:
        written(found, Path(result_file))
    return 0 if found.outcome == FITS else 1


def written(found: Measured, path: Path) -> None:
    """Write a result whole or not at all; the first that comes stays."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(found.as_json(), "utf-8")
    if path.exists():
        draft.unlink()
    else:
        draft.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
