"""VM.hard_reboot and VM.clean_reboot.

The domain starts over in place, with its devices and its domid, when it would be made the same way again; when the
VM's records have changed since its start (boot order, kernel, CPUs, memory, devices) it is rebuilt from them, as
xapi does at every reboot.
"""

import time
from pathlib import Path

from xenstack.host.hypervisor.port import AfterReboot, DomainEvent, EventKind
from xenstack.host.operations import residence, spec, start, stop, translate
from xenstack.host.operations.machine import Machine
from xenstack.host.operations.wait import Waiter, Watch
from xenstack.host.storage.port import Format, Opened
from xenstack.xenapi.errors import VmShutdownTimeout

_POLL_S = 0.5


def in_place(machine: Machine, vm: str) -> bool:
    """Whether the running domain is what the records would make now."""
    store = machine.store
    record = store.view("VM", vm)
    slots = {vbd: store.view("VBD", vbd) for vbd in record["VBDs"]}
    some = Opened(path=Path("/"), format=Format.QCOW2, read_only=False)  # a summary has no paths
    made = spec.domain(
        machine,
        vm,
        domid=record["domid"],
        opened={vbd: some for vbd, slot in slots.items() if not slot["empty"]},
        drives=[vbd for vbd, slot in slots.items() if slot["empty"] and slot["type"] == "CD"],
        vifs=list(record["VIFs"]),
    )
    # a domain that stops when its guest reboots cannot start over in place
    restarts = made.after_reboot is AfterReboot.RESTART
    return restarts and spec.same_summary(spec.summary(made), record["last_booted_record"])


def reboot(machine: Machine, vm: str) -> None:
    """Start the guest over at once. The caller has claimed the VM."""
    with translate.spoken(machine.store, "VM.hard_reboot", vm):
        if in_place(machine, vm):
            uuid = machine.store.get("VM", vm, "uuid")
            machine.hypervisor.reset(uuid)
            machine.hypervisor.unpause(uuid)
            restarted(machine, vm)
            return
    stop.stop(machine, vm)
    start.start(machine, vm, paused=False, anywhere=False)


def reboot_politely(machine: Machine, vm: str, *, timeout_s: float = stop.SHUTDOWN_TIMEOUT_S) -> None:
    """Ask the guest to shut down and start over. Raises VmShutdownTimeout when it does not follow: it runs on."""
    uuid = machine.store.get("VM", vm, "uuid")
    with translate.spoken(machine.store, "VM.clean_reboot", vm):
        if in_place(machine, vm):
            with Waiter.of(machine.hypervisor).watching(uuid, EventKind.REBOOTED, EventKind.STOPPED) as seen:
                event = _request(machine, vm, uuid, seen, timeout_s)
            if event.kind is EventKind.REBOOTED:
                restarted(machine, vm)
                return
            # the guest powered off instead: to reboot is what its owner asked for
        else:
            stop.shut_down(machine, vm, uuid, timeout_s)
    stop.stop(machine, vm)
    start.start(machine, vm, paused=False, anywhere=False)


def _request(machine: Machine, vm: str, uuid: str, seen: Watch, timeout_s: float) -> DomainEvent:
    """Ask until the guest has rebooted or is gone."""
    begun = time.monotonic()
    asked = -stop.AGAIN_S
    while True:
        machine.task.check_cancelled()
        waited = time.monotonic() - begun
        if waited >= timeout_s:
            raise VmShutdownTimeout(vm, str(timeout_s))
        if waited >= asked + stop.AGAIN_S:
            asked = waited
            machine.hypervisor.request_reboot(uuid)
        if (event := seen.wait(_POLL_S)) is not None:
            return event


def restarted(machine: Machine, vm: str) -> None:
    """Tell the clients that the guest has started over in its domain."""
    store = machine.store
    with store.transaction():
        residence.paused(store, vm, "Running")
        metrics = store.get("VM", vm, "metrics")
        if store.exists("VM_metrics", metrics):
            store.set("VM_metrics", metrics, start_time=residence.now(), last_updated=residence.now())
