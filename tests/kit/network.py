"""What every network adapter must do, whatever is behind it: one suite, run once per adapter.

A test module subclasses `NetworkSuite` and provides the fixture `rig`.
"""

import uuid as uuids
from abc import ABC, abstractmethod
from dataclasses import replace

import pytest

from xenstack.host.network.port import (
    BridgeInUse,
    BridgeMissing,
    InvalidPort,
    Network,
    PortInUse,
    PortSpec,
    parse_tap_name,
    tap_name,
)


class NetworkRig(ABC):
    """An adapter on a switch where somebody else has made the bridge br-int."""

    network: Network

    def spec(self, domid: int = 1, device: str = "0", **changes: object) -> PortSpec:
        values: dict[str, object] = {
            "tap": tap_name(domid, device),
            "bridge": "br-int",
            "mac": f"52:54:00:00:{domid % 256:02x}:{int(device):02x}",
            "vif_uuid": str(uuids.uuid4()),
            "vm_uuid": str(uuids.uuid4()),
            "network_uuid": str(uuids.uuid4()),
            "port_id": str(uuids.uuid4()),
        }
        return PortSpec(**{**values, **changes})  # type: ignore[arg-type]

    @abstractmethod
    def tap_exists(self, tap: str) -> bool:
        """Is there such a network device?"""

    @abstractmethod
    def port_exists(self, tap: str) -> bool:
        """Is there such a port in the switch's own database?"""

    def assert_gone(self, tap: str) -> None:
        assert not self.tap_exists(tap)
        assert not self.port_exists(tap)
        assert tap not in {port.tap for port in self.network.ports()}


class NetworkSuite:
    """The suite. `rig` is the subclass's fixture."""

    def test_plug_and_unplug(self, rig: NetworkRig) -> None:
        first, second = rig.spec(7, "0"), rig.spec(7, "1", mtu=1450)
        rig.network.plug(first)
        rig.network.plug(second)
        assert rig.network.ports() == [first, second]
        assert rig.tap_exists(first.tap)
        assert rig.port_exists(first.tap)
        rig.network.unplug(first.tap)
        rig.assert_gone(first.tap)
        assert rig.network.ports() == [second]
        rig.network.unplug(first.tap)
        rig.network.unplug(second.tap)
        rig.assert_gone(second.tap)
        assert rig.network.ports() == []

    def test_plug_twice_is_plug_once(self, rig: NetworkRig) -> None:
        spec = rig.spec()
        rig.network.plug(spec)
        rig.network.plug(spec)
        assert rig.network.ports() == [spec]

    def test_a_tap_has_one_vif(self, rig: NetworkRig) -> None:
        spec = rig.spec()
        rig.network.plug(spec)
        with pytest.raises(PortInUse):
            rig.network.plug(rig.spec())
        assert rig.network.ports() == [spec]

    def test_a_vif_without_a_neutron_port_is_known_by_its_own_uuid(self, rig: NetworkRig) -> None:
        spec = rig.spec(port_id="")
        rig.network.plug(spec)
        assert rig.network.ports() == [replace(spec, port_id=spec.vif_uuid)]

    def test_no_bridge_yet(self, rig: NetworkRig) -> None:
        spec = rig.spec(bridge="br-none")
        with pytest.raises(BridgeMissing) as failure:
            rig.network.check_bridge("br-none")
        assert failure.value.bridge == "br-none"
        with pytest.raises(BridgeMissing):
            rig.network.plug(spec)
        rig.assert_gone(spec.tap)
        rig.network.check_bridge("br-int")

    def test_bridges_of_managed_networks(self, rig: NetworkRig) -> None:
        rig.network.create_bridge("xapi0")
        rig.network.create_bridge("xapi0")
        assert rig.network.bridges() == ["br-int", "xapi0"]
        spec = rig.spec(bridge="xapi0")
        rig.network.plug(spec)
        with pytest.raises(BridgeInUse):
            rig.network.destroy_bridge("xapi0")
        assert rig.network.ports() == [spec]
        rig.network.unplug(spec.tap)
        rig.network.destroy_bridge("xapi0")
        rig.network.destroy_bridge("xapi0")
        assert rig.network.bridges() == ["br-int"]

    def test_bridges_of_others_stay(self, rig: NetworkRig) -> None:
        with pytest.raises(BridgeInUse):
            rig.network.destroy_bridge("br-int")
        rig.network.create_bridge("br-int")
        with pytest.raises(BridgeInUse):
            rig.network.destroy_bridge("br-int")
        assert rig.network.bridges() == ["br-int"]

    @pytest.mark.parametrize(
        "changes",
        [
            {"tap": "eth0"},
            {"tap": "vif1.0 -- del-br br-int"},
            {"tap": "vif01.0"},
            {"tap": "vif123456789.0"},
            {"bridge": "--all"},
            {"bridge": "x" * 16},
            {"bridge": ""},
            {"bridge": "a/b"},
            {"mac": "01:00:00:00:00:01"},
            {"mac": "aa"},
            {"vif_uuid": "x"},
            {"vm_uuid": ""},
            {"network_uuid": "a b"},
            {"port_id": 'a" other="b'},
            {"port_id": "x" * 200},
            {"mtu": 20},
        ],
        ids=str,
    )
    def test_bad_ports(self, rig: NetworkRig, changes: dict[str, object]) -> None:
        with pytest.raises(InvalidPort):
            rig.network.plug(rig.spec(**changes))
        assert rig.network.ports() == []

    def test_only_taps_of_vifs_are_unplugged(self, rig: NetworkRig) -> None:
        for name in ("lo", "br-int", "", "vif1"):
            with pytest.raises(InvalidPort):
                rig.network.unplug(name)
        assert rig.network.bridges() == ["br-int"]

    def test_rate_limit_of_nothing(self, rig: NetworkRig) -> None:
        with pytest.raises(InvalidPort):
            rig.network.set_rate_limit("vif1.0", 100)
        with pytest.raises(InvalidPort):
            rig.network.set_rate_limit("vif1.0", -1)

    def test_interfaces_leave_out_our_taps(self, rig: NetworkRig) -> None:
        rig.network.plug(rig.spec())
        for interface in rig.network.interfaces():
            assert parse_tap_name(interface.device) is None
            assert interface.device not in ("lo", "br-int", "ovs-netdev")
            assert interface.mtu > 0

    def test_names(self, rig: NetworkRig) -> None:
        assert parse_tap_name(tap_name(12, "3")) == (12, "3")
        assert parse_tap_name("tap12.3") is None
        for domid, device in ((-1, "0"), (10**9, "0"), (1, "a"), (1, "100")):
            with pytest.raises(InvalidPort):
                tap_name(domid, device)
