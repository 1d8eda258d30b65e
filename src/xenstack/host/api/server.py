"""The HTTP edge: listeners, connections, requests, and who serves them.

h11 reads and writes HTTP/1.1 heads and small bodies; sockets are ours (see stream.py), so that bulk bodies go straight
between socket and storage in a thread and CONNECT tunnels are plain copying. Everything that comes in is hostile:

  * a head must come within `client_timeout_s` and 64 KiB, a call's body within `max_body` and without a silence of
    `client_timeout_s`; an idle connection ends after five minutes; there are at most MAX_CONNECTIONS;
  * what is no HTTP is answered 400 and closed; after any error in the middle of a body the connection is closed;
  * a listener that serves consoles only knows nothing but CONNECT /console.

Paths and answers are xapi's: a POST is XML-RPC unless its path is /jsonrpc or /json; an unknown path is 403.
"""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import cookies
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import h11

from xenstack.host.api.dispatch import Caller
from xenstack.host.api.stream import Stream, TlsStream
from xenstack.host.config import Listener

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 4096
_HEAD = 1 << 16
_IDLE_S = 300.0
_BACKLOG = 512
_READ = 1 << 16

Headers = list[tuple[str, str]]
NO_CACHE = ("Cache-Control", "no-cache, no-store")
CROSS_ORIGIN: Headers = [("Access-Control-Allow-Origin", "*"), ("Access-Control-Allow-Headers", "X-Requested-With")]


@dataclass(eq=False)
class Refused(Exception):
    """An answer that is no success; the connection is closed after it."""

    status: int
    reason: str
    detail: str = ""
    headers: Headers = field(default_factory=list)


@dataclass(eq=False)
class Request:
    """One request's head, and the way to its body and its client."""

    verb: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    caller: Caller
    connection: "Connection"

    @property
    def cookie_session(self) -> str:
        """The session_id cookie, "" when there is none."""
        jar: cookies.SimpleCookie = cookies.SimpleCookie()
        with contextlib.suppress(cookies.CookieError):
            jar.load(self.headers.get("cookie", ""))
        return jar["session_id"].value if "session_id" in jar else ""


