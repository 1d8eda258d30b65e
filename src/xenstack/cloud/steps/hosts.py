"""The hosts: in each dom0 a switch and the XenAPI daemon, in each domU an agent and nova-compute."""

from collections.abc import Iterator

from xenstack.cloud import xenapi_call
from xenstack.cloud.api import connected
from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import CONTROL, dom0, domu
from xenstack.cloud.step import NotYet, Step
from xenstack.cloud.steps import network
from xenstack.cloud.steps.databases import query
from xenstack.cloud.steps.services import Check, consumes, service


def steps(cloud: Deployment) -> Iterator[Step]:
    for n in cloud.hosts:
        yield from network.dom0_switch(cloud, n)
        yield from _toolstack(cloud, n)
        yield from network.domu_agent(cloud, n)
        yield from _compute(cloud, n)


def _toolstack(cloud: Deployment, number: int) -> Iterator[Step]:
    box = dom0(number)
    yield service(
        cloud,
        box,
        "libvirtd",
        title="libvirt with QEMU, under the host daemon alone",
        works=lambda: _libvirt_answers(cloud, box),
    )
    yield service(
        cloud,
        box,
        "host",
        title="the XenAPI host daemon",
        needs=(f"{box}/libvirtd", f"br-int of {box}", f"isolation of {box}", f"HIMN of host {number}"),
        works=lambda: _speaks_xenapi(cloud, number),
    )


def _libvirt_answers(cloud: Deployment, box: str) -> None:
    found = cloud.boxes[box].run("virsh", "-c", "qemu:///system", "version", accept=range(256))
    if found.status:
        raise NotYet(f"libvirtd of {box}: {found.stderr.strip()}")


def _speaks_xenapi(cloud: Deployment, number: int) -> None:
    with xenapi_call.session(cloud, number) as call:
        hosts = call("host.get_all")
        if len(hosts) != 1 or not call("host.get_enabled", hosts[0]):
            raise NotYet(f"{dom0(number)} is not enabled")


def _compute(cloud: Deployment, number: int) -> Iterator[Step]:
    box = domu(number)
    ready = ("control/nova-conductor", "control/placement", "control/neutron-api", "catalogue")
    yield service(
        cloud,
        box,
        "console-forward",
        title="consoles: control reaches dom0's through here",
        needs=(f"cables of {box}",),
    )
    yield service(
        cloud,
        box,
        "nova-compute",
        title=f"nova-compute with our driver, speaking XenAPI to {dom0(number)}",
        needs=(*ready, f"cables of {box}", f"isolation of {box}", f"HIMN of host {number}", f"{dom0(number)}/host"),
        works=consumes(cloud, f"compute.{box}"),
        within_s=120,
    )
    yield Step(
        name=f"{box} in cell1",
        title="Nova's scheduler knows the host",
        needs=(f"{box}/nova-compute",),
        check=lambda: _mapped(cloud, box),
        apply=lambda: _map(cloud),
    )
    yield Step(
        name=f"{box} has resources",
        title="Placement knows what the host has",
        needs=(f"{box} in cell1", f"{box}/neutron-openvswitch-agent", "control/nova-scheduler", "control/nova-api"),
        check=_offers(cloud, box),
        within_s=90,
        log=cloud.layout.log(box) / "nova-compute.log",
    )


def _mapped(cloud: Deployment, box: str) -> None:
    if not query(cloud, f"SELECT 1 FROM nova_api.host_mappings WHERE host = '{box}'"):  # noqa: S608 - our own name
        raise NotYet(f"{box} is in no cell")


def _map(cloud: Deployment) -> None:
    conf = str(cloud.layout.etc("nova") / "nova.conf")
    manage = (cloud.layout.program("nova-manage"), "--config-file", conf)
    cloud.boxes[CONTROL].run(*manage, "cell_v2", "discover_hosts", "--by-service")


def _offers(cloud: Deployment, box: str) -> Check:
    def check() -> None:
        with connected(cloud) as api:
            mine = [s for s in api.compute.services(host=box) if s.binary == "nova-compute"]
            if not mine or mine[0].state != "up":
                raise NotYet(f"Nova does not count nova-compute of {box} as up")
            nodes = {h.name for h in api.compute.hypervisors(details=True) if h.service_details["host"] == box}
            providers = [p for p in api.placement.resource_providers() if p.name in nodes]
            if not providers:
                raise NotYet(f"Placement has no provider of {box}")
            kinds = {i.resource_class for i in api.placement.resource_provider_inventories(providers[0])}
        if not {"VCPU", "MEMORY_MB", "DISK_GB"} <= kinds:
            raise NotYet(f"the provider of {box} offers only {sorted(kinds)}")

    return check
