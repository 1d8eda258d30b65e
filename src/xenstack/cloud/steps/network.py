"""Switches, the network node's agents, and the OVS agent of each domU."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from xenstack.cloud import layout
from xenstack.cloud.api import connected
from xenstack.cloud.box import Box
from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import DOM0_HIMN, DOMU_HIMN, NETWORK, OUTSIDE, dom0, domu
from xenstack.cloud.settings.networking import PRIVSEP_SOCKET
from xenstack.cloud.step import NotYet, Step
from xenstack.cloud.steps.services import Check, service

# an agent that starts before Neutron's server listens loses a minute; one without Keystone's catalogue cannot be seen
_SERVER = ("control/neutron-rpc", "control/neutron-api", "catalogue")
_AGENTS = {
    "neutron-openvswitch-agent": "switches of the network node: tunnels and provider networks",
    "neutron-l3-agent": "routers and floating IPs, in namespaces",
    "neutron-dhcp-agent": "DHCP by dnsmasq, in namespaces",
    "neutron-metadata-agent": "metadata for guests, handed on to Nova",
}
_HELPED = ("neutron-l3-agent", "neutron-dhcp-agent")


def steps(cloud: Deployment) -> Iterator[Step]:
    yield from switch(cloud, NETWORK, {"br-tenant": "tenant", "br-ex": "public"})
    yield service(
        cloud,
        NETWORK,
        "privsep",
        title="forks the privileged helpers of the L3 and DHCP agents",
        works=_files(lambda: cloud.boxes[NETWORK].path(PRIVSEP_SOCKET)),
    )
    for program, title in _AGENTS.items():
        ready = (
            _SERVER if program == "neutron-openvswitch-agent" else (*_SERVER, f"{NETWORK}/neutron-openvswitch-agent")
        )
        helpers = (f"{NETWORK}/privsep",) if program in _HELPED else ()
        needs = (f"cables of {OUTSIDE}", f"isolation of {NETWORK}", f"{NETWORK}/tunnel-address", *helpers, *ready)
        works = _beats(cloud, NETWORK, program)
        yield service(cloud, NETWORK, program, title=title, needs=needs, works=works)


def dom0_switch(cloud: Deployment, number: int) -> Iterator[Step]:
    """Open vSwitch of a dom0. br-int is made here, with the passive controller that `ofctl-forward` reaches."""
    box = dom0(number)
    yield from switch(cloud, box, {"br-tenant": "tenant"}, (f"isolation of {box}", f"HIMN of host {number}"))
    controllers = {f"tcp:{DOMU_HIMN}:{layout.AGENT_OPENFLOW}", f"ptcp:{layout.OPENFLOW}:{DOM0_HIMN}"}

    def check() -> None:
        found = cloud.boxes[box].run("ovs-vsctl", "--timeout=5", "get-controller", "br-int", accept=(0, 1, 2))
        if missing := controllers - set(found.stdout.split()):
            raise NotYet(f"br-int of {box} lacks {', '.join(missing)}")

    def apply() -> None:
        bridge = ("--may-exist", "add-br", "br-int", "--", "set", "Bridge", "br-int", "datapath_type=netdev")
        secure = ("--", "set-fail-mode", "br-int", "secure", "--", "set-controller", "br-int", *sorted(controllers))
        cloud.boxes[box].run("ovs-vsctl", "--timeout=10", *bridge, *secure)

    yield Step(
        name=f"br-int of {box}",
        title="the bridge of guests: closed until Neutron's agent opens it",
        needs=(f"{box}/vswitchd",),
        check=check,
        apply=apply,
        log=cloud.layout.log(box) / "vswitchd.log",
    )


def domu_agent(cloud: Deployment, number: int) -> Iterator[Step]:
    box = domu(number)
    himn = (f"HIMN of host {number}", f"isolation of {box}")
    yield service(cloud, box, "ofctl-forward", title="`ovs-ofctl br-int` in the domU reaches dom0's switch", needs=himn)
    yield service(
        cloud,
        box,
        "neutron-openvswitch-agent",
        title="Neutron's stock agent: programs dom0's switch over the HIMN",
        needs=(
            *himn,
            *_SERVER,
            f"{box}/ofctl-forward",
            f"cables of {box}",
            f"br-int of {dom0(number)}",
            f"{dom0(number)}/tunnel-address",
        ),
        works=_beats(cloud, box, "neutron-openvswitch-agent"),
    )


def switch(cloud: Deployment, name: str, bridges: dict[str, str], needs: tuple[str, ...] = ()) -> Iterator[Step]:
    """Open vSwitch in a box, its bridges with their uplinks, and the tunnel's address on br-tenant."""
    box = cloud.boxes[name]
    yield service(
        cloud,
        name,
        "ovsdb",
        title="database of Open vSwitch",
        works=_files(lambda: box.path("/run/openvswitch/db.sock")),
    )
    yield service(
        cloud,
        name,
        "vswitchd",
        title="Open vSwitch, in user space",
        needs=(f"{name}/ovsdb", *needs),
        works=lambda: _serves(box),
    )
    yield Step(
        name=f"bridges of {name}",
        title=", ".join(f"{bridge} with uplink {uplink}" for bridge, uplink in bridges.items()),
        needs=(f"{name}/vswitchd", f"cables of {name}"),
        check=lambda: _plugged(box, bridges),
        apply=lambda: _plug(box, bridges),
        log=cloud.layout.log(name) / "vswitchd.log",
    )
    yield service(
        cloud,
        name,
        "tunnel-address",
        title="the tunnel's address, kept on br-tenant",
        needs=(f"bridges of {name}",),
        works=lambda: _addressed(box),
    )


