"""The shared suite on a real Open vSwitch (userspace datapath) that these tests start for themselves.

Needs root. The switch has folders of its own and a network namespace of its own; a test enters it in a thread, because
a namespace is a thread's.
"""

import ctypes
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.kit.network import NetworkRig, NetworkSuite

from xenstack.host.network.openvswitch import OpenVSwitch, Settings
from xenstack.host.network.port import PortInUse, RateLimitUnsupported, SwitchUnavailable
from xenstack.run import run, running

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
CLONE_NEWNET = 0x40000000


class Switch:
    """ovsdb-server and ovs-vswitchd below `folder`, in the network namespace of the calling thread."""

    def __init__(self, stack: ExitStack) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="xo-"))
        stack.callback(shutil.rmtree, self.folder)
        run("ovsdb-tool", "create", self.folder / "db", SCHEMA)
        self.database = f"unix:{self.folder}/db.sock"
        env = {name: str(self.folder) for name in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR")}
        stack.enter_context(
            running("ovsdb-server", self.folder / "db", f"--remote=p{self.database}", "--unixctl=none", env=env)
        )
        self.vsctl("--retry", "--no-wait", "init")
        stack.enter_context(running("ovs-vswitchd", self.database, f"--unixctl={self.folder}/ctl", env=env))

    def vsctl(self, *words: str) -> str:
        return run("ovs-vsctl", f"--db={self.database}", "--timeout=15", *words).stdout


class OpenVSwitchRig(NetworkRig):
    def __init__(self, switch: Switch) -> None:
        self.switch = switch
        self.network: OpenVSwitch = OpenVSwitch(Settings(database=switch.database))

    def tap_exists(self, tap: str) -> bool:
        return tap in {link.get("ifname") for link in json.loads(run("ip", "-json", "link").stdout)}

    def port_exists(self, tap: str) -> bool:
        return tap in self.switch.vsctl("--columns=name", "list", "Interface")


class Inside:
    """A thread in a network namespace of its own, which does what it is told."""

    def __init__(self) -> None:
        self._work: Any = None
        self._tell, self._done = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._run, daemon=True).start()
        self.do(self._enter)

    def _enter(self) -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        run("ip", "link", "set", "lo", "up")

    def do(self, work: Callable[[], Any]) -> Any:
        self._work, self._result, self._failure = work, None, None
        self._tell.release()
        self._done.acquire()
        if self._failure is not None:
            raise self._failure
        return self._result

    def _run(self) -> None:
        while True:
            self._tell.acquire()
            try:
                self._result = self._work()
            except BaseException as why:
                self._failure = why
            self._done.release()


class RemoteRig:
    """The rig, every call of which happens inside."""

    def __init__(self, inside: Inside, target: Any) -> None:
        self._inside, self._target = inside, target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if callable(value):
            return lambda *a, **k: self._inside.do(lambda: value(*a, **k))
        return RemoteRig(self._inside, value) if name in ("network", "switch") else value


@pytest.fixture(scope="session")
def inside() -> Inside:
    return Inside()


@pytest.fixture(scope="session")
def switch(inside: Inside) -> Iterator[Switch]:
    with ExitStack() as stack:
        yield inside.do(lambda: Switch(stack))


@pytest.fixture
def rig(inside: Inside, switch: Switch) -> Iterator[Any]:
    def clean() -> None:
        for bridge in switch.vsctl("list-br").split():
            switch.vsctl("del-br", bridge)
        for link in json.loads(run("ip", "-json", "link").stdout):
            if link.get("ifname", "").startswith("vif"):
                run("ip", "link", "del", link["ifname"])

    inside.do(clean)
    inside.do(lambda: switch.vsctl("add-br", "br-int", "--", "set", "Bridge", "br-int", "datapath_type=netdev"))
    yield RemoteRig(inside, OpenVSwitchRig(switch))
    inside.do(clean)


class TestOpenVSwitch(NetworkSuite):
    """All of the shared suite."""


def test_neutron_finds_what_it_looks_for(rig: Any) -> None:
    spec = rig.spec(mac="52:54:00:AB:00:01")
    rig.network.plug(spec)
    ids = rig.switch.vsctl("get", "Interface", spec.tap, "external_ids")
    for key, value in {
        "iface-id": spec.port_id,
        "iface-status": "active",
        "attached-mac": "52:54:00:ab:00:01",
        "xs-vif-uuid": spec.vif_uuid,
        "xs-vm-uuid": spec.vm_uuid,
        "xs-network-uuid": spec.network_uuid,
    }.items():
        assert f'{key}="{value}"' in ids or f"{key}={value}" in ids
    assert int(rig.switch.vsctl("get", "Interface", spec.tap, "ofport")) > 0


def test_lost_halves_are_found_and_swept(rig: Any, inside: Inside) -> None:
    first, second = rig.spec(1), rig.spec(2)
    rig.network.plug(first)
    rig.network.plug(second)
    inside.do(lambda: run("ip", "link", "del", first.tap))
    rig.switch.vsctl("del-port", second.tap)
    found = {port.tap: port for port in rig.network.ports()}
    assert found[first.tap].vif_uuid == first.vif_uuid
    assert found[second.tap].bridge == ""
    for tap in (first.tap, second.tap):
        rig.network.unplug(tap)
        rig.assert_gone(tap)


def test_ports_of_others_are_not_ours(rig: Any, inside: Inside) -> None:
    inside.do(lambda: run("ip", "tuntap", "add", "tap0", "mode", "tap"))
    rig.switch.vsctl("add-port", "br-int", "tap0")
    rig.switch.vsctl("add-port", "br-int", "patch0", "--", "set", "Interface", "patch0", "type=patch")
    assert rig.network.ports() == []
    inside.do(lambda: run("ip", "link", "del", "tap0"))


def test_a_device_that_is_no_tap_keeps_its_name(rig: Any, inside: Inside) -> None:
    spec = rig.spec(9)
    inside.do(lambda: run("ip", "link", "add", spec.tap, "type", "veth", "peer", "name", "other"))
    with pytest.raises(PortInUse):
        rig.network.plug(spec)
    assert rig.tap_exists(spec.tap)


def test_userspace_refuses_rate_limits(rig: Any) -> None:
    spec = rig.spec()
    rig.network.plug(spec)
    with pytest.raises(RateLimitUnsupported):
        rig.network.set_rate_limit(spec.tap, 100)
    assert rig.switch.vsctl("get", "Interface", spec.tap, "ingress_policing_rate").strip() == "0"
    rig.network.set_rate_limit(spec.tap, None)


def test_no_switch_leaves_no_tap(rig: Any, inside: Inside, tmp_path: Path) -> None:
    network = RemoteRig(inside, OpenVSwitch(Settings(database=f"unix:{tmp_path}/absent", timeout_s=1)))
    spec = rig.spec()
    with pytest.raises(SwitchUnavailable):
        network.plug(spec)
    assert not rig.tap_exists(spec.tap)


def test_mtu(rig: Any, inside: Inside) -> None:
    spec = rig.spec(mtu=1400)
    rig.network.plug(spec)
    link = json.loads(inside.do(lambda: run("ip", "-json", "link", "show", spec.tap).stdout))[0]
    assert link["mtu"] == 1400
