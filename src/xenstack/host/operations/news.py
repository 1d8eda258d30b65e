"""What the hypervisor tells becomes records, and so events, in well under a second.

One thread takes the events in order. An event is a hint: what is written is read from the hypervisor then. While an
operation has claimed a VM, its news wait: the operation knows better what it is doing, and when it is done the
record and the domain are compared. After RELIST (libvirtd died and came back) every VM is compared.
"""

import logging
import queue
import threading
from collections.abc import Callable

from xenstack.host.hypervisor.port import DomainEvent, EventKind, StopReason
from xenstack.host.operations import busy, reboot, truth
from xenstack.host.operations.machine import NULL, Machine
from xenstack.xenapi.errors import OtherOperationInProgress

log = logging.getLogger(__name__)

_RETRY_S = 0.05  # how soon to look again at a VM that an operation has claimed
_CLAIM = "update_allowed_operations"


class News:
    """The listener of one host. `machine` makes a machine with a task of its own for each piece of news."""

    def __init__(self, machine: Callable[[str], Machine]) -> None:
        self._machine = machine
        self._events: queue.SimpleQueue[DomainEvent | None] = queue.SimpleQueue()
        self._waiting: list[DomainEvent] = []
        self._thread = threading.Thread(target=self._work, name="news", daemon=True)

    def start(self) -> None:
        """Listen from now on."""
        self._machine("news").hypervisor.subscribe(self._events.put)
        self._thread.start()

    def stop(self) -> None:
        """Stop after what was heard so far."""
        self._events.put(None)
        self._thread.join(10.0)

    def _work(self) -> None:
        while True:
            try:
                event = self._events.get(timeout=_RETRY_S if self._waiting else None)
            except queue.Empty:
                waiting, self._waiting = self._waiting, []
                for each in waiting:
                    self._take(each)
                continue
            if event is None:
                return
            self._take(event)

    def _take(self, event: DomainEvent) -> None:
        try:
            machine = self._machine(f"news of domain {event.uuid}")
            if event.kind is EventKind.RELIST:
                self._relist(machine)
            elif not taken(machine, event):
                self._waiting.append(event)
        except Exception:
            # the thread outlives any one VM's trouble; what is wrong is read again at the next news or start
            log.exception("cannot take the news %s of domain %s", event.kind, event.uuid)

    def _relist(self, machine: Machine) -> None:
        log.warning("news may have been lost: every VM is compared with its domain")
        for domain in machine.hypervisor.domains():
            self._waiting.append(DomainEvent(domain.uuid, EventKind.STARTED))
        for vm in machine.store.refs("VM"):
            if machine.store.get("VM", vm, "resident_on") != NULL:
                uuid = machine.store.get("VM", vm, "uuid")
                self._waiting.append(DomainEvent(uuid, EventKind.STOPPED, StopReason.DESTROYED))


def taken(machine: Machine, event: DomainEvent) -> bool:
    """Make the VM's record true; False when an operation has the VM and it must be done later."""
    store = machine.store
    found = store.where("VM", uuid=event.uuid)
    if not found:
        return True
    vm = found[0]
    if store.get("VM", vm, "current_operations"):
        return event.kind is EventKind.REBOOTED  # the operation that asked for the reboot tells of it
    if event.kind is not EventKind.STOPPED and machine.hypervisor.domain(event.uuid) is None:
        return True  # old news of a domain that has stopped since: what tells why comes behind it
    if event.kind is EventKind.REBOOTED:
        reboot.restarted(machine, vm)
    elif truth.differs(machine, vm):
        try:
            with busy.claim(machine, "VM", vm, _CLAIM):
                truth.settle_vm(machine, vm, event.reason)
        except OtherOperationInProgress:
            return False
    return True
