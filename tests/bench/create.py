"""Servers in the running cloud: create to ACTIVE and back, beside Nova's own fake driver on the same control plane.

The fake driver does nothing, so what it takes is what OpenStack takes: API, scheduler, Placement, messages, database,
Neutron's port. Both get the same image, flavor and network; they take turns, medians are compared. Its nova-compute
runs for the length of this benchmark only; it is called `network`, because Neutron binds a port only where one of its
agents is, and that host has one. Nobody else should create servers meanwhile: the scheduler may give them to it.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.bench import tap
from tests.bench.table import Row

from xenstack.cloud.api import ADMIN, connected
from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import CONTROL, domu
from xenstack.cloud.step import NotYet, wait_until

SECTION = "Servers in the running cloud"
FAKE_SERVICE = "nova-compute-fake"
_POLL_S = 0.1
_LONGEST_S = 120.0


def rows(cloud: Deployment, rounds: int = 5) -> list[Row]:
    """Raises NotYet when the cloud does not run or a server does not come up."""
    with _fake_compute(cloud) as fake_host, connected(cloud, ADMIN) as api:
        ours, theirs = domu(1), fake_host
        _cycle(api, ours, lambda: None)  # the image is in the SR from here on
        _cycle(api, theirs, lambda: None)
        spawn: dict[str, list[float]] = {ours: [], theirs: []}
        delete: dict[str, list[float]] = {ours: [], theirs: []}
        for _ in range(rounds):
            for host in (ours, theirs):
                up, gone = _cycle(api, host, lambda: None)
                spawn[host].append(up)
                delete[host].append(gone)
        trips_up, trips_gone = _round_trips(cloud, api, ours)
    up, base = statistics.median(spawn[ours]), statistics.median(spawn[theirs])
    gone, base_gone = statistics.median(delete[ours]), statistics.median(delete[theirs])
    note = f"{up:.2f} s against {base:.2f} s"

    def row(key: str, what: str, value: float, unit: str, target: float | None = None, note: str = "") -> Row:
        return Row(key=f"create.{key}", section=SECTION, what=what, value=value, unit=unit, target=target, note=note)

    return [
        row("0 active", "create to ACTIVE, image cached", up, "s", note=f"{rounds} rounds"),
        row("1 ratio", "create to ACTIVE against Nova's fake driver", up / base, "×", 1.5, note),
        row("2 deleted", "delete to gone", gone, "s", note=f"fake driver {base_gone:.2f} s"),
        row("3 spawn", "XenAPI round trips of a spawn, image cached", trips_up, "", 15, "seen on the wire"),
        row("4 destroy", "XenAPI round trips of a destroy", trips_gone, "", 10, "seen on the wire"),
    ]


def _round_trips(cloud: Deployment, api: Any, host: str) -> tuple[int, int]:
    with tap.listening(cloud.boxes[host].running()) as wire:
        at_active: list[int] = []

        def between() -> None:
            time.sleep(3)  # what Nova still asks after ACTIVE belongs to the spawn
            at_active.append(wire.round_trips)

        _cycle(api, host, between)
        time.sleep(3)
        return at_active[0], wire.round_trips - at_active[0]


def _cycle(api: Any, host: str, between: Callable[[], None]) -> tuple[float, float]:
    """Seconds from create to ACTIVE, and from delete to gone. Raises NotYet; the server is deleted all the same."""
    wanted = {
        "name": f"bench-{host}",
        "image_id": api.image.find_image("guest").id,
        "flavor_id": api.compute.find_flavor("small").id,
        "networks": [{"uuid": api.network.find_network("flat").id}],
        "availability_zone": f"nova:{host}",
    }
    started = time.monotonic()
    server = api.compute.create_server(**wanted)
    try:
        _until(lambda: _active(api, server.id))
        up = time.monotonic() - started
        between()
    finally:
        started = time.monotonic()
        api.compute.delete_server(server)
        _until(lambda: _gone(api, server.id))
    return up, time.monotonic() - started


def _until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LONGEST_S
    while not check():
        if time.monotonic() > deadline:
            raise NotYet(f"a server of the benchmark did not get there in {_LONGEST_S:.0f} s")
        time.sleep(_POLL_S)


def _active(api: Any, server: str) -> bool:
    seen = api.compute.get_server(server)
    if seen.status == "ERROR":
        raise NotYet(f"a server of the benchmark failed: {seen.fault}")
    return bool(seen.status == "ACTIVE")


def _gone(api: Any, server: str) -> bool:
    from openstack.exceptions import NotFoundException

    try:
        api.compute.get_server(server)
    except NotFoundException:
        return True
    return False


@contextmanager
def _fake_compute(cloud: Deployment) -> Iterator[str]:
    """Nova's fake driver as one more compute host, known to the scheduler; disabled and stopped afterwards."""
    service = cloud.service(CONTROL, FAKE_SERVICE)
    host = _configured_host(cloud)
    supervisor = cloud.supervisor(CONTROL)
    for folder in service.folders:
        folder.mkdir(parents=True, exist_ok=True)
    cloud.boxes[CONTROL].write_supervisor()
    supervisor.learn(service)
    supervisor.start(FAKE_SERVICE)
    try:

        def up() -> None:
            with connected(cloud, ADMIN) as api:
                mine = [s for s in api.compute.services(host=host) if s.binary == "nova-compute"]
                if not mine or mine[0].state != "up":
                    raise NotYet(f"nova-compute of {host} is not up")

        wait_until(up, 90)
        manage = (cloud.layout.program("nova-manage"), "--config-file", str(cloud.layout.etc("nova") / "nova.conf"))
        cloud.boxes[CONTROL].run(*manage, "cell_v2", "discover_hosts", "--by-service")
        yield host
    finally:
        try:
            _retire(cloud, host)
        finally:
            supervisor.stop(FAKE_SERVICE)


def _retire(cloud: Deployment, host: str) -> None:
    """Take the fake host out of Nova again: `status` must not miss it. What landed on it has to go first."""
    with connected(cloud, ADMIN) as api:
        for server in list(api.compute.servers(all_projects=True, compute_host=host)):
            if server.compute_host == host:
                print(f"bench: server {server.name} was given to the fake driver; deleted", file=sys.stderr)
                api.compute.delete_server(server)
                api.compute.wait_for_delete(server, wait=60)
        for mine in api.compute.services(host=host):
            if mine.binary == "nova-compute":
                api.compute.delete_service(mine)


def _configured_host(cloud: Deployment) -> str:
    """The name that the fake driver's nova.conf gives it."""
    import configparser

    parser = configparser.RawConfigParser(strict=False)
    parser.read(cloud.layout.etc("nova-fake") / "nova.conf")
    return parser["DEFAULT"]["host"]
