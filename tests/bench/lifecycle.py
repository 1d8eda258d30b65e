"""Down and up again, timed from outside as an operator would. The cloud of this clone is really stopped and started."""

import time
from pathlib import Path

from tests.bench.table import Row

from xenstack.cloud import stopwatch
from xenstack.run import run

SECTION = "Down and up"


def rows(root: Path) -> list[Row]:
    """Raises CommandFailed; the cloud is then as far as the failing command left it."""
    down = _timed(root, "down")
    up = _timed(root, "up")
    again = _timed(root, "up")

    def row(key: str, what: str, value: float, target: float | None = None) -> Row:
        return Row(key=f"lifecycle.{key}", section=SECTION, what=what, value=value, unit="s", target=target)

    return [
        row("0 down", "`down`", down, 20),
        row("1 up", "`up` after `down`, until the guest answers and lets in", up, 75),
        row("2 again", "`up` when all is up", again),
    ]


def noted(root: Path) -> list[Row]:
    """What the commands themselves noted of runs that no benchmark can repeat."""
    targets = {stopwatch.FRESH: 7.0, stopwatch.TEST: 20.0}
    known = stopwatch.recall(root)
    return [
        Row(key=f"noted.{what}", section="Long commands, as they were last run", what=what, unit="min", target=target,
            value=round(float(known[what]["seconds"]) / 60, 1), date=str(known[what]["date"]))
        for what, target in targets.items()
        if what in known
    ]  # fmt: skip


def _timed(root: Path, verb: str) -> float:
    started = time.monotonic()
    run(root / "xenstack", verb, timeout_s=900, cwd=root)
    return time.monotonic() - started
