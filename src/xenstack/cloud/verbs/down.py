"""`down`: stop everything; `down --purge`: and delete the cloud's state, with proof that nothing is left."""

import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xenstack.cloud import left, xenapi_call
from xenstack.cloud.deployment import Deployment, known_hosts
from xenstack.cloud.layout import CONTROL, Layout, dom0, domu
from xenstack.cloud.step import NotYet
from xenstack.cloud.turn import alone

_SHUTDOWN_S = 7.0  # what a guest gets to shut down by itself; ours need 2 to 3


def down(root: Path, *, purge: bool) -> int:
    """Stop the cloud of this clone. Returns the exit status: 0 when nothing of it runs any more.

    Raises NotYet beside another command.
    """
    with alone(root, "down"):
        return _down(root, purge=purge)


def _down(root: Path, *, purge: bool) -> int:
    started = time.monotonic()
    hosts = known_hosts(root)
    if hosts is not None:
        cloud = Deployment(root, hosts)
        if any(box.pid() for box in cloud.boxes.values()):
            stop(cloud, lambda word: print(f"{time.monotonic() - started:6.1f}s  {word}", flush=True))
        else:
            print("nothing runs")
    left.end_strays(Layout(root))
    if purge:
        shutil.rmtree(Layout(root).cloud, ignore_errors=True)
    remains = left.remains(root, state_too=purge)
    for kind, found in remains.items():
        for thing in found:
            print(f"left behind: {kind}: {thing}", file=sys.stderr)
    if any(remains.values()):
        return 1
    what = "; ".join(f"no {kind}" for kind in remains)
    print(f"down in {time.monotonic() - started:.1f} s: {what} is left")
    if purge:
        print(
            f"kept: {Layout(root).install} (tools, virtual environment, guest image); delete it to start from nothing"
        )
    else:
        print("`./xenstack up` starts it again with its servers and data")
    return 0


def stop(cloud: Deployment, tell: Callable[[str], None]) -> None:
    """End every box, in an order that keeps data whole.

    nova-compute goes first: it would take a guest's shutdown for its user's wish, and not start it again. Then the
    guests get their time, while the database writes what it holds.
    """
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: cloud.boxes[domu(n)].kill(), cloud.hosts))
        tell("the OpenStack domUs are stopped")
        work = [pool.submit(_shut_guests, cloud, n) for n in cloud.hosts]
        work.append(pool.submit(_stop_database, cloud))
        for each in work:
            tell(each.result())
        list(pool.map(lambda box: box.kill(), reversed(cloud.boxes.values())))
        tell("every box is stopped")


def _stop_database(cloud: Deployment) -> str:
    try:
        cloud.supervisor(CONTROL).stop("mariadb")
    except NotYet as why:
        return f"the database was not stopped in order: {why}"
    return "the database is stopped"


def _shut_guests(cloud: Deployment, number: int) -> str:
    try:
        with xenapi_call.session(cloud, number) as call:
            running = [r for r, record in xenapi_call.guests(call).items() if record["power_state"] == "Running"]
            tasks = [call("Async.VM.clean_shutdown", ref) for ref in running]
            deadline = time.monotonic() + _SHUTDOWN_S
            while tasks and time.monotonic() < deadline:
                time.sleep(0.2)
                tasks = [task for task in tasks if call("task.get_status", task) == "pending"]
    except NotYet as why:
        return f"guests of {dom0(number)} were not shut down in order: {why}"
    return f"{len(running) - len(tasks)} of {len(running)} guests of {dom0(number)} shut down by themselves"
