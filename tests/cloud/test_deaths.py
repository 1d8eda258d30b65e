"""kill -9 of what guests do not need: the host daemon, libvirtd, nova-compute. No guest notices, everything comes back.

A ping runs all the time. Afterwards the same boot of the same process answers, the service runs again by its
supervisor alone, and the guest can be stopped, started and deleted.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from tests.cloud.absence import left_of, marks, unexplained, vm_of
from tests.cloud.patience import until
from tests.cloud.tenant import BOOT_S, POWER_S, Server, Tenant

from xenstack.cloud import xenapi_call
from xenstack.cloud.api import ADMIN
from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import OUTSIDE, dom0, domu
from xenstack.cloud.step import NotYet
from xenstack.run import start

_LONGEST_SILENCE_S = 8.0  # of a guest on emulated processors beside a busy cloud; a reboot is silent for longer
_BACK_S = 90.0


@pytest.fixture(scope="module")
def victim(tenant: Tenant, image: str) -> Iterator[Server]:
    """A server that answers ping."""
    with tenant.server("victim", image, floating=True) as server:
        tenant.until_pings(server)
        tenant.until_ssh(server)
        yield server


class Echoes:
    """The answers to a ping that runs every 0.2 s."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def times(self) -> list[float]:
        """When each answer came, seconds since the epoch."""
        return [float(t) for t in re.findall(r"^\[([\d.]+)\] .*bytes from", self._log.read_text(), re.MULTILINE)]

    def between(self, first: float, last: float) -> list[float]:
        return [t for t in self.times() if first <= t <= last]


@contextmanager
def pinged(tenant: Tenant, server: Server, folder: Path) -> Iterator[Echoes]:
    """Ping a server from the outside for the length of the block."""
    log = folder / "ping.log"
    seat = ("nsenter", "-t", str(tenant.cloud.boxes[OUTSIDE].running()), "-n", "--")
    with log.open("wb") as out:
        process = start(*seat, "ping", "-n", "-D", "-i", "0.2", "-w", "300", server.floating, log=out)
        try:
            yield Echoes(log)
        finally:
            process.kill()
            process.wait()


def kill(cloud: Deployment, box: str, service: str) -> int:
    """kill -9 a service's process, as its box numbers it; answers the number the supervisor knew."""
    known = cloud.supervisor(box).state(service).pid
    assert known, f"{box}/{service} does not run"
    victim = known
    if service == "libvirtd":  # the supervisor's process is the init that takes in libvirtd's orphans
        victim = int(cloud.boxes[box].run("pidof", "libvirtd").stdout.split()[0])
    cloud.boxes[box].run("kill", "-9", str(victim))
    return known


def until_back(cloud: Deployment, box: str, service: str, dead: int) -> None:
    """The supervisor has started it again, by itself."""

    def reason() -> str | None:
        state = cloud.supervisor(box).state(service)
        return None if state.running and state.pid != dead else f"{state.word}: {state.detail}"

    until(f"{box}/{service} runs again", _BACK_S, reason)


def works(tenant: Tenant, server: Server) -> str | None:
    """Whether the host answers and sees the guest running; why not."""
    try:
        with xenapi_call.session(tenant.cloud, server.host) as call:
            state = vm_of(call, server)[1]["power_state"]
        tenant.cloud.boxes[dom0(server.host)].run("virsh", "-c", "qemu:///system", "version")
        tenant.console(server)  # through nova-compute
    except (NotYet, RuntimeError) as why:
        return str(why)
    return None if state == "Running" else f"it is {state}"


def qemu(tenant: Tenant, server: Server) -> list[str]:
    """Process ids of the guest, as its box numbers them."""
    with xenapi_call.session(tenant.cloud, server.host) as call:
        uuid = vm_of(call, server)[1]["uuid"]
    lines = tenant.cloud.boxes[dom0(server.host)].run("ps", "-eo", "pid,args").stdout.splitlines()
    return [line.split()[0] for line in lines if f"guest={uuid}" in line]


