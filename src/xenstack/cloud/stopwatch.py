"""How long the long commands took, kept for `bench`: no benchmark can bring a fresh machine, or run all tests again.

Kept in `state/install`, which outlives `down --purge`.
"""

import json
import time
from pathlib import Path

from xenstack.cloud.layout import Layout

FRESH = "fresh machine to a guest that lets in"
TEST = "test"


def note(root: Path, what: str, seconds: float) -> None:
    """Remember the last time `what` took."""
    known = recall(root)
    known[what] = {"seconds": round(seconds, 1), "date": time.strftime("%Y-%m-%d", time.gmtime())}
    path = _path(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(known, indent=1) + "\n")
    part.replace(path)


def recall(root: Path) -> dict[str, dict[str, float | str]]:
    """What was noted: seconds and date by name."""
    try:
        known = json.loads(_path(root).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _path(root: Path) -> Path:
    return Layout(root).install / "times.json"
