"""The shared suite on the simulated hypervisor, and what only it can do."""

import time
import uuid as uuids
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kit.hypervisor import HypervisorSuite
from tests.kit.hypervisor_rig import Rig

from xenstack.host.hypervisor.port import (
    DetachRejected,
    DiskBoot,
    DomainMissing,
    DomainSpec,
    EventKind,
    StopReason,
    TimedOut,
    Unavailable,
    VifSpec,
)
from xenstack.host.hypervisor.simulated import SimulatedHypervisor

MIB = 1024 * 1024


class SimulatedRig(Rig):
    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.hypervisor: SimulatedHypervisor = SimulatedHypervisor(directory / "domains", check_files=True)
        self.hypervisor.subscribe(self.heard)
        self._macs = 0

    def boot(self) -> DiskBoot:
        return DiskBoot("c")

    def vif(self, device: str) -> VifSpec:
        self._macs += 1
        return VifSpec(device=device, mac=f"52:54:00:00:00:{self._macs:02x}", tap=f"vif{self._macs}.{device}")

    def leftovers(self, spec: DomainSpec) -> list[str]:
        sockets = self.hypervisor._sockets
        places = [self.directory / "domains", *([sockets] if sockets else [])]
        return [str(file) for place in places for file in place.iterdir() if spec.uuid in file.name]

    def guest_reboots(self, spec: DomainSpec) -> None:
        self.hypervisor.guest_reboots(spec.uuid)

    def guest_shuts_down(self, spec: DomainSpec) -> None:
        self.hypervisor.guest_shuts_down(spec.uuid)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SimulatedRig]:
    rig = SimulatedRig(tmp_path)
    yield rig
    rig.hypervisor.close()


class TestSimulated(HypervisorSuite):
    """All of the shared suite."""


def test_domains_outlive_the_daemon(rig: SimulatedRig) -> None:
    rig.start(rig.spec(vifs=(rig.vif("0"),)))
    paused = rig.spec()
    rig.hypervisor.create_paused(paused)
    again = SimulatedHypervisor(rig.directory / "domains", check_files=True)
    assert sorted(again.domains(), key=lambda d: d.domid) == rig.hypervisor.domains()
    assert again.facts().memory_free == rig.hypervisor.facts().memory_free
    again.close()


def test_a_crash_is_told(rig: SimulatedRig) -> None:
    spec = rig.start(rig.spec())
    rig.hypervisor.guest_crashes(spec.uuid)
    rig.heard.wait(spec.uuid, EventKind.STOPPED, StopReason.CRASH)
    rig.assert_gone(spec)


def test_faults_before_and_after(rig: SimulatedRig) -> None:
    spec = rig.spec()
    rig.hypervisor.faults.fail("create_paused", TimedOut("create_paused", spec.uuid))
    with pytest.raises(TimedOut):
        rig.hypervisor.create_paused(spec)
    rig.assert_gone(spec)
    rig.hypervisor.faults.fail("create_paused", TimedOut("create_paused", spec.uuid), after=True, uuid=spec.uuid)
    rig.hypervisor.create_paused(rig.spec())
    with pytest.raises(TimedOut):
        rig.hypervisor.create_paused(spec)
    assert rig.hypervisor.domain(spec.uuid) is not None
    rig.hypervisor.unpause(spec.uuid)


def test_a_delayed_verb_does_not_hold_up_others(rig: SimulatedRig) -> None:
    rig.hypervisor.faults.delay("pause", 0.2)
    start = time.monotonic()
    with pytest.raises(DomainMissing):
        rig.hypervisor.pause(str(uuids.uuid4()))
    assert time.monotonic() - start >= 0.2


def test_stubborn_guests(rig: SimulatedRig) -> None:
    spec = rig.start(rig.spec(vifs=(rig.vif("0"),)))
    rig.hypervisor.guests.ignore_power_button.add(spec.uuid)
    rig.hypervisor.guests.keep_devices.add("*")
    rig.hypervisor.request_shutdown(spec.uuid)
    assert not rig.hypervisor.await_gone(spec.uuid, 0.05)
    with pytest.raises(DetachRejected):
        rig.hypervisor.detach_disk(spec.uuid, "0")
    with pytest.raises(DetachRejected):
        rig.hypervisor.detach_vif(spec.uuid, "0")


def test_a_lost_connection_ends_with_a_relist(rig: SimulatedRig) -> None:
    spec = rig.start(rig.spec())
    with rig.hypervisor.connection_lost():
        with pytest.raises(Unavailable):
            rig.hypervisor.domains()
        rig.hypervisor.guest_crashes(spec.uuid)
    rig.heard.wait("", EventKind.RELIST)
    assert (EventKind.STOPPED, StopReason.CRASH) not in rig.heard.of(spec.uuid)
    assert rig.hypervisor.domains() == []


def test_memory_comes_back(rig: SimulatedRig) -> None:
    free = rig.hypervisor.facts().memory_free
    spec = rig.spec()
    rig.hypervisor.create_paused(spec)
    assert rig.hypervisor.facts().memory_free == free - spec.memory_max
    rig.hypervisor.destroy(spec.uuid)
    assert rig.hypervisor.facts().memory_free == free


def test_thousands_of_domains(tmp_path: Path) -> None:
    hypervisor = SimulatedHypervisor(tmp_path)
    for domid in range(3000):
        spec = DomainSpec(
            uuid=f"00000000-0000-4000-8000-{domid:012x}",
            name="n",
            domid=domid,
            memory_max=64 * MIB,
            memory_target=64 * MIB,
            boot=DiskBoot(),
        )
        hypervisor.create_paused(spec)
        hypervisor.unpause(spec.uuid)
    assert len(hypervisor.domains()) == 3000
    hypervisor.close()