@pytest.mark.parametrize("service", ["host", "libvirtd", "nova-compute"])
def test_no_guest_notices(tenant: Tenant, victim: Server, tmp_path: Path, service: str) -> None:
    cloud, box = tenant.cloud, domu(victim.host) if service == "nova-compute" else dom0(victim.host)
    tenant.until_ssh(victim, 60)
    boot, process = tenant.boot_id(victim), qemu(tenant, victim)
    assert len(process) == 1
    with pinged(tenant, victim, tmp_path) as echoes:
        until("the ping is answered", 10, lambda: None if echoes.times() else "not yet")
        killed = time.time()
        dead = kill(cloud, box, service)
        until_back(cloud, box, service, dead)
        until(f"{service} does its work again", _BACK_S, lambda: works(tenant, victim))
        time.sleep(1)
        ended = time.time()
        answers = [killed, *echoes.between(killed, ended), ended]
    silence = max(b - a for a, b in pairwise(answers))
    assert silence < _LONGEST_SILENCE_S, f"the guest was silent for {silence:.1f} s of {ended - killed:.1f} s"
    assert tenant.boot_id(victim) == boot, "the guest was rebooted"
    assert qemu(tenant, victim) == process, "the guest has another process"
    assert tenant.seen(victim.id)["status"] == "ACTIVE"
    stop_and_start(tenant, victim)


def stop_and_start(tenant: Tenant, server: Server) -> None:
    tenant.act(server, {"os-stop": None})
    tenant.until_status(server.id, "SHUTOFF", POWER_S)
    assert qemu(tenant, server) == []
    tenant.act(server, {"os-start": None})
    tenant.until_status(server.id, "ACTIVE", POWER_S)
    tenant.until_pings(server, BOOT_S)


def test_delete_while_the_daemon_is_dead(tenant: Tenant, image: str) -> None:
    """The wish is kept: it is done when the daemon is back, completely."""
    cloud = tenant.cloud
    with tenant.server("orphan", image) as server:
        box = dom0(server.host)
        its, process = marks(cloud, server), qemu(tenant, server)
        kill(cloud, box, "host")
        cloud.supervisor(box).stop("host")
        try:
            tenant.ask(lambda api: api.compute.delete_server(server.id))
            time.sleep(5)
            assert tenant.seen(server.id) is not None, "Nova calls a server deleted whose host it could not ask"
            alive = cloud.boxes[box].run("ps", "-eo", "pid").stdout.split()
            assert set(process) <= set(alive), "the guest died with its daemon"
        finally:
            cloud.supervisor(box).start("host")
        tenant.until_gone(server.id, 120)
    until("nothing of the server is left", 30, lambda: left_of(cloud, its))


@pytest.mark.parametrize("service", ["host", "nova-compute"])
def test_death_in_the_middle_of_a_build(tenant: Tenant, image: str, service: str) -> None:
    """The server is not forgotten: it ends in ACTIVE or in ERROR, and its delete leaves nothing."""
    cloud = tenant.cloud
    server = tenant.create("unborn", image)
    try:
        until("the build has begun on a host", 60, lambda: None if building(tenant, server) else "not yet")
        number = int(str(building(tenant, server)).rpartition("-")[2])
        box = domu(number) if service == "nova-compute" else dom0(number)
        dead = kill(cloud, box, service)
        until_back(cloud, box, service, dead)

        def settled() -> str | None:
            seen = tenant.seen(server)
            return (
                None if seen["status"] in ("ERROR", "ACTIVE") else f"{seen['status']} {seen['OS-EXT-STS:task_state']}"
            )

        until("Nova has made up its mind", 120, settled)
    finally:
        tenant.delete(server, 120)
    until("the host has nothing of it", 60, lambda: unexplained(cloud, number))


def building(tenant: Tenant, server: str) -> str | None:
    """The compute host that builds the server, once it does."""
    seen = tenant.seen(server, ADMIN)
    assert seen["status"] == "BUILD", f"it is {seen['status']} already: {seen.get('fault')}"
    return str(seen["OS-EXT-SRV-ATTR:host"] or "") or None
