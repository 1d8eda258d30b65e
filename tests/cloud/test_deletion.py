"""Nothing left: a server on a network of its own, with a disk from the vhd image and a config drive, and then no more.

Absence is looked for in the toolstack's records, libvirt, processes, devices, switches, files and namespaces.
"""

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest
from tests.cloud.absence import left_of, marks
from tests.cloud.patience import until
from tests.cloud.tenant import BOOT_S, PREFIX, Tenant, remove_router

from xenstack.cloud.layout import NETWORK
from xenstack.cloud.steps import demo


@pytest.fixture(scope="module")
def vhd(tenant: Tenant) -> Iterator[str]:
    with tenant.image("vhd", tenant.cloud.layout.image / "disk.vhd", "vhd") as made:
        yield made


def make_network(api: Any) -> tuple[str, str]:
    """A network with DHCP behind a router: (network, router)."""
    network = api.network.create_network(name=PREFIX + "own")
    subnet = api.network.create_subnet(name=PREFIX + "own", network_id=network.id, ip_version=4, cidr="10.22.0.0/24")
    outside = {"network_id": api.network.find_network(demo.PUBLIC).id}
    router = api.network.create_router(name=PREFIX + "own", external_gateway_info=outside)
    api.network.add_interface_to_router(router, subnet_id=subnet.id)
    return network.id, router.id


def remove_network(api: Any, network: str, router: str) -> None:
    remove_router(api, api.network.get_router(router))
    api.network.delete_network(network)


def test_delete_leaves_nothing(tenant: Tenant, vhd: str) -> None:
    cloud = tenant.cloud
    network, router = tenant.ask(make_network)
    with tenant.server("short-lived", vhd, floating=True, config_drive=True, networks=[{"uuid": network}]) as server:
        tenant.until_login(server)
        tenant.until_pings(server)
        its = marks(cloud, server)
        assert len(its.vdis) == 2, "a root disk and a config drive"
        found = left_of(cloud, its) or ""
        for kind in ("process", "domain", "device", "switch row", "VM", "VDI", "VBD", "VIF", "console", "file"):
            assert f": {kind} " in found, f"the search is blind: it does not see the living server's {kind}: {found}"
        assert "/host names" in found, f"the search is blind: it does not see Neutron's DHCP host file: {found}"
    until("nothing of the server is left", 30, lambda: left_of(cloud, its))
    tenant.ask(lambda api: remove_network(api, network, router))
    until("nothing of its network is left", 60, lambda: left_of_network(tenant, network, router))


def test_a_fixed_address_can_be_used_again(tenant: Tenant, image: str) -> None:
    """The DHCP server lets go of a deleted server's lease: the next one with the address gets it at once."""
    subnet = tenant.ask(lambda api: api.network.find_subnet(demo.PRIVATE))
    fixed = str(ip_network(subnet.cidr)[-6])  # Neutron gives from the beginning
    for name in ("first", "second"):
        port = tenant.ask(lambda api, name=name: make_port(api, subnet, fixed, name))
        try:
            with tenant.server(name, image, networks=[{"port": port}]) as server:
                until(
                    f"{name} gets {fixed} by DHCP",
                    BOOT_S,
                    lambda server=server: (
                        None
                        if f"network up: eth0 {fixed}/" in (log := tenant.console(server))
                        else f"the log ends {log[-300:]!r}"
                    ),
                )
        finally:
            tenant.ask(lambda api, port=port: api.network.delete_port(port))


def make_port(api: Any, subnet: Any, fixed: str, name: str) -> str:
    wanted = [{"subnet_id": subnet.id, "ip_address": fixed}]
    return str(api.network.create_port(name=PREFIX + name, network_id=subnet.network_id, fixed_ips=wanted).id)


def left_of_network(tenant: Tenant, network: str, router: str) -> str | None:
    """Namespaces, processes and files of the network node that carry one of the ids."""
    box = tenant.cloud.boxes[NETWORK]
    found = [f"namespace {n.name}" for n in box.path("/run/netns").iterdir() if network in n.name or router in n.name]
    lines = box.run("ps", "-eo", "pid,args").stdout.splitlines()
    found += [f"process {line[:120]}" for line in lines if network in line or router in line]
    files = box.path("/run/neutron").rglob("*")
    found += [f"file {f.name}" for f in files if f.is_file() and (network in str(f) or router in str(f))]
    return "; ".join(found) or None
