"""One server from the upload of its image to its end, as its user sees it and as it is on the host."""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from tests.cloud.absence import NULL, left_of, marks, vm_of
from tests.cloud.patience import until
from tests.cloud.tenant import BOOT_S, POWER_S, Server, Tenant, metadata_of
from tests.kit.rfb import handshake

from xenstack.cloud import netns, xenapi_call
from xenstack.cloud.layout import CONTROL_ADDRESS, NOVNC, OUTSIDE, dom0
from xenstack.cloud.step import NotYet
from xenstack.cloud.steps import demo


def on_host(tenant: Tenant, server: Server) -> dict[str, Any]:
    """The VM's record, as the host has it."""
    with xenapi_call.session(tenant.cloud, server.host) as call:
        return vm_of(call, server)[1]


def until_state(tenant: Tenant, server: Server, state: str) -> None:
    until(
        f"{server.vm_name} is {state} on its host",
        15,
        lambda: None if (now := on_host(tenant, server)["power_state"]) == state else f"it is {now}",
    )


# -- looking


def test_nova_and_the_host_agree(tenant: Tenant, guest: Server) -> None:
    record, seen = on_host(tenant, guest), tenant.seen(guest.id)
    assert (record["power_state"], record["name_label"]) == ("Running", guest.vm_name)
    assert (seen["status"], seen["OS-EXT-STS:power_state"], seen["OS-EXT-STS:vm_state"]) == ("ACTIVE", 1, "active")
    assert int(record["memory_static_max"]) == demo.MEMORY_MIB << 20
    assert len(record["VBDs"]) == 1, "a root disk and nothing else was asked for"
    assert len(record["VIFs"]) == 1


def test_dhcp_gave_the_ports_address(tenant: Tenant, guest: Server) -> None:
    """The image has no address of its own: what its interface has, Neutron's DHCP server gave it."""
    assert f"inet {guest.fixed}/24 " in tenant.says(guest, "ip -4 addr show eth0") + " "
    assert tenant.says(guest, "cat /sys/class/net/eth0/address") == guest.mac
    network = tenant.ask(lambda api: api.network.find_network(demo.PRIVATE))
    assert int(tenant.says(guest, "cat /sys/class/net/eth0/mtu")) == network.mtu, "DHCP's MTU was not taken"
    gateway = tenant.ask(lambda api: api.network.find_subnet(demo.PRIVATE)).gateway_ip
    assert f"via {gateway}" in tenant.says(guest, "ip route show default")
    assert f"network up: eth0 {guest.fixed}/24 via {gateway}" in tenant.console(guest)


def test_metadata_service_knows_the_guest(tenant: Tenant, guest: Server) -> None:
    found = metadata_of(tenant, guest)
    assert (found["uuid"], found["name"]) == (guest.id, guest.name)
    assert tenant.says(guest, "hostname") == guest.name
    assert "metadata from the metadata service" in tenant.console(guest)


def test_console_log_shows_the_login_prompt(tenant: Tenant, guest: Server) -> None:
    tenant.until_login(guest)
    tenant.says(guest, "echo a line for the log >/dev/ttyS0")
    until(
        "the log goes on",
        10,
        lambda: None if "a line for the log" in tenant.console(guest) else "the line is not in it",
    )


class Websocket:
    """A websocket as `rfb.handshake` wants it: a stream of bytes."""

    def __init__(self, url: str) -> None:
        from websockify.websocket import WebSocket

        self._link = WebSocket()
        send, query = self._link.send_request, urlsplit(url).query
        self._link.send_request = lambda verb, path: send(verb, f"{path}?{query}")  # it would leave the query out
        self._link.connect(url, origin=f"http://{CONTROL_ADDRESS}:{NOVNC}", protocols=["binary"])
        self._link.socket.settimeout(15)
        self._rest = b""

    def recv(self, count: int) -> bytes:
        while not self._rest:
            message = self._link.recv()  # an empty message is no end
            if message is None:
                return b""
            self._rest = message
        piece, self._rest = self._rest[:count], self._rest[count:]
        return piece

    def sendall(self, data: bytes) -> None:
        self._link.send(data)


def vnc_url(tenant: Tenant, server: Server) -> str:
    """Where a browser's noVNC would connect to, by the page that Nova names."""

    def work(api: Any) -> str:
        wanted = {"remote_console": {"protocol": "vnc", "type": "novnc"}}
        answer = api.compute.post(f"/servers/{server.id}/remote-consoles", json=wanted, microversion="2.79")
        if not answer.ok:
            raise NotYet(f"Nova: {answer.status_code} {answer.text}")
        return str(answer.json()["remote_console"]["url"])

    page = urlsplit(tenant.ask(work))
    return f"ws://{page.netloc}/{unquote(parse_qs(page.query)['path'][0]).lstrip('/')}"


def test_vnc_through_novncproxy(tenant: Tenant, guest: Server) -> None:
    url = vnc_url(tenant, guest)
    with netns.inside(tenant.cloud.boxes[OUTSIDE].running()):
        width, height = handshake(Websocket(url))  # type: ignore[arg-type]
        assert width >= 640, f"a screen of {width}x{height}"
        with pytest.raises(AssertionError, match="hung up"):
            handshake(Websocket(url[:-6] + "000000"))  # type: ignore[arg-type]


