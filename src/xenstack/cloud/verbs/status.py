"""`status`: every service and host, whether it does its work, and the memory it takes.

Health is not a living process: it is the check of the service's step in the plan, so an API that answers, an agent
whose heartbeat arrives, a worker that takes messages.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from xenstack.cloud import memory, xenapi_call
from xenstack.cloud.deployment import Deployment, known_hosts
from xenstack.cloud.plan import plan
from xenstack.cloud.step import NotYet, Step
from xenstack.cloud.supervisor import State

_ON_DEMAND = ("nova-compute-fake",)
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One line: a service, or what a box runs besides its services."""

    box: str
    service: str
    state: str
    healthy: bool
    pid: int | None
    pss: int  # bytes
    reason: str


def status(root: Path, *, as_json: bool) -> int:
    """Print the state of the cloud. Returns 0 when all is healthy, 1 when something is not, 3 when it is down."""
    hosts = known_hosts(root)
    cloud = Deployment(root, hosts) if hosts else None
    if cloud is None or not any(box.pid() for box in cloud.boxes.values()):
        print(json.dumps({"running": False}) if as_json else "the cloud is down; `./xenstack up` starts it")
        return 3
    rows = look(cloud)
    guests = {name: pss for box in cloud.boxes.values() for name, pss in _guests(cloud, box.name)}
    healthy = all(row.healthy for row in rows)
    total = sum(row.pss for row in rows)
    if as_json:
        report = {
            "running": True,
            "healthy": healthy,
            "pss": total,
            "services": [asdict(row) for row in rows],
            "guests": guests,
        }
        print(json.dumps(report, indent=1))
    else:
        _table(rows, guests, total)
    return 0 if healthy else 1


def look(cloud: Deployment) -> list[Row]:
    """Every row, in the order of boxes and services."""
    steps = {step.name: step for step in plan(cloud)}
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda name: _box(cloud, name, steps), cloud.boxes))
    return [row for rows in found for row in rows]


def _box(cloud: Deployment, name: str, steps: dict[str, Step]) -> list[Row]:
    box = cloud.boxes[name]
    try:
        box.check()
        states = cloud.supervisor(name).states() if box.services else {}
    except NotYet as why:
        return [Row(name, "(box)", "down", False, None, 0, str(why))]
    processes = memory.processes(box)
    with ThreadPoolExecutor(8) as pool:
        labels = [s.label for s in box.services]
        reasons = dict(zip(labels, pool.map(lambda label: _unwell(steps.get(label)), labels), strict=True))
    rows, counted = [], set()
    for service in box.services:
        state = states.get(service.name) or State(service.name, False, 0, 0, "unknown", "not known to the supervisor")
        if service.name in _ON_DEMAND and not state.running:
            continue
        mine = [p for p in memory.tree(processes, state.pid) if not memory.is_guest(p)] if state.pid else []
        counted |= {p.pid for p in mine}
        reason = reasons[service.label] if state.running else state.detail or state.word
        pid = mine[0].pid if mine else None
        rows.append(
            Row(name, service.name, state.word, state.running and not reason, pid, sum(p.pss for p in mine), reason)
        )
    rest = [p for p in processes if p.pid not in counted and not memory.is_guest(p)]
    what = ", ".join(sorted({p.name for p in rest}))
    rows.append(Row(name, "(box)", "running", True, box.pid(), sum(p.pss for p in rest), what))
    return rows


def _unwell(step: Step | None) -> str:
    """Why the service's step does not hold; empty when it does."""
    try:
        if step:
            step.check()
    except NotYet as why:
        return str(why)
    return ""


def _guests(cloud: Deployment, box: str) -> list[tuple[str, int]]:
    if not box.startswith("dom0-"):
        return []
    sizes = sorted((p.pss for p in memory.processes(cloud.boxes[box]) if memory.is_guest(p)), reverse=True)
    try:
        with xenapi_call.session(cloud, int(box.rpartition("-")[2])) as call:
            found = xenapi_call.guests(call).values()
    except NotYet:
        return [(f"guest of {box}", size) for size in sizes]
    running = [f"{record['name_label']} on {box}" for record in found if record["power_state"] == "Running"]
    return list(zip(running, [*sizes, *[0] * len(running)], strict=False))


def _table(rows: list[Row], guests: dict[str, int], total: int) -> None:
    width = max(len(row.service) for row in rows)
    for row in rows:
        health = "ok" if row.healthy else "NOT WELL"
        note = row.reason if not row.healthy or row.service == "(box)" else ""
        pid = str(row.pid or "")
        print(
            f"{row.box:<8} {row.service:<{width}} {health:<8} {pid:>8} {row.pss / _MIB:7.1f} MiB  {note[:90]}".rstrip()
        )
    print(f"{'':<8} {'all without guests':<{width + 18}} {total / _MIB:7.1f} MiB (PSS)")
    for name, pss in guests.items():
        print(f"guest    {name}: {pss / _MIB:.1f} MiB")
    for n in (row.box for row in rows if row.service == "(box)" and row.state == "down"):
        print(f"box {n} is down: `./xenstack up` starts it again")
