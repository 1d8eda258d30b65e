"""The shared suite on the simulated switch, and what only it can do."""

from pathlib import Path

import pytest
from tests.kit.network import NetworkRig, NetworkSuite

from xenstack.host.network.port import BridgeMissing, SwitchUnavailable
from xenstack.host.network.simulated import SimulatedNetwork


class SimulatedRig(NetworkRig):
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.network: SimulatedNetwork = SimulatedNetwork(directory)

    def tap_exists(self, tap: str) -> bool:
        return (self.directory / f"{tap}.port").exists()

    port_exists = tap_exists


@pytest.fixture
def rig(tmp_path: Path) -> SimulatedRig:
    return SimulatedRig(tmp_path)


class TestSimulated(NetworkSuite):
    """All of the shared suite."""


def test_ports_and_bridges_outlive_the_daemon(rig: SimulatedRig) -> None:
    rig.network.create_bridge("xapi0")
    rig.network.add_foreign_bridge("br-ex")
    rig.network.plug(rig.spec(1))
    rig.network.plug(rig.spec(2, bridge="xapi0"))
    rig.network.unplug("vif1.0")
    again = SimulatedNetwork(rig.directory)
    assert again.ports() == rig.network.ports()
    assert again.bridges() == ["br-ex", "br-int", "xapi0"]


def test_rate_limit(rig: SimulatedRig) -> None:
    rig.network.plug(spec := rig.spec())
    rig.network.set_rate_limit(spec.tap, 500)
    assert rig.network.rate_limit(spec.tap) == 500
    rig.network.set_rate_limit(spec.tap, None)
    assert rig.network.rate_limit(spec.tap) is None


def test_a_bridge_that_comes_late(tmp_path: Path) -> None:
    network = SimulatedNetwork(tmp_path, foreign_bridges=())
    with pytest.raises(BridgeMissing):
        network.check_bridge("br-int")
    network.add_foreign_bridge("br-int")
    network.check_bridge("br-int")


def test_faults(rig: SimulatedRig) -> None:
    spec = rig.spec()
    rig.network.faults.fail("plug", SwitchUnavailable("injected"), after=True)
    with pytest.raises(SwitchUnavailable):
        rig.network.plug(spec)
    assert rig.network.ports() == [spec]
    with rig.network.connection_lost(), pytest.raises(SwitchUnavailable):
        rig.network.ports()
