"""libvirt's events in the port's words.

libvirt tells more than happened (a domain created paused is "started" and then "paused") and sometimes in pieces (a
reset that stops the domain is a reset and then a shutdown). This class keeps the little it must know between two
events; it runs on libvirt's event thread only.
"""

from collections.abc import Callable

import libvirt

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


class News:
    """Turns libvirt's callbacks into `publish`."""

    def __init__(self, publish: Callable[[DomainEvent], None]) -> None:
        self._publish = publish
        self._paused: set[str] = set()
        self._reset: set[str] = set()  # reset, and maybe about to stop for it

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
            reason = STOP_REASONS.get(detail, StopReason.CRASH)
            if reason is StopReason.SHUTDOWN and uuid in self._reset:
                reason = StopReason.REBOOT
            self._paused.discard(uuid)
            self._reset.discard(uuid)
            self._publish(DomainEvent(uuid, EventKind.STOPPED, reason))

    def rebooted(self, uuid: str) -> None:
        """A reset event of libvirt."""
        self._publish(DomainEvent(uuid, EventKind.REBOOTED))
