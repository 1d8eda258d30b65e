"""News from an adapter to its listeners: one thread, one event at a time, in order.

Publishing never blocks and may happen under the adapter's locks. A listener that raises is logged and keeps its place.
"""

import logging
import threading
from queue import SimpleQueue

from xenstack.host.hypervisor.port import DomainEvent, Listener

log = logging.getLogger(__name__)


class Feed:
    """Events on their way to the listeners."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[DomainEvent | None] = SimpleQueue()
        self._listeners: tuple[Listener, ...] = ()
        self._thread = threading.Thread(target=self._deliver, name="domain-events", daemon=True)
        self._thread.start()

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` for every event published from now on."""
        self._listeners = (*self._listeners, listener)

    def publish(self, event: DomainEvent) -> None:
        """Hand an event to all listeners, after those published before it."""
        self._queue.put(event)

    def close(self) -> None:
        """Deliver what is queued, then end."""
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(5)

    def _deliver(self) -> None:
        while (event := self._queue.get()) is not None:
            for listener in self._listeners:
                try:
                    listener(event)
                except Exception:
                    log.exception("a listener failed on %s", event)
