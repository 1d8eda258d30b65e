"""The host's records as `event.from` tells them: the driver reads here instead of asking the host.

Rules:

  * only the watcher (events.py) and a verb that has just read a record itself write here;
  * a record is replaced, never changed: whoever got one may keep it without a lock;
  * an instance's VM is the one with its uuid in `other_config["nova_uuid"]` that is no template and no snapshot;
    in a pool it counts only when it runs on this host or, halted, has its affinity for it;
  * after a verb changed the host it waits (`wait`) until the change is seen here, so that what Nova reads next is
    never older than what it did last.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NULL = "OpaqueRef:NULL"

CLASSES = ("vm", "vdi", "vbd", "vif", "console", "host", "host_metrics", "sr", "pbd", "pool", "network")
"""What the driver watches. Not VM_metrics and tasks: they change all the time and nothing here needs them."""

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """An instance's VM went from one power state to another; `before` is "" for a VM not seen before,
    `after` is "" for one that is gone."""

    instance: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of an event batch; `record` is None when the object was deleted."""

    cls: str
    ref: str
    record: Record | None


class Records:
    """Records by class and ref, with the instances' VMs found by uuid. Safe for any number of threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._by_class: dict[str, dict[str, Record]] = {cls: {} for cls in CLASSES}
        self._vm_of: dict[str, str] = {}
        self._last_domid: dict[str, int] = {}
        self.host = NULL
        self.token = ""

    def apply(self, events: Iterable[Event], *, complete: bool, token: str = "") -> list[Change]:
        """Take a batch in; `complete` says that the batch is all there is: what it lacks is gone. `token` is where
        the stream stands with it.

        Answers which instances changed their power state.
        """
        with self._changed:
            events = list(events)
            if complete:
                events = [*self._vanished(events), *events]
            changes = [change for event in events if (change := self._take(event))]
            self.token = token
            self._changed.notify_all()
            return changes

    def put(self, cls: str, ref: str, record: Record | None) -> None:
        """A record that a verb has just read (None: it is gone). The watcher will tell the same a moment later."""
        with self._changed:
            self._take(Event(cls, ref, record))
            self._changed.notify_all()

    def get(self, cls: str, ref: str) -> Record | None:
        """One record, or None."""
        with self._changed:
            return self._by_class[cls].get(ref)

    def all(self, cls: str) -> list[tuple[str, Record]]:
        """All records of a class with their refs."""
        with self._changed:
            return list(self._by_class[cls].items())

    def count(self, cls: str) -> int:
        """How many records of a class there are."""
        with self._changed:
            return len(self._by_class[cls])

    def vm_of(self, instance: str) -> tuple[str, Record] | None:
        """The VM of an instance, by the instance's uuid."""
        with self._changed:
            ref = self._vm_of.get(instance)
            if ref is None or not self._is_ours(record := self._by_class["vm"][ref]):
                return None
            return ref, record

    def instances(self) -> list[tuple[str, str, Record]]:
        """(instance uuid, VM ref, VM record) of every instance of this host."""
        with self._changed:
            vms = self._by_class["vm"]
            return [(uuid, ref, vms[ref]) for uuid, ref in self._vm_of.items() if self._is_ours(vms[ref])]

    def last_domid(self, vm: str) -> int:
        """The domain id the VM has or had last, -1 when it never ran while the driver watched."""
        with self._changed:
            return self._last_domid.get(vm, -1)

    def wait(self, seen: Callable[[], bool], timeout_s: float) -> bool:
        """Block until `seen()` holds, asked again after every batch; False when it does not within the time."""
        with self._changed:
            return self._changed.wait_for(seen, timeout_s)

    def _vanished(self, events: list[Event]) -> list[Event]:
        told = {(event.cls, event.ref) for event in events}
        return [Event(cls, ref, None) for cls, kept in self._by_class.items() for ref in kept if (cls, ref) not in told]

    def _take(self, event: Event) -> Change | None:
        kept = self._by_class.get(event.cls)
        if kept is None:
            return None
        before = kept.pop(event.ref, None)
        if event.record is not None:
            kept[event.ref] = event.record
        return self._index_vm(event.ref, before, event.record) if event.cls == "vm" else None

    def _index_vm(self, ref: str, before: Record | None, after: Record | None) -> Change | None:
        old, new = instance_uuid(before), instance_uuid(after)
        if old and old != new and self._vm_of.get(old) == ref:
            del self._vm_of[old]
        if new:
            self._vm_of[new] = ref
        if after is None:
            self._last_domid.pop(ref, None)
        elif (domid := int(after.get("domid", -1))) >= 0:
            self._last_domid[ref] = domid
        was = str(before["power_state"]) if before and old else ""
        now = str(after["power_state"]) if after and new else ""
        uuid = new or old
        return Change(uuid, was, now) if uuid and was != now and self._is_ours(after or before or {}) else None

    def _is_ours(self, vm: Record) -> bool:
        where = vm.get("resident_on", NULL)
        if where in (NULL, ""):
            where = vm.get("affinity", NULL)
        return where in (NULL, "", self.host)


def instance_uuid(vm: Record | None) -> str:
    """The instance a VM record belongs to, "" when it is none of Nova's."""
    if vm is None or vm.get("is_a_template") or vm.get("is_a_snapshot") or vm.get("is_control_domain"):
        return ""
    return str(vm.get("other_config", {}).get("nova_uuid", ""))
