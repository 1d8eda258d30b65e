"""CONNECT /console?ref=CONSOLE|uuid=CONSOLE&session_id=…: a tunnel to a guest's screen or serial port.

After "200" the bytes are the console's own: RFB for a screen, the raw text of a serial port. A tunnel ends with either
side, with the domain, or with the session that opened it.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from xenstack.host.api import access
from xenstack.host.api.server import Refused, Request
from xenstack.host.api.sessions import Sessions
from xenstack.host.api.stream import Stream
from xenstack.host.calls.call import Context
from xenstack.host.database.store import Store
from xenstack.host.hypervisor.port import HypervisorError
from xenstack.host.tasks.task import Task

log = logging.getLogger(__name__)

_CHUNK = 1 << 16
_CHECK_S = 5.0  # how soon a tunnel notices that its session has ended


class Tunnels:
    """Serves CONNECT /console."""

    def __init__(self, store: Store, sessions: Sessions, context: Callable[[str, Task], Context]) -> None:
        self._store = store
        self._sessions = sessions
        self._context = context

    async def connect(self, request: Request) -> None:
        """Make the tunnel and stay until it ends."""
        session = await access.check(request, self._sessions, "console")
        context = self._context(session, Task.hidden(self._store))
        path = await asyncio.to_thread(_socket_of, context, request.query)
        inner = await _dial(path)
        patience_s = 3600.0
        console = Stream(inner, patience_s=patience_s)
        try:
            early = request.connection.take()
            outer = request.connection.stream
            head = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nCache-Control: no-cache, no-store\r\n\r\n"
            await outer.send(head)
            if early:
                await console.send(early)
            log.info("console %s opened from %s", path.name, request.caller.address)
            await self._join(outer, console, session)
        finally:
            inner.close()

    async def _join(self, outer: Stream, console: Stream, session: str) -> None:
        copies = {asyncio.create_task(_copy(outer, console)), asyncio.create_task(_copy(console, outer))}
        try:
            while not session or self._sessions.alive(session):
                done, _ = await asyncio.wait(copies, timeout=_CHECK_S, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    return
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)


async def _copy(source: Stream, sink: Stream) -> None:
    with contextlib.suppress(OSError, TimeoutError):
        while data := await source.recv(_CHUNK):
            await sink.send(data)


async def _dial(path: Path) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(link, str(path))
    except OSError as why:
        link.close()
        raise Refused(500, "internal server error", f"the console does not answer: {why}") from None
    return link


def _socket_of(context: Context, query: dict[str, str]) -> Path:
    store = context.store
    ref = query.get("ref", "")
    if not ref and "uuid" in query:
        ref = next(iter(store.where("console", uuid=query["uuid"])), "")
    if store.exists("VM", ref):  # xapi takes a VM, too: its first screen
        screens = [c for c in store.get("VM", ref, "consoles") if store.get("console", c, "protocol") == "rfb"]
        ref = screens[0] if screens else ""
    if not store.exists("console", ref):
        raise Refused(404, "not found", "there is no such console")
    record = store.view("console", ref)
    if not store.exists("VM", record["VM"]):
        raise Refused(404, "not found", "the console's VM is gone")
    try:
        found = context.hypervisor.consoles(store.get("VM", record["VM"], "uuid"))
    except HypervisorError as why:
        raise Refused(500, "internal server error", f"the VM has no console now: {why}") from None
    return found.vnc if record["protocol"] == "rfb" else found.text