# -- changing


def test_soft_reboot(tenant: Tenant, guest: Server) -> None:
    """The guest itself shuts down and starts: what it had not yet written is there afterwards."""
    before, domain = tenant.boot_id(guest), on_host(tenant, guest)["uuid"]
    tenant.says(guest, "echo unwritten >/root/kept")
    tenant.act(guest, {"reboot": {"type": "SOFT"}})
    until_rebooted(tenant, guest, before)
    assert tenant.says(guest, "cat /root/kept; rm /root/kept") == "unwritten"
    assert on_host(tenant, guest)["uuid"] == domain


def test_hard_reboot(tenant: Tenant, guest: Server) -> None:
    before = tenant.boot_id(guest)
    tenant.act(guest, {"reboot": {"type": "HARD"}})
    until_rebooted(tenant, guest, before)


def until_rebooted(tenant: Tenant, server: Server, before: str) -> None:
    def reason() -> str | None:
        done = tenant.ssh(server, "cat /proc/sys/kernel/random/boot_id")
        if done.status:
            return f"no login: {done.stderr.strip()[-200:]}"
        return None if done.stdout.strip() != before else "it is still the same boot"

    until(f"{server.name} is rebooted", BOOT_S, reason)
    tenant.until_status(server.id, "ACTIVE", POWER_S)


def test_stop_and_start(tenant: Tenant, guest: Server) -> None:
    """Stopped: no domain, no process, no tap, no OVS port; the VM and its disk stay, and what was written."""
    before, its = tenant.boot_id(guest), marks(tenant.cloud, guest)
    tenant.says(guest, "echo stays >/root/kept")
    tenant.act(guest, {"os-stop": None})
    tenant.until_status(guest.id, "SHUTOFF", POWER_S)
    until_state(tenant, guest, "Halted")
    left = left_of(tenant.cloud, its) or ""
    for kind in ("domain", "process", "device", "switch row"):
        assert f"{dom0(guest.host)}: {kind}" not in left, f"the stopped server still has a {kind}: {left}"
    assert "VM " in left
    assert "VDI " in left
    tenant.act(guest, {"os-start": None})
    tenant.until_status(guest.id, "ACTIVE", POWER_S)
    until_rebooted(tenant, guest, before)
    assert tenant.says(guest, "cat /root/kept; rm /root/kept") == "stays"


def test_a_guest_that_powers_itself_off_is_shutoff(tenant: Tenant, guest: Server) -> None:
    """Nova learns it from the host's events: its own look at all servers comes every ten minutes."""
    before = tenant.boot_id(guest)
    tenant.ssh(guest, "poweroff")
    tenant.until_status(guest.id, "SHUTOFF", 60)
    tenant.act(guest, {"os-start": None})
    tenant.until_status(guest.id, "ACTIVE", POWER_S)
    until_rebooted(tenant, guest, before)


def test_pause_and_unpause(tenant: Tenant, guest: Server) -> None:
    before = tenant.boot_id(guest)
    tenant.act(guest, {"pause": None})
    tenant.until_status(guest.id, "PAUSED", POWER_S)
    until_state(tenant, guest, "Paused")
    assert not tenant.pings(guest.floating), "a paused guest answers ping"
    tenant.act(guest, {"unpause": None})
    tenant.until_status(guest.id, "ACTIVE", POWER_S)
    tenant.until_pings(guest, 30)
    assert tenant.boot_id(guest) == before


def test_suspend_and_resume(tenant: Tenant, guest: Server) -> None:
    """The guest's memory is in the SR while no process has it, and nowhere afterwards."""
    before = tenant.boot_id(guest)
    tenant.says(guest, "echo in memory >/run/kept")
    tenant.act(guest, {"suspend": None})
    tenant.until_status(guest.id, "SUSPENDED", POWER_S)
    until_state(tenant, guest, "Suspended")
    image = on_host(tenant, guest)["suspend_VDI"]
    assert image != NULL, "a suspended VM has no memory image"
    uuid = on_host(tenant, guest)["uuid"]
    processes = tenant.cloud.boxes[dom0(guest.host)].run("ps", "-eo", "args").stdout
    assert f"guest={uuid}" not in processes, "a suspended guest still has its process"
    tenant.act(guest, {"resume": None})
    tenant.until_status(guest.id, "ACTIVE", POWER_S)
    tenant.until_pings(guest, 60)
    assert tenant.boot_id(guest) == before
    assert tenant.says(guest, "cat /run/kept") == "in memory"
    with xenapi_call.session(tenant.cloud, guest.host) as call:
        assert image not in call("VDI.get_all"), "the memory image is still in the SR"


def refused(work: Callable[[], object], words: str) -> None:
    with pytest.raises(NotYet, match=words):
        work()


def test_what_a_server_cannot_do_is_refused(tenant: Tenant, guest: Server) -> None:
    """Nova's refusals reach the user at once, and the server is as it was."""
    before = tenant.boot_id(guest)
    refused(lambda: tenant.act(guest, {"os-start": None}), "409.*vm_state active")
    refused(lambda: tenant.act(guest, {"unpause": None}), "409.*vm_state active")
    time.sleep(0.5)
    assert tenant.seen(guest.id)["status"] == "ACTIVE"
    assert tenant.boot_id(guest) == before
