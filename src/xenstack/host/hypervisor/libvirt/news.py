"""libvirt's events in the port's words.

libvirt tells more than happened: a domain created paused is "started" and then "paused", and Linux resets a PC in two
ways at once, which makes two reset events. And it tells less: whether a domain stopped because its guest powered off or
because it rebooted (with on_reboot "destroy") is only in QEMU's own SHUTDOWN event, which libvirt passes on through
libvirt_qemu; and a reboot that the host asked for is, with on_reboot "destroy", a press of the power button.

This class keeps the little it must know between two events. It runs on libvirt's event thread, but for
`reboot_requested`.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress

import libvirt
import libvirt_qemu  # type: ignore[import-not-found,import-untyped,unused-ignore]

from xenstack.host.hypervisor.port import DomainEvent, EventKind, StopReason

STOP_REASONS = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: StopReason.SHUTDOWN,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: StopReason.DESTROYED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: StopReason.CRASH,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED: StopReason.DESTROYED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED: StopReason.SUSPENDED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: StopReason.CRASH,  # QEMU died
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT: StopReason.DESTROYED,
}

RESETS = ("guest-reset", "host-qmp-system-reset")  # QEMU's reasons for SHUTDOWN that mean: it wanted to reboot

SAME_REBOOT_S = 1.0  # reset events closer than this are one reboot
OBEYS_WITHIN_S = 300.0  # a shutdown that comes later is no answer to a requested reboot


class News:
    """Turns libvirt's callbacks into `publish`."""

    def __init__(self, publish: Callable[[DomainEvent], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._publish = publish
        self._clock = clock
        self._paused: set[str] = set()
        self._reset: set[str] = set()  # about to stop because of a reset
        self._rebooted: dict[str, float] = {}  # when listeners last heard REBOOTED
        self._requested: dict[str, float] = {}  # when a reboot was asked for that libvirt makes a shutdown

    def register(self, connection: libvirt.virConnect) -> None:
        """Subscribe to a new connection."""
        self._paused.clear()
        self._reset.clear()
        for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_PAUSED):
            self._paused.add(domain.UUIDString())
        for kind, callback in (
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle),
            (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, self._reboot),
            (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, self._device_removed),
        ):
            connection.domainEventRegisterAny(None, kind, callback, None)
        with suppress(libvirt.libvirtError):  # a driver other than QEMU's has no such events
            libvirt_qemu.qemuMonitorEventRegister(connection, None, "SHUTDOWN", self._qemu_shutdown, None)

    def reboot_requested(self, uuid: str) -> None:
        """The next shutdown of this domain, if it comes soon, is the answer to a requested reboot."""
        self._requested[uuid] = self._clock()

    def _lifecycle(
        self, _connection: libvirt.virConnect, domain: libvirt.virDomain, event: int, detail: int, _opaque: object
    ) -> None:
        self.lifecycle(domain.UUIDString(), event, detail)

    def _reboot(self, _connection: libvirt.virConnect, domain: libvirt.virDomain, _opaque: object) -> None:
        self.rebooted(domain.UUIDString())

    def _device_removed(
        self, _connection: libvirt.virConnect, domain: libvirt.virDomain, _alias: str, _opaque: object
    ) -> None:
        self._publish(DomainEvent(domain.UUIDString(), EventKind.DEVICE_REMOVED))

    def _qemu_shutdown(
        self,
        _connection: libvirt.virConnect,
        domain: libvirt.virDomain,
        _event: str,
        _seconds: int,
        _micros: int,
        details: str,
        _opaque: object,
    ) -> None:
        self.qemu_shutdown(domain.UUIDString(), details)

    def qemu_shutdown(self, uuid: str, details: str) -> None:
        """QEMU's own SHUTDOWN event; `details` is its JSON."""
        if json.loads(details or "{}").get("reason") in RESETS:
            self._reset.add(uuid)

    def lifecycle(self, uuid: str, event: int, detail: int) -> None:
        """A lifecycle event of libvirt."""
        if event == libvirt.VIR_DOMAIN_EVENT_STARTED:
            self._reset.discard(uuid)
            self._paused.add(uuid)  # all domains start paused here
            self._publish(DomainEvent(uuid, EventKind.STARTED))
        elif event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED and uuid not in self._paused:
            self._paused.add(uuid)
            self._publish(DomainEvent(uuid, EventKind.PAUSED))
        elif event == libvirt.VIR_DOMAIN_EVENT_RESUMED and uuid in self._paused:
            self._paused.remove(uuid)
            self._publish(DomainEvent(uuid, EventKind.RESUMED))
        elif event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            self._stopped(uuid, STOP_REASONS.get(detail, StopReason.CRASH))

    def _stopped(self, uuid: str, reason: StopReason) -> None:
        requested = self._requested.pop(uuid, None)
        obeyed = requested is not None and self._clock() - requested < OBEYS_WITHIN_S
        if reason is StopReason.SHUTDOWN and (uuid in self._reset or obeyed):
            reason = StopReason.REBOOT
        self._paused.discard(uuid)
        self._reset.discard(uuid)
        self._rebooted.pop(uuid, None)
        self._publish(DomainEvent(uuid, EventKind.STOPPED, reason))

    def rebooted(self, uuid: str) -> None:
        """A reset event of libvirt."""
        now = self._clock()
        if now - self._rebooted.get(uuid, -SAME_REBOOT_S) >= SAME_REBOOT_S:
            self._publish(DomainEvent(uuid, EventKind.REBOOTED))
        self._rebooted[uuid] = now
