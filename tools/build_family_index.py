"""Write src/lmsize/model/data/families.json: which module reads which `model_type`.

python tools/build_family_index.py
"""

from __future__ import annotations

import json
from pathlib import Path

from lmsize.model.family import registered

OUT = Path(__file__).parents[1] / "src/lmsize/model/data/families.json"

if __name__ == "__main__":
    OUT.write_text(json.dumps(registered(), indent=0) + "\n", "utf-8")
