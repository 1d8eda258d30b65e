"""Wait for news of one domain, from any thread.

One `Waiter` listens to each hypervisor, from its first use on. Rule: begin to watch before asking for what is waited
for, else the news may come before anybody listens.
"""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from xenstack.host.hypervisor.port import DomainEvent, EventKind, Hypervisor

_lock = threading.Lock()
_waiters: "WeakKeyDictionary[Hypervisor, Waiter]" = WeakKeyDictionary()


class Watch:
    """The news that one `watching` block has heard."""

    def __init__(self, uuid: str, kinds: tuple[EventKind, ...]) -> None:
        self._uuid = uuid
        self._kinds = kinds
        self._heard: queue.SimpleQueue[DomainEvent] = queue.SimpleQueue()

    def hear(self, event: DomainEvent) -> None:
        """Called for every event of the hypervisor."""
        if event.uuid == self._uuid and event.kind in self._kinds:
            self._heard.put(event)

    def wait(self, timeout_s: float) -> DomainEvent | None:
        """The next event; None when none came in time."""
        try:
            return self._heard.get(timeout=timeout_s)
        except queue.Empty:
            return None


class Waiter:
    """Everybody who waits for news of one hypervisor."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._watches: list[Watch] = []
        hypervisor.subscribe(self._hear)

    @classmethod
    def of(cls, hypervisor: Hypervisor) -> "Waiter":
        """The hypervisor's waiter."""
        with _lock:
            found = _waiters.get(hypervisor)
            if found is None:
                found = _waiters[hypervisor] = cls(hypervisor)
            return found

    def _hear(self, event: DomainEvent) -> None:
        with _lock:
            watches = list(self._watches)
        for watch in watches:
            watch.hear(event)

    @contextmanager
    def watching(self, uuid: str, *kinds: EventKind) -> Iterator[Watch]:
        """Listen for these kinds of news about one domain while the block lasts."""
        watch = Watch(uuid, kinds)
        with _lock:
            self._watches.append(watch)
        try:
            yield watch
        finally:
            with _lock:
                self._watches.remove(watch)