Handler = Callable[[Request], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """Who serves what. A handler answers through the request's connection or raises Refused."""

    xmlrpc: Handler
    jsonrpc: Handler
    import_vdi: Handler
    export_vdi: Handler
    console: Handler

    def of(self, verb: str, path: str, serves: str) -> Handler:
        """The handler of a request. Errors: Refused."""
        bare = path.rstrip("/") or "/"
        if serves == "consoles":
            if (verb, bare) == ("CONNECT", "/console"):
                return self.console
            raise Refused(403, "forbidden")
        if verb == "POST" and not path.startswith("//"):
            json = bare in ("/jsonrpc", "/json") or path.startswith("/jsonrpc/")
            return self.jsonrpc if json else self.xmlrpc
        if verb == "OPTIONS":
            return _options
        known = {
            ("PUT", "/import_raw_vdi"): self.import_vdi,
            ("GET", "/export_raw_vdi"): self.export_vdi,
            ("CONNECT", "/console"): self.console,
        }.get((verb, bare))
        if known is None:
            if verb in ("GET", "PUT", "CONNECT", "POST"):
                raise Refused(403, "forbidden")
            raise Refused(501, "Method Not Implemented", f"Unknown {verb[:20]} not supported.")
        return known


async def _options(request: Request) -> None:
    await request.connection.answer(200, b"", [*CROSS_ORIGIN, ("Access-Control-Allow-Methods", "PUT")])


_TEXTS = {
    400: "The request cannot be understood.",
    401: "Please check your credentials and retry.",
    403: "Access to the requested resource is forbidden.",
    404: "The requested resource was not found.",
    408: "The request took too long.",
    411: "The length of the body must be told.",
    413: "The body is too large.",
    500: "An unexpected error occurred; please wait a while and try again.",
}


class Connection:
    """One client's connection: requests, one after the other."""

    def __init__(self, server: "Server", stream: Stream, caller: Caller, serves: str) -> None:
        self.stream = stream
        self._server = server
        self._caller = caller
        self._serves = serves
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD)
        self._taken = False  # a handler has the raw stream: no HTTP any more
        self._held = b""  # the beginning of a CONNECT whose head is not whole yet

    async def run(self) -> None:
        """Serve requests until one side has enough."""
        wait_s = self._server.client_timeout_s
        while not self._taken:
            try:
                request = await self._head(wait_s)
                if request is None:
                    return
                handler = self._server.handlers.of(request.verb, request.path, self._serves)
                await handler(request)
            except Refused as why:
                await self._refuse(why)
                return
            except h11.RemoteProtocolError as why:
                await self._refuse(Refused(why.error_status_hint, "bad request", str(why)[:200]))
                return
            if self._taken or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()
            wait_s = _IDLE_S

    async def body(self, most: int) -> bytes:
        """The request's whole body. Errors: Refused (413, 408)."""
        announced = 0
        parts: list[bytes] = []
        while True:
            event = await self._event(self._server.client_timeout_s, "the body")
            if isinstance(event, h11.EndOfMessage):
                return b"".join(parts)
            if not isinstance(event, h11.Data):
                raise Refused(400, "bad request", "the connection ended within the body")
            announced += len(event.data)
            if announced > most:
                raise Refused(413, "request entity too large", f"a body has at most {most} bytes")
            parts.append(bytes(event.data))

    async def answer(self, status: int, body: bytes, headers: Headers, *, reason: str = "") -> None:
        """Answer the request; the connection goes on when the client likes."""
        closing = self._http.their_state is not h11.DONE
        head = [*headers, NO_CACHE, ("Content-Length", str(len(body)))]
        if closing:
            head.append(("Connection", "close"))
        elif "close" not in _lowered(head, "connection"):
            head.append(("Connection", "keep-alive"))
        response = h11.Response(status_code=status, headers=_wire(head), reason=reason.encode())
        data = self._http.send(response) or b""
        data += self._http.send(h11.Data(data=body)) or b"" if body else b""
        await self.stream.send(data + (self._http.send(h11.EndOfMessage()) or b""))

    def take(self) -> bytes:
        """Leave HTTP: the caller reads and writes the stream from here on, and closes nothing. Returns what of the
        body or tunnel was read already."""
        self._taken = True
        return bytes(self._http.trailing_data[0])

    async def invite(self) -> None:
        """Send 100 Continue when the client waits for it."""
        if self._http.they_are_waiting_for_100_continue:
            await self.stream.send(self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")

    async def raw_answer(self, status: int, reason: str, body: bytes, headers: Headers) -> None:
        """An answer after `take`; the connection is closed behind it."""
        await self.stream.send(written(status, reason, body, headers))

    async def _refuse(self, why: Refused) -> None:
        body = page(why)
        headers: Headers = [("Content-Type", "text/html"), *why.headers]
        log.debug("%s: HTTP %d %s %s", self._caller.address, why.status, why.reason, why.detail)
        await self.raw_answer(why.status, why.reason, body, headers)

    async def _head(self, wait_s: float) -> Request | None:
        try:
            async with asyncio.timeout(wait_s):
                event = await self._next()
        except TimeoutError:
            if self._http.trailing_data[0]:
                raise Refused(408, "request timeout") from None
            return None
        if not isinstance(event, h11.Request):
            return None
        verb, target = event.method.decode("ascii", "replace"), event.target.decode("latin-1")
        parts = urlsplit(target if target.startswith("/") else f"/{target}")
        try:
            query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=100))
        except ValueError:
            raise Refused(400, "bad request", "too many query arguments") from None
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in event.headers}
        path = target.split("?", 1)[0] if target.startswith("/") else parts.path
        return Request(verb, path, query, headers, self._caller, self)

    async def _event(self, wait_s: float, what: str) -> object:
        try:
            async with asyncio.timeout(wait_s):
                await self.invite()
                return await self._next()
        except TimeoutError:
            raise Refused(408, "request timeout", f"no news of {what} for {wait_s:g} s") from None

    async def _next(self) -> object:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data: bytes | None = await self.stream.recv(_READ)
                if self._http.their_state is h11.IDLE:
                    data = self._hosted(data or b"")
                if data is not None:
                    self._http.receive_data(data)
                continue
            return event

    def _hosted(self, data: bytes) -> bytes | None:
        """What h11 may read of a request's beginning; None when a CONNECT's head is not whole yet.

        Nova's novncproxy, written for xapi, sends CONNECT as HTTP/1.1 without the Host that h11 insists on.
        """
        held, self._held = self._held + data, b""
        if not b"CONNECT ".startswith(held[:8]):
            return held
        head, end, _ = held.partition(b"\r\n\r\n")
        if not end:
            if data and len(held) < _HEAD:
                self._held = held
                return None
            return held
        if b"\r\nhost:" in head.lower():
            return held
        line, _, rest = held.partition(b"\r\n")
        return line + b"\r\nHost: xapi\r\n" + rest


