"""How much memory a cloud's processes take, counted fairly: PSS, where a page shared by n processes counts 1/n."""

from dataclasses import dataclass
from pathlib import Path

from xenstack.cloud.box import Box


@dataclass(frozen=True, slots=True)
class Process:
    """One process, as the machine numbers it; `inner` is its number in its box."""

    pid: int
    parent: int
    inner: int
    name: str
    pss: int  # bytes


def processes(box: Box) -> list[Process]:
    """Every process of a box; empty when it does not run."""
    first = box.pid()
    if first is None:
        return []
    space = str(Path(f"/proc/{first}/ns/pid").readlink())
    found = (_process(int(p.name), space) for p in Path("/proc").iterdir() if p.name.isdigit())
    return [p for p in found if p]


def _process(pid: int, space: str) -> Process | None:
    try:
        if str(Path(f"/proc/{pid}/ns/pid").readlink()) != space:
            return None
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return None
    kib = next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)
    name, inner = status["Name"].strip(), int(status["NSpid"].split()[-1])
    return Process(pid, int(status["PPid"]), inner, name, kib << 10)


def tree(all_of_box: list[Process], root: int) -> list[Process]:
    """The process with the box's number `root`, and its descendants."""
    found = [p for p in all_of_box if p.inner == root]
    for process in found:  # grows while it is walked
        found += [p for p in all_of_box if p.parent == process.pid]
    return found


def is_guest(process: Process) -> bool:
    return process.name.startswith("qemu-system")
