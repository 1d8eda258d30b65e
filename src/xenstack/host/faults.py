"""Failures on request: what tests ask a simulated adapter to do wrong.

A fault is armed for a verb (the port's method name) and goes off a counted number of times. It raises before the verb
has done anything, or, the worst moment, after it has done everything.
"""

import threading
import time
from dataclasses import dataclass, field


@dataclass
class _Fault:
    error: Exception
    uuid: str | None
    after: bool
    left: int


@dataclass
class Faults:
    """The armed faults of one adapter. May be used from any thread."""

    _armed: dict[str, list[_Fault]] = field(default_factory=dict)
    _delays: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(
        self, verb: str, error: Exception, *, uuid: str | None = None, after: bool = False, times: int = 1
    ) -> None:
        """Make the next `times` calls of `verb` (of this object only, when `uuid` is given) raise `error`."""
        with self._lock:
            self._armed.setdefault(verb, []).append(_Fault(error, uuid, after, times))

    def delay(self, verb: str, seconds: float) -> None:
        """Make every call of `verb` take that much longer; 0 ends it."""
        with self._lock:
            self._delays[verb] = seconds

    def clear(self) -> None:
        """Disarm everything."""
        with self._lock:
            self._armed.clear()
            self._delays.clear()

    def before(self, verb: str, uuid: str = "") -> None:
        """For the adapter: called first in each verb."""
        if self._armed or self._delays:
            if (seconds := self._delays.get(verb, 0.0)) > 0:
                time.sleep(seconds)
            self._go_off(verb, uuid, after=False)

    def after(self, verb: str, uuid: str = "") -> None:
        """For the adapter: called last in each verb."""
        if self._armed:
            self._go_off(verb, uuid, after=True)

    def _go_off(self, verb: str, uuid: str, *, after: bool) -> None:
        with self._lock:
            for fault in self._armed.get(verb, ()):
                if fault.left > 0 and fault.after is after and fault.uuid in (None, uuid):
                    fault.left -= 1
                    raise fault.error