def _lowered(headers: Headers, name: str) -> str:
    return " ".join(v.lower() for k, v in headers if k.lower() == name)


def _wire(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(k.encode("latin-1"), v.encode("latin-1", "replace")) for k, v in headers]


def written(status: int, reason: str, body: bytes, headers: Headers) -> bytes:
    """A whole answer that closes the connection."""
    lines = [f"HTTP/1.1 {status} {reason}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{k}: {v}" for k, v in [*headers, NO_CACHE]]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + body


def page(why: Refused) -> bytes:
    """The HTML of a refusal, worded as xapi's."""
    detail = why.detail.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _TEXTS.get(why.status, "")
    if detail and why.status >= 500:
        text += f"<h1> Additional information </h1>{detail}" if why.status == 500 else f"<p>{detail}<br /></p>"
    elif detail:
        text += f"<p>{detail}</p>"
    return f"<html><body><h1>HTTP {why.status} {why.reason}</h1>{text}</body></html>".encode()


class Server:
    """All listeners of one daemon."""

    def __init__(self, handlers: Handlers, *, client_timeout_s: float, tls: Callable[[], ssl.SSLContext]) -> None:
        self.handlers = handlers
        self.client_timeout_s = client_timeout_s
        self._tls = tls
        self._sockets: list[socket.socket] = []
        self._paths: list[Path] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, listener: Listener) -> str:
        """Start to answer at an address; returns its URL with the port that it got. Errors: OSError."""
        context = self._tls() if listener.tls else None
        if listener.path is not None:
            link, url = self._unix(listener.path), f"unix://{listener.path}"
        else:
            host, port = listener.host_port
            link = socket.create_server((host, port), family=_family(host), backlog=_BACKLOG)
            shown = f"[{host}]" if ":" in host else host
            url = f"{'https' if listener.tls else 'http'}://{shown}:{link.getsockname()[1]}"
        link.setblocking(False)
        self._sockets.append(link)
        self._keep(asyncio.create_task(self._accept(link, listener.serves, context)))
        return url

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        for link in self._sockets:
            link.close()
        for path in self._paths:
            path.unlink(missing_ok=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _unix(self, path: Path) -> socket.socket:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            link.bind(str(path))
        finally:
            os.umask(before)
        link.listen(_BACKLOG)
        self._paths.append(path)
        return link

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, link: socket.socket, serves: str, tls: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, address = await loop.sock_accept(link)
            except OSError as why:  # out of file descriptors, mostly: the next moment may be better
                log.error("cannot accept a connection: %s", why)
                await asyncio.sleep(0.2)
                continue
            if len(self._tasks) >= MAX_CONNECTIONS:
                log.warning("too many connections: one from %s refused", address)
                client.close()
                continue
            client.setblocking(False)
            self._keep(asyncio.create_task(self._serve(client, serves, tls)))

    async def _serve(self, client: socket.socket, serves: str, tls: ssl.SSLContext | None) -> None:
        patience_s = self.client_timeout_s
        stream = TlsStream(client, tls, patience_s=patience_s) if tls else Stream(client, patience_s=patience_s)
        try:
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if isinstance(stream, TlsStream):
                await stream.handshake()
            await Connection(self, stream, _caller(client), serves).run()
        except (OSError, TimeoutError) as why:
            log.debug("connection lost: %s", why)
        except Exception:
            log.exception("a connection ended by our failure")
        finally:
            await stream.close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _caller(client: socket.socket) -> Caller:
    if client.family == socket.AF_UNIX:
        packed = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, _ = struct.unpack("3i", packed)
        return Caller(uid in (0, os.geteuid()), f"pid {pid}")
    name = client.getpeername()
    return Caller(False, f"{name[0]}:{name[1]}")