def _serves(box: Box) -> None:
    found = box.run("ovs-appctl", "-t", "/run/openvswitch/vswitchd.ctl", "version", accept=(0, 1))
    if found.status:
        raise NotYet(f"vswitchd of {box.name} does not answer")


def _plugged(box: Box, bridges: dict[str, str]) -> None:
    for bridge, uplink in bridges.items():
        found = box.run("ovs-vsctl", "--timeout=5", "list-ports", bridge, accept=(0, 1, 2))
        if uplink not in found.stdout.split():
            raise NotYet(f"{bridge} of {box.name} has no uplink {uplink}")
        if bridge not in box.interfaces():
            raise NotYet(f"{bridge} of {box.name} is not up yet")


def _plug(box: Box, bridges: dict[str, str]) -> None:
    box.run("ovs-vsctl", "--timeout=5", "--no-wait", "init")
    for bridge, uplink in bridges.items():
        made = ("--may-exist", "add-br", bridge, "--", "set", "Bridge", bridge, "datapath_type=netdev")
        box.run("ovs-vsctl", "--timeout=10", *made, "--", "--may-exist", "add-port", bridge, uplink)


def _addressed(box: Box) -> None:
    shown = box.run("ip", "-4", "-o", "address", "show", "dev", "br-tenant", accept=(0, 1)).stdout
    if "10.98.0." not in shown:
        raise NotYet(f"br-tenant of {box.name} has no address yet")


def _files(path: Callable[[], Path]) -> Check:
    def check() -> None:
        try:
            path().stat()
        except FileNotFoundError as why:
            raise NotYet(f"{why.filename} is not there yet") from why

    return check


def _beats(cloud: Deployment, host: str, program: str) -> Check:
    """The agent's heartbeat reached Neutron after its process began: its main thread lives."""

    def check() -> None:
        since = cloud.supervisor(host).state(program).since
        with connected(cloud) as api:
            found = list(api.network.agents(host=host, binary=program))
        if not found:
            raise NotYet(f"Neutron has not heard of {program} on {host}")
        beat = datetime.fromisoformat(found[0].last_heartbeat_at).replace(tzinfo=UTC).timestamp()
        if not found[0].is_alive or beat < since:
            raise NotYet(f"Neutron heard {program} on {host} last at {found[0].last_heartbeat_at}")

    return check
