"""What a benchmark says, and the table of docs/benchmarks.md that is made of it.

Results are kept in state/bench.json: a run of one benchmark replaces its section and leaves the others, each row
with the date it was measured. A target is the one that the project set itself; a row without one only informs.
"""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

_INTRODUCTION = """# Benchmarks

Written by `./xenstack bench`; do not edit. Medians unless said otherwise. Numbers of other machines, or of this one
while it does other work, cannot be compared: ratios can.

"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One result. `better` is "less" or "more"; `section` is the heading it stands under."""

    key: str
    section: str
    what: str
    value: float
    unit: str
    target: float | None = None
    better: str = "less"
    note: str = ""
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        reached = self.value <= self.target if self.better == "less" else self.value >= self.target
        return "pass" if reached else "**miss**"


def machine() -> str:
    """The machine in one line: what makes numbers differ."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1024 / 1024
    load = os.getloadavg()[0]
    kernel = platform.release().split("-")[0]
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Linux {kernel}, Python {platform.python_version()}; "
        f"load {load:.1f} when the last run began; guests on TCG"
    )


def remember(store: Path, rows: Iterable[Row], where: str) -> list[Row]:
    """Put the rows in the place of their sections' earlier ones in `store`; returns everything, in order."""
    new = list(rows)
    measured = {row.section for row in new}
    kept = [row for row in recall(store) if row.section not in measured]
    everything = sorted([*kept, *new], key=lambda r: (r.section, r.key))
    part = store.with_suffix(".part")
    part.write_text(json.dumps({"machine": where, "rows": [asdict(r) for r in everything]}, indent=1) + "\n")
    part.replace(store)
    return everything


def recall(store: Path) -> list[Row]:
    """The rows of earlier runs; none when there was no run."""
    if not store.exists():
        return []
    return [Row(**row) for row in json.loads(store.read_text())["rows"]]


def markdown(rows: Iterable[Row], where: str) -> str:
    """The whole page."""
    lines = [_INTRODUCTION + f"Machine: {where}.\n"]
    section = None
    for row in rows:
        if row.section != section:
            section = row.section
            lines.append(f"\n## {section}\n\n| what | measured | target | | date |\n|---|---|---|---|---|\n")
        sign = {"less": "≤", "more": "≥"}[row.better]
        target = "" if row.target is None else f"{sign} {number(row.target)} {row.unit}".strip()
        what = row.what + (f" ({row.note})" if row.note else "")
        measured = f"{number(row.value)} {row.unit}".strip()
        lines.append(f"| {what} | {measured} | {target} | {row.verdict} | {row.date} |\n")
    return "".join(lines)


def number(value: float) -> str:
    """As many digits as mean something."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
