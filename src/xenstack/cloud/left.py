"""What a cloud could leave behind on the machine, looked for by itself and not by what we remember of it.

Everything is asked of the kernel: a process by the mark in its environment, by its command line or by living in a
namespace with one; mounts, network devices and loop devices in the machine's own namespaces.
"""

import os
import signal
import time
from pathlib import Path

from xenstack.cloud.box import MARK
from xenstack.cloud.layout import BRIDGES, CONTROL, NETWORK, OUTSIDE, Layout

# no guest's tap (vif...): on the machine itself those are of a host daemon that runs outside any box
_OUR_BRIDGES = {"mgmt", "tenant", "public", "himn", "br-int", "br-tun", "br-tenant", "br-ex"}
_OUR_CABLES = tuple(f"{wire[0]}-{box}" for wire in BRIDGES for box in (OUTSIDE, CONTROL, NETWORK, "dom0-", "domu-"))


def strays(where: Layout) -> dict[int, str]:
    """Processes of this clone's cloud: pid and command line."""
    mark = f"{MARK}={where.cloud}:".encode()
    found: dict[int, str] = {}
    spaces: set[str] = set()
    mine = str(Path("/proc/self/ns/pid").readlink())
    everyone = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]
    for pid in everyone:
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if mark in Path(f"/proc/{pid}/environ").read_bytes():
                found[pid] = line.replace(b"\0", b" ").decode(errors="replace").strip()
                spaces.add(str(Path(f"/proc/{pid}/ns/pid").readlink()))
        except OSError:
            continue  # it ended meanwhile
    for pid in everyone:  # programs that overwrote their environment, beside one that did not
        try:
            if str(Path(f"/proc/{pid}/ns/pid").readlink()) in spaces - {mine} and pid not in found:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                found[pid] = line.replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
    found.pop(os.getpid(), None)
    return found


def end_strays(where: Layout) -> None:
    """Kill what a cloud whose records were lost left running. Nothing without our mark is touched."""
    deadline = time.monotonic() + 10
    while (found := strays(where)) and time.monotonic() < deadline:
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)


def remains(root: Path, *, state_too: bool) -> dict[str, list[str]]:
    """Everything found, by kind; an empty list is the proof that there is nothing of it."""
    where = Layout(root)
    deadline = time.monotonic() + 5  # the kernel takes network namespaces apart after their last process has ended
    while (devices := _devices()) and time.monotonic() < deadline:
        time.sleep(0.1)
    found = {
        "process": [f"{pid} {line}" for pid, line in strays(where).items()],
        "mount": _mounts(where),
        "network namespace": _namespaces(),
        "bridge or cable": devices,
        "loop device": _loops(where),
    }
    if state_too:
        found["file of the cloud"] = [str(where.cloud)] if where.cloud.exists() else []
    return found


def _mounts(where: Layout) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if str(where.cloud) in line]


def _namespaces() -> list[str]:
    """Named namespaces of Neutron on the machine itself; ours are named inside boxes only."""
    folder = Path("/run/netns")
    return [n.name for n in folder.iterdir() if n.name.startswith(("qrouter-", "qdhcp-"))] if folder.is_dir() else []


def _devices() -> list[str]:
    return [
        d.name for d in Path("/sys/class/net").iterdir() if d.name in _OUR_BRIDGES or d.name.startswith(_OUR_CABLES)
    ]


def _loops(where: Layout) -> list[str]:
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if str(where.cloud) in backing.read_text():
                found.append(backing.parts[3])
        except OSError:
            continue
    return found
