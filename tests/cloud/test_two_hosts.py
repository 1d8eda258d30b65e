"""Two hosts: a server on each, and what they say to each other through the tunnel."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.cloud.patience import until
from tests.cloud.tenant import PREFIX, Server, Tenant
from tests.conftest import Backends

from xenstack.cloud.deployment import Deployment

_MIB = 1 << 20


@pytest.fixture(scope="module")
def apart(cloud: Deployment, tenant: Tenant, backends: Backends) -> Iterator[str]:
    """A server group whose members are never on one host."""
    if cloud.layout.hosts < 2:
        backends.missing("this cloud has one host; `./xenstack up --hosts 2` makes a second")
    made = tenant.ask(lambda api: api.compute.create_server_group(name=PREFIX + "apart", policy="anti-affinity")).id
    yield made
    tenant.ask(lambda api: api.compute.delete_server_group(made))


@pytest.fixture(scope="module")
def two(tenant: Tenant, image: str, apart: str) -> Iterator[tuple[Server, Server]]:
    hint: dict[str, Any] = {"scheduler_hints": {"group": apart}}
    with (
        tenant.server("here", image, floating=True, **hint) as here,
        tenant.server("there", image, floating=True, **hint) as there,
    ):
        for server in (here, there):
            tenant.until_ssh(server)
        yield here, there


def test_servers_on_two_hosts_talk(tenant: Tenant, two: tuple[Server, Server]) -> None:
    here, there = two
    assert here.host != there.host, "both are on one host"
    for one, other in ((here, there), (there, here)):
        until(
            f"{one.name} pings {other.name}",
            30,
            lambda one=one, other=other: None if tenant.ssh(one, f"ping -c 1 -W 1 {other.fixed}").status == 0 else "no",
        )


def test_full_frames_cross_the_tunnel(tenant: Tenant, two: tuple[Server, Server]) -> None:
    """What DHCP told of the MTU is true: the largest packet arrives whole, and a MiB of data unharmed."""
    here, there = two
    mtu = int(tenant.says(here, "cat /sys/class/net/eth0/mtu"))
    tenant.says(here, f"ping -c 1 -W 2 -s {mtu - 28} {there.fixed}")
    tenant.says(there, "(nc -l -p 22222 -e sha256sum >/dev/null 2>&1 </dev/null &) ; true")
    tenant.says(here, "dd if=/dev/urandom of=/root/data bs=64k count=16 2>/dev/null")
    sent = tenant.says(here, "sha256sum </root/data").split()[0]
    open_port(tenant, 22222)
    try:
        got = tenant.says(here, f"nc -w 10 {there.fixed} 22222 </root/data").split()[0]
    finally:
        close_port(tenant, 22222)
    assert got == sent


def open_port(tenant: Tenant, port: int) -> None:
    def work(api: Any) -> None:
        group = next(iter(api.network.security_groups(project_id=api.current_project_id, name="default")))
        api.network.create_security_group_rule(
            security_group_id=group.id, direction="ingress", ethertype="IPv4", protocol="tcp",
            port_range_min=port, port_range_max=port, description=PREFIX,
        )  # fmt: skip

    tenant.ask(work)


def close_port(tenant: Tenant, port: int) -> None:
    def work(api: Any) -> None:
        for rule in api.network.security_group_rules(direction="ingress", port_range_min=port):
            api.network.delete_security_group_rule(rule)

    tenant.ask(work)
