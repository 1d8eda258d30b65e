"""The watcher: one daemon thread in `event.from`, and one that hands lifecycle events to Nova.

Nova's handler of a lifecycle event talks to the database and may wait: it must not hold up the news, hence the second
thread. Both are native threads. When the host does not answer the watcher tries again, at once and then every few
seconds; the first batch afterwards is a complete one, so nothing that happened in between is missed.

A verb that is about to change a VM's power state says so (`expecting`): Nova knows what it asked for, and each event
would cost it a round of calls to be told. States that the verb did not announce are told as ever.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from oslo_log import log as logging

from xenstack.nova.records import CLASSES, Change, Event, Records
from xenstack.xenapi.session import Batch, Session

LOG = logging.getLogger(__name__)

_PAUSE_MIN_S, _PAUSE_MAX_S = 0.2, 5.0


class Watcher:
    """Keeps `records` true until `stop`. `told` is called with every unannounced change of an instance."""

    def __init__(self, session: Session, records: Records, *, told: Callable[[Change], None], timeout_s: float) -> None:
        self._session = session
        self._records = records
        self._told = told
        self._timeout_s = timeout_s
        self._stopping = threading.Event()
        self._complete = threading.Event()
        self._changes: queue.SimpleQueue[Change | None] = queue.SimpleQueue()
        self._expected: dict[str, list[frozenset[str]]] = {}
        self._expected_lock = threading.Lock()

    def start(self) -> None:
        """Start both threads."""
        threading.Thread(target=self._watch, name="xenapi-events", daemon=True).start()
        threading.Thread(target=self._tell, name="xenapi-lifecycle", daemon=True).start()

    def stop(self) -> None:
        """Ask both threads to end; does not wait: the one in event.from ends with its session."""
        self._stopping.set()
        self._complete.clear()
        self._changes.put(None)

    @property
    def in_step(self) -> bool:
        """Whether the records are those of the host: a complete batch came and the stream has not broken since."""
        return self._complete.is_set()

    def await_complete(self, timeout_s: float) -> bool:
        """Wait for the first complete batch; False when it did not come in time."""
        return self._complete.wait(timeout_s)

    @contextmanager
    def expecting(self, instance: str, *states: str) -> Iterator[None]:
        """While this lasts, Nova is not told when the instance comes to one of these power states."""
        mine = frozenset(states)
        with self._expected_lock:
            self._expected.setdefault(instance, []).append(mine)
        try:
            yield
        finally:
            with self._expected_lock:
                self._expected[instance].remove(mine)
                if not self._expected[instance]:
                    del self._expected[instance]

    def _is_expected(self, change: Change) -> bool:
        with self._expected_lock:
            return any(change.after in states for states in self._expected.get(change.instance, ()))

    def _watch(self) -> None:
        pause_s = _PAUSE_MIN_S
        while not self._stopping.is_set():
            try:
                for batch in self._session.events(CLASSES, timeout_s=self._timeout_s):
                    pause_s = _PAUSE_MIN_S
                    self._take(batch)
                    if self._stopping.is_set():
                        return
            except Exception as why:  # whatever it is, the watcher must live on; the cause is in the log
                if self._stopping.is_set():
                    return
                if self._complete.is_set():
                    LOG.warning("The host's event stream broke, trying again: %s", why)
                self._complete.clear()
                self._stopping.wait(pause_s)
                pause_s = min(pause_s * 2, _PAUSE_MAX_S)

    def _take(self, batch: Batch) -> None:
        events = [read(entry) for entry in batch.events]
        for change in self._records.apply(events, complete=batch.complete, token=batch.token):
            if change.after and (change.before or not batch.complete) and not self._is_expected(change):
                self._changes.put(change)
        if not self._complete.is_set():
            LOG.info("The records of the host are complete: %d VMs", self._records.count("vm"))
            self._complete.set()

    def _tell(self) -> None:
        while (change := self._changes.get()) is not None:
            try:
                self._told(change)
            except Exception:
                LOG.exception("Nova could not take the news that %s is %s", change.instance, change.after)


def read(entry: Any) -> Event:
    """One entry of event.from's answer."""
    gone = entry["operation"] == "del"
    return Event(str(entry["class"]).lower(), str(entry["ref"]), None if gone else entry.get("snapshot"))
