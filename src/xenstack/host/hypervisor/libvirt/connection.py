"""One connection to libvirt that comes back by itself, and libvirt's event loop.

libvirt's default event loop runs in one thread of the process (it can be started only once, and must be before the
first connection). A second thread opens the connection and opens it again whenever it breaks: a libvirtd that is
restarted leaves its domains running, but what happened in between is never told, so `on_back` is called after every
reconnection. Callers never open anything: they wait for `get`, for a bounded time.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

import libvirt

from xenstack.host.hypervisor.port import Unavailable

log = logging.getLogger(__name__)

KEEPALIVE_S, KEEPALIVE_COUNT = 5, 3  # a libvirtd that is silent for 20 s is given up
_RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)

Register = Callable[[libvirt.virConnect], None]

_loop_lock = threading.Lock()
_loop_started = False


def start_event_loop() -> None:
    """Start libvirt's event loop in a thread, once per process."""
    global _loop_started  # noqa: PLW0603  (libvirt's loop is the process's, not an object's)
    with _loop_lock:
        if _loop_started:
            return
        libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised; libvirt need not print them too
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True).start()
        _loop_started = True


def _run_event_loop() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            log.exception("libvirt's event loop stumbled")


class Connection:
    """The connection. `register` is called with every new one (to subscribe), `on_back` after all but the first."""

    def __init__(self, uri: str, register: Register, on_back: Callable[[], None], *, wait_s: float) -> None:
        self._uri = uri
        self._register = register
        self._on_back = on_back
        self._wait_s = wait_s
        self._changed = threading.Condition()
        self._current: libvirt.virConnect | None = None
        self._why = "not connected yet"
        self._closing = False
        start_event_loop()
        threading.Thread(target=self._keep_open, name="libvirt-connection", daemon=True).start()

    def get(self) -> libvirt.virConnect:
        """The connection; waits while it is being opened. Raises Unavailable."""
        with self._changed:
            self._changed.wait_for(lambda: self._current is not None or self._closing, self._wait_s)
            if self._current is None:
                raise Unavailable(f"{self._uri}: {self._why}")
            return self._current

    def broken(self, connection: libvirt.virConnect, why: str) -> None:
        """A call on `connection` failed in a way that says it is dead: open another one."""
        with self._changed:
            if self._current is connection:
                log.warning("lost %s: %s", self._uri, why)
                self._current, self._why = None, why
                self._changed.notify_all()

    def close(self) -> None:
        """Let go; domains stay."""
        with self._changed:
            self._closing, self._why = True, "closed"
            connection, self._current = self._current, None
            self._changed.notify_all()
        if connection is not None:
            with suppress(libvirt.libvirtError):
                connection.close()

    def _keep_open(self) -> None:
        first, attempt = True, 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._current is None or self._closing)
                if self._closing:
                    return
            try:
                connection = self._open()
            except libvirt.libvirtError as why:
                pause_s = _RETRY_S[min(attempt, len(_RETRY_S) - 1)]
                log.log(logging.DEBUG if attempt else logging.WARNING, "cannot open %s: %s", self._uri, why)
                attempt += 1
                with self._changed:
                    self._why = str(why)
                    self._changed.wait_for(lambda: self._closing, pause_s)
                continue
            attempt = 0
            with self._changed:
                self._current = connection
                self._changed.notify_all()
            log.info("connected to %s", self._uri)
            if not first:
                self._on_back()
            first = False

    def _open(self) -> libvirt.virConnect:
        connection = libvirt.open(self._uri)
        with suppress(libvirt.libvirtError):  # the embedded driver has neither
            connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
        with suppress(libvirt.libvirtError):
            connection.registerCloseCallback(lambda _c, reason, _o: self.broken(connection, f"closed ({reason})"), None)
        self._register(connection)
        return connection
