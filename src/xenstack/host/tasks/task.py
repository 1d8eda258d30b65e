"""A task: the record of a call under way, its progress, and the way to cancel it.

`Async.` calls have a record that the client sees; plain calls have one only in memory (`hidden`), with a reference that
current_operations can name. A task ends once: success, failure or cancelled, with progress 1.0; whoever comes
later changes nothing. Results are XML-RPC values, as xapi gives them: `<value>OpaqueRef:…</value>`.
"""

import threading
from datetime import UTC, datetime
from typing import Any

from xenstack.host.database.store import Store, new_ref
from xenstack.xenapi.errors import TaskCancelled, XenAPIError

_STEP = 0.01  # progress below this is not worth an event
ENDED = frozenset({"success", "failure", "cancelled"})


def now() -> str:
    """The time as XenAPI writes it."""
    return datetime.now(UTC).strftime("%Y%m%dT%H:%M:%SZ")


class Task:
    """One call under way."""

    def __init__(self, store: Store, ref: str, *, hidden: bool) -> None:
        self.ref = ref
        self._store = store
        self._hidden = hidden
        self._shown = 0.0
        self._cancelled = threading.Event()

    @classmethod
    def hidden(cls, store: Store) -> "Task":
        """A task without a record: for a plain call."""
        return cls(store, new_ref(), hidden=True)

    @classmethod
    def recorded(cls, store: Store, name: str, *, host: str, description: str = "", parent: str = "") -> "Task":
        """A task with a record, pending."""
        values: dict[str, Any] = {
            "name_label": name,
            "name_description": description,
            "created": now(),
            "resident_on": host,
            "allowed_operations": ["cancel", "destroy"],
            "status": "pending",
            "type": "<none/>",
        }
        if parent:
            values["subtask_of"] = parent
        return cls(store, store.create("task", values), hidden=False)

    def check_cancelled(self) -> None:
        """Raise TaskCancelled when somebody asked the task to stop."""
        if self._cancelled.is_set():
            raise TaskCancelled(self.ref)

    def cancel(self) -> None:
        """Ask the task to stop; it does so at its next step, or not at all when it is beyond return."""
        self._cancelled.set()

    def progress(self, done: float) -> None:
        """Report the done part, 0.0 to 1.0. Steps of less than a hundredth are not shown."""
        if self._hidden or (done - self._shown < _STEP and done < 1.0):
            return
        self._shown = done
        with self._store.transaction():
            if self._pending():
                self._store.set("task", self.ref, progress=float(done))

    def succeed(self, result: str = "") -> None:
        """The end: `result` is an XML-RPC value, or nothing."""
        self._end(status="success", result=result)

    def fail(self, why: XenAPIError) -> None:
        """The end with an error; a TaskCancelled makes it cancelled."""
        status = "cancelled" if isinstance(why, TaskCancelled) else "failure"
        self._end(status=status, error_info=why.wire())

    def destroy(self) -> None:
        """Remove the record."""
        with self._store.transaction():
            if not self._hidden and self._store.exists("task", self.ref):
                self._store.delete("task", self.ref)

    def _end(self, **fields: Any) -> None:
        if self._hidden:
            return
        with self._store.transaction():
            if self._pending():
                self._store.set(
                    "task",
                    self.ref,
                    progress=1.0,
                    finished=now(),
                    allowed_operations=[],
                    current_operations={},
                    **fields,
                )

    def _pending(self) -> bool:
        return self._store.exists("task", self.ref) and self._store.get("task", self.ref, "status") not in ENDED
