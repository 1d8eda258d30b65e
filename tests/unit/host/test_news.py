"""What guests do on their own reaches the records, and so the clients, at once."""

import time
from collections.abc import Callable, Iterator

import pytest
from tests.kit.machine import Machine

from xenstack.host.hypervisor.port import DomainEvent, EventKind
from xenstack.host.operations import busy
from xenstack.host.operations.news import News, taken

SOON_S = 2.0


@pytest.fixture
def live(machine: Machine) -> Iterator[Machine]:
    news = News(lambda why: machine.context())
    news.start()
    yield machine
    news.stop()


def soon(true: Callable[[], object]) -> bool:
    until = time.monotonic() + SOON_S
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.005)
    return bool(true())


def running(machine: Machine, **fields: object) -> tuple[str, str]:
    vm = machine.vm(**fields)  # type: ignore[arg-type]
    machine.call("VM.start", vm, False, False)
    return vm, machine.get("VM", vm, "uuid")


def at_rest(machine: Machine, vm: str) -> bool:
    return (
        machine.get("VM", vm, "power_state") == "Halted"
        and machine.get("VM", vm, "domid") == -1
        and machine.get("VM", vm, "consoles") == []
        and not machine.network.ports()
        and set(machine.disks().values()) == {()}
        and not any(machine.get("VBD", v, "currently_attached") for v in machine.get("VM", vm, "VBDs"))
        and not any(machine.get("VIF", v, "currently_attached") for v in machine.get("VM", vm, "VIFs"))
    )


def test_a_guest_that_powers_off_is_halted(live: Machine) -> None:
    vm, uuid = running(live)
    live.hypervisor.guest_shuts_down(uuid)
    assert soon(lambda: at_rest(live, vm))


def test_it_takes_well_under_a_second(live: Machine) -> None:
    vm, uuid = running(live)
    before = time.monotonic()
    live.hypervisor.guest_shuts_down(uuid)
    assert soon(lambda: live.get("VM", vm, "power_state") == "Halted")
    assert time.monotonic() - before < 0.5


def test_actions_after_shutdown_restart(live: Machine) -> None:
    vm, uuid = running(live, actions_after_shutdown="restart")
    first = live.get("VM", vm, "domid")
    live.hypervisor.guest_shuts_down(uuid)
    assert soon(lambda: live.get("VM", vm, "domid") not in (first, -1))
    assert live.get("VM", vm, "power_state") == "Running"


def test_a_crash_restarts_and_may_be_told_not_to(live: Machine) -> None:
    vm, uuid = running(live, actions_after_crash="restart")
    first = live.get("VM", vm, "domid")
    live.hypervisor.guest_crashes(uuid)
    assert soon(lambda: live.get("VM", vm, "domid") not in (first, -1))
    other, uuid = running(live, actions_after_crash="destroy", vifs=0, disks=0)
    live.hypervisor.guest_crashes(uuid)
    assert soon(lambda: live.get("VM", other, "power_state") == "Halted")
    assert live.hypervisor.domain(uuid) is None


def test_a_reboot_is_told_by_its_start_time(live: Machine) -> None:
    vm, uuid = running(live)
    metrics = live.get("VM", vm, "metrics")
    live.store.set("VM_metrics", metrics, start_time="20000101T00:00:00Z")
    live.hypervisor.guest_reboots(uuid)
    assert soon(lambda: live.get("VM_metrics", metrics, "start_time") != "20000101T00:00:00Z")
    assert live.get("VM", vm, "power_state") == "Running"


def test_actions_after_reboot_destroy(live: Machine) -> None:
    vm, uuid = running(live, actions_after_reboot="destroy")
    live.hypervisor.guest_reboots(uuid)
    assert soon(lambda: at_rest(live, vm))


def test_somebody_pauses_the_domain_behind_our_back(live: Machine) -> None:
    vm, uuid = running(live)
    live.hypervisor.pause(uuid)
    assert soon(lambda: live.get("VM", vm, "power_state") == "Paused")


def test_news_of_a_claimed_vm_wait_and_are_not_lost(live: Machine) -> None:
    vm, uuid = running(live)
    with busy.claim(live.context(), "VM", vm, "changing_VCPUs_live"):
        live.hypervisor.guest_shuts_down(uuid)
        time.sleep(0.2)
        assert live.get("VM", vm, "power_state") == "Running"
    assert soon(lambda: at_rest(live, vm))


def test_after_a_relist_every_vm_is_compared(live: Machine) -> None:
    stays, uuid = running(live)
    goes, gone = running(live)
    with live.hypervisor.connection_lost():
        live.hypervisor.guest_shuts_down(gone)
    assert soon(lambda: live.get("VM", goes, "power_state") == "Halted")
    assert live.get("VM", stays, "power_state") == "Running"
    assert [d.uuid for d in live.hypervisor.domains()] == [uuid]


def test_an_operation_is_told_once(live: Machine) -> None:
    """The news of our own doing change nothing: the VM's record is written by the operation alone."""
    running(live)
    time.sleep(0.2)
    generation = live.store.generation
    time.sleep(0.3)
    assert live.store.generation == generation


def test_a_device_let_go_of_late_is_put_away(live: Machine) -> None:
    vm, uuid = running(live)
    vbd = live.get("VM", vm, "VBDs")[0]
    live.hypervisor.guests.keep_devices.add(uuid)
    with pytest.raises(Exception, match="DEVICE_DETACH_REJECTED"):
        live.call("VBD.unplug", vbd)
    assert live.get("VBD", vbd, "currently_attached") is True
    live.hypervisor.guests.keep_devices.clear()
    live.call("VBD.unplug", vbd)
    assert live.get("VBD", vbd, "currently_attached") is False
    assert set(live.disks().values()) == {()}


def test_old_news_do_not_hide_why_a_domain_stopped(machine: Machine) -> None:
    """The guest crashes before the news of its start were looked at."""
    vm, uuid = running(machine, actions_after_crash="restart")
    first = machine.get("VM", vm, "domid")
    heard: list[DomainEvent] = []
    machine.hypervisor.subscribe(heard.append)
    machine.hypervisor.guest_crashes(uuid)
    assert soon(lambda: heard)
    assert taken(machine.context(), DomainEvent(uuid, EventKind.STARTED))
    assert machine.get("VM", vm, "power_state") == "Running"
    assert taken(machine.context(), heard[-1])
    assert machine.get("VM", vm, "domid") not in (first, -1)
