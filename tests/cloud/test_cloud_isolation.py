"""Who reaches whom, by trying. Each try that must fail stands beside one of the same kind that must succeed."""

import http.client
import json
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.cloud.patience import until
from tests.cloud.tenant import Server, Tenant

from xenstack.cloud import layout, netns
from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import CONTROL, DOM0_HIMN, DOMU_HIMN, NETWORK, OUTSIDE, dom0, domu, domu_address
from xenstack.cloud.steps import demo

HOST_PORTS = (22, layout.XENAPI, layout.XENAPI_TLS, layout.OVSDB, layout.OPENFLOW, layout.CONSOLES, 16509)
METADATA_ADDRESS = "169.254.169.254"
_TRY_S = 2.0


def reached(cloud: Deployment, box: str, targets: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    """Which of the TCP ports can be connected to from a box. A refusal counts too: somebody answered."""
    pid = cloud.boxes[box].running()

    def attempt(target: tuple[str, int]) -> bool:
        with netns.inside(pid):
            try:
                socket.create_connection(target, _TRY_S).close()
            except ConnectionRefusedError:
                return True
            except OSError:
                return False
            return True

    every = list(targets)
    with ThreadPoolExecutor(32) as pool:
        return {target for target, hit in zip(every, pool.map(attempt, every), strict=True) if hit}


def login(cloud: Deployment, number: int, password: str) -> dict[str, Any]:
    """Log in to what answers at the HIMN address in domU N, and ask for its host's name."""
    with netns.inside(cloud.boxes[domu(number)].running()):
        link = http.client.HTTPConnection(DOM0_HIMN, layout.XENAPI, timeout=10)

        def ask(method: str, *arguments: str) -> dict[str, Any]:
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": arguments})
            link.request("POST", "/jsonrpc", body, {"Content-Type": "application/json"})
            return dict(json.loads(link.getresponse().read()))

        try:
            opaque = ask("session.login_with_password", "root", password, "1.0", "tests")
            if opaque.get("error"):
                return opaque
            session = opaque["result"]
            host = ask("session.get_this_host", session, session)["result"]
            name = ask("host.get_hostname", session, host)
            ask("session.logout", session)
            return name
        finally:
            link.close()


def test_each_domu_reaches_its_own_dom0_and_no_other(cloud: Deployment) -> None:
    allowed = {layout.XENAPI, layout.XENAPI_TLS, layout.OVSDB, layout.OPENFLOW, layout.CONSOLES}
    for n in cloud.hosts:
        assert login(cloud, n, cloud.secrets.password(f"host {n}"))["result"] == dom0(n)
        assert login(cloud, n, "a guess")["error"]["message"] == "SESSION_AUTHENTICATION_FAILED"
        own = {(DOM0_HIMN, port) for port in HOST_PORTS}
        assert reached(cloud, domu(n), own) == {(DOM0_HIMN, p) for p in allowed}
        others = {
            (address, port)
            for m in cloud.hosts
            if m != n
            for address in (layout.tunnel_address(m), domu_address(m))
            for port in (*HOST_PORTS, layout.DOMU_CONSOLES)
        }
        assert reached(cloud, domu(n), others) == set(), f"{domu(n)} reaches another host"
        assert reached(cloud, domu(n), {(layout.CONTROL_ADDRESS, layout.BUS)}), "the way to the bus is open"


def test_nobody_else_reaches_a_dom0(cloud: Deployment) -> None:
    """Not control, not the network node that shares the tunnels' wire, not the operator's seat."""
    targets = {(layout.tunnel_address(n), port) for n in cloud.hosts for port in HOST_PORTS}
    targets |= {(DOM0_HIMN, port) for port in HOST_PORTS}
    for box in (CONTROL, NETWORK, OUTSIDE):
        assert reached(cloud, box, targets) == set(), f"{box} reaches a dom0"
    control = {(layout.CONTROL_ADDRESS, layout.IDENTITY)}
    assert reached(cloud, NETWORK, control) == reached(cloud, OUTSIDE, control) == control


def test_consoles_are_for_control_only(cloud: Deployment) -> None:
    forwarders = {(domu_address(n), layout.DOMU_CONSOLES) for n in cloud.hosts}
    assert reached(cloud, CONTROL, forwarders) == forwarders
    for box in (NETWORK, OUTSIDE):
        assert reached(cloud, box, forwarders) == set(), f"{box} reaches the forwarder of consoles"
    for n in cloud.hosts:
        with netns.inside(cloud.boxes[CONTROL].running()):
            link = http.client.HTTPConnection(domu_address(n), layout.DOMU_CONSOLES, timeout=10)
            link.request("POST", "/jsonrpc", "{}", {"Content-Type": "application/json"})
            assert link.getresponse().status in (403, 404, 405), "XenAPI is served where only consoles should be"
            link.close()


def forbidden(cloud: Deployment) -> list[tuple[str, int]]:
    """What no guest may reach: dom0, domU, the management network, the tunnels' ends."""
    services = (
        *(layout.IDENTITY, layout.IMAGE, layout.COMPUTE, layout.NETWORKING, layout.PLACEMENT, layout.METADATA),
        *(layout.DATABASE, layout.BUS, layout.NOVNC, 22),
    )
    every = [(layout.CONTROL_ADDRESS, port) for port in services]
    every += [(DOM0_HIMN, port) for port in HOST_PORTS]
    every += [(DOMU_HIMN, port) for port in (22, layout.AGENT_OPENFLOW)]
    for n in cloud.hosts:
        every += [(domu_address(n), port) for port in (22, layout.DOMU_CONSOLES)]
        every += [(layout.tunnel_address(n), port) for port in HOST_PORTS]
    return [*every, (layout.NETWORK_ADDRESS, 22), (layout.NETWORK_TUNNEL, 22), (layout.OPERATOR_ADDRESS, 22)]


def from_guest(tenant: Tenant, guest: Server, targets: Iterable[tuple[str, int]]) -> set[str]:
    """What the guest reaches of these, by ping and by TCP: "ping ADDRESS", "ADDRESS:PORT"."""
    every = set(targets)
    lines = [f"(ping -c 2 -W 2 {a} >/dev/null 2>&1 && echo ping {a}) &" for a in sorted({a for a, _ in every})]
    lines += [f"(nc -w 2 {a} {p} </dev/null >/dev/null 2>&1 && echo {a}:{p}) &" for a, p in sorted(every)]
    done = tenant.ssh(guest, "\n".join([*lines, "wait"]), timeout_s=60)
    assert done.status == 0, done.stderr
    return set(done.stdout.splitlines())


def test_a_guest_reaches_neither_hosts_nor_management(tenant: Tenant, guest: Server) -> None:
    gateway = tenant.ask(lambda api: api.network.find_subnet(demo.PRIVATE)).gateway_ip
    mine = [(gateway, 9), (METADATA_ADDRESS, 80), (layout.PUBLIC_GATEWAY, 9)]
    found = from_guest(tenant, guest, [*forbidden(tenant.cloud), *mine])
    assert found >= {f"ping {gateway}", f"ping {layout.PUBLIC_GATEWAY}", f"{METADATA_ADDRESS}:80"}, "the try is blind"
    found -= {f"ping {gateway}", f"ping {layout.PUBLIC_GATEWAY}", f"{METADATA_ADDRESS}:80", f"ping {METADATA_ADDRESS}"}
    assert found == set(), f"a guest reaches {sorted(found)}"


SPOOFED = ("169.254.0.9/16", "10.99.0.9/24", "10.98.0.9/24")


@pytest.mark.parametrize("port_security", [True, False], ids=["port security", "no port security"])
def test_a_guest_with_stolen_addresses_reaches_no_more(tenant: Tenant, guest: Server, port_security: bool) -> None:
    """Root in the guest gives itself addresses of the hosts' networks; then also without Neutron's filter."""
    gateway = tenant.ask(lambda api: api.network.find_subnet(demo.PRIVATE)).gateway_ip
    own = "10.21.0.249"
    tenant.says(guest, "".join(f"ip address add {a} dev eth0; " for a in (*SPOOFED, f"{own}/32")) + "true")
    try:
        if not port_security:
            filtered(tenant, guest, on=False)
        spoof = f"ping -c 1 -W 1 -I {own} {gateway}"
        expected = 1 if port_security else 0
        until(
            "Neutron's filter is as set", 40, lambda: None if tenant.ssh(guest, spoof).status == expected else "not yet"
        )
        found = from_guest(tenant, guest, [*forbidden(tenant.cloud), (gateway, 9)])
        assert f"ping {gateway}" in found, "the try is blind"
        found -= {f"ping {gateway}", *(f"ping {a.partition('/')[0]}" for a in SPOOFED)}
        assert found == set(), f"a guest with stolen addresses reaches {sorted(found)}"
    finally:
        if not port_security:
            filtered(tenant, guest, on=True)
            tenant.until_pings(guest, 60)
        tenant.says(guest, "".join(f"ip address del {a} dev eth0; " for a in (*SPOOFED, f"{own}/32")) + "true")


def filtered(tenant: Tenant, guest: Server, *, on: bool) -> None:
    """Neutron's filter of the port; its owner may switch it off on his own network."""

    def work(api: Any) -> None:
        groups = [g.id for g in api.network.security_groups(project_id=api.current_project_id, name="default")]
        api.network.update_port(guest.port, security_groups=groups if on else [], port_security_enabled=on)

    tenant.ask(work)
