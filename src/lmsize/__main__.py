"""``python -m lmsize``."""

from lmsize.cli import main

main()
