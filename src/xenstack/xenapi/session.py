"""A client's session with one XenAPI server, over the XenAPI library from PyPI. The only module that imports it.

Rules:

  * `Session` is safe to use from any thread: one login for all, one kept-alive connection per thread;
  * a failure that the API promises is a XenAPIError; no answer, or one that is no XenAPI, is `Unreachable`: what was
    asked may or may not have happened, so it is never asked a second time. A kept-alive connection that the server
    closed while it was idle is replaced before anything is sent;
  * an ended session (SESSION_INVALID) is replaced and the call repeated, once; a pool's member that is no
    coordinator (HOST_IS_SLAVE) sends us to the one that is;
  * integers travel as strings of digits, as XenAPI wants them; answers are as they come (integers are strings).

Addresses: `http://HOST[:PORT]`, `https://HOST[:PORT]`, `unix:///PATH`.
"""

import http.client
import select
import socket
import ssl
import threading
import time
import xml.parsers.expat
import xmlrpc.client
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import XenAPI

from xenstack.xenapi.errors import HostIsSlave, SessionInvalid, XenAPIError

_ENDED = frozenset({"success", "failure", "cancelled"})
_ENDLESS = 1 << 50  # the length that clients of XenAPI declare when they do not know it
_CHUNK = 1 << 20
_TASK_POLL_S = 30.0
_LET_GO_S = 15.0
_BROKEN = (OSError, http.client.HTTPException, xmlrpc.client.Error, xml.parsers.expat.ExpatError, ValueError)


@dataclass(eq=False)
class Unreachable(Exception):
    """The server did not answer, or not in XenAPI's words."""

    url: str
    reason: str

    def __str__(self) -> str:
        return f"{self.url}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Batch:
    """One answer of event.from. `complete`: the first, or the first after a loss: it tells of everything there is."""

    events: list[dict[str, Any]]
    token: str
    complete: bool


def tls(*, ca_file: str | None = None, verify: bool = True) -> ssl.SSLContext:
    """How to check an https server: against `ca_file`, the system's authorities, or (verify=False) not at all."""
    context = ssl.create_default_context(cafile=ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(url: str, context: ssl.SSLContext | None, timeout_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return _UnixConnection(parts.path, timeout_s)
    if parts.scheme == "https":
        return http.client.HTTPSConnection(
            parts.hostname or "", parts.port or 443, timeout=timeout_s, context=context or tls()
        )
    if parts.scheme == "http" and parts.hostname:
        return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout_s)
    raise ValueError(f"not an address of a XenAPI server: {url!r}")


class _Transport(xmlrpc.client.Transport):
    """One thread's connection. `timeout_s` may change before each request."""

    def __init__(self, url: str, context: ssl.SSLContext | None) -> None:
        super().__init__()
        self._url = url
        self._context = context
        self._link: http.client.HTTPConnection | None = None
        self.timeout_s = 60.0

    def make_connection(self, host: Any) -> http.client.HTTPConnection:  # noqa: ARG002  # the library's signature
        link = self._link
        if link is not None and link.sock is not None:
            if select.select([link.sock], [], [], 0)[0]:  # closed by the server, or out of step: of no use
                self.close()
            else:
                link.sock.settimeout(self.timeout_s)
                return link
        self._link = link = _connection(self._url, self._context, self.timeout_s)
        link.connect()
        if link.sock.family != socket.AF_UNIX:
            link.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return link

    def request(self, host: Any, handler: str, request_body: Any, verbose: bool = False) -> Any:
        # the library repeats a request whose connection broke; that could start a VM twice
        try:
            return self.single_request(host, handler, request_body, verbose)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


class _Thread(threading.local):
    """What each thread has of its own: its connection, and the address that it leads to."""

    proxy: Any = None
    transport: _Transport | None = None
    url: str = ""


def _wire(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _wire(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_wire(v) for v in value]
    return value


class Session:
    """A login that lasts. Logs in at the first call."""

    def __init__(
        self,
        url: str,
        user: str,
        password: str,
        *,
        originator: str = "xenstack",
        timeout_s: float = 60.0,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        """`timeout_s` is how long a server may be silent before a call is given up, unless the call says otherwise."""
        _connection(url, tls_context, timeout_s)  # a bad address is told here
        self.url = url
        self._user = user
        self._password = password
        self._originator = originator
        self._timeout_s = timeout_s
        self._tls = tls_context
        self._lock = threading.Lock()
        self._ref = ""
        self._thread = _Thread()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def ref(self) -> str:
        """The session's reference, after logging in if need be."""
        with self._lock:
            if not self._ref:
                self._ref = self._login()
            return self._ref

    def fresh_ref(self) -> str:
        """A reference that the server accepts at this moment: for what carries it outside a call (HTTP, consoles)."""
        self.call("session.get_uuid", self.ref)
        return self.ref

    def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """One message, without the session argument: `call("VM.start", vm, False, False)`.

        Errors: XenAPIError, Unreachable.
        """
        for last in (False, True):
            ref = self.ref
            try:
                return self._send(method, (ref, *arguments), timeout_s)
            except SessionInvalid:
                if last:
                    raise
                with self._lock:
                    if self._ref == ref:
                        self._ref = ""
            except HostIsSlave as why:
                if last:
                    raise
                self._move(ref, why.address)
            arguments = tuple(self.ref if a == ref else a for a in arguments)
        raise AssertionError("not reached")

    def close(self) -> None:
        """Log out, and close this thread's connection; other threads' close when the threads end."""
        with self._lock:
            ref, self._ref = self._ref, ""
        if ref:
            with suppress(XenAPIError, Unreachable):
                self._send("session.logout", (ref,), self._timeout_s)
        if self._thread.transport is not None:
            self._thread.transport.close()

    def events(self, classes: Iterable[str], *, timeout_s: float = 60.0, token: str = "") -> Iterator[Batch]:
        """Batches of event.from, for ever: everything first, then what changes (an empty batch every `timeout_s`).

        Errors: XenAPIError, Unreachable; ask again for a new iterator, which tells of everything again.
        """
        wanted = list(classes)
        while True:
            answer = self.call("event.from", wanted, token, float(timeout_s), timeout_s=timeout_s + self._timeout_s)
            complete, token = not token, str(answer["token"])
            yield Batch(list(answer["events"]), token, complete)

    def import_vdi(
        self,
        vdi: str,
        chunks: Iterable[bytes],
        *,
        length: int | None,
        format: str = "raw",
        timeout_s: float | None = None,
    ) -> None:
        """Replace a VDI's content by a body of `length` bytes (None: not known) in raw, vhd or qcow2 format.

        Errors: XenAPIError, Unreachable, ValueError when `chunks` is not as long as `length`, and what `chunks` raises:
        the VDI is then as it was, if the server is ours.
        """
        task = str(self.call("task.create", "import_raw_vdi", f"into {vdi}"))
        try:
            link = self._http(
                "PUT",
                "/import_raw_vdi",
                {"session_id": self.ref, "task_id": task, "vdi": vdi, "format": format},
                {"Content-Length": str(_ENDLESS if length is None else length)},
                timeout_s,
            )
            try:
                with suppress(BrokenPipeError, ConnectionResetError):  # it has refused: its answer says why
                    _send_body(link, chunks, length)
                refusal = self._answer(link)
            except BaseException:
                link.close()
                with suppress(XenAPIError, Unreachable):  # until the server has let go of the VDI
                    self._ended(task, _LET_GO_S)
                raise
            finally:
                link.close()
            self._settled(task, refusal)
        finally:
            with suppress(XenAPIError, Unreachable):
                self.call("task.destroy", task)

    def export_vdi(self, vdi: str, *, format: str = "raw", timeout_s: float | None = None) -> Iterator[bytes]:
        """The VDI's content in raw, vhd or qcow2 format. Errors: XenAPIError, Unreachable (also in the middle)."""
        task = str(self.call("task.create", "export_raw_vdi", f"from {vdi}"))
        try:
            arguments = {"session_id": self.ref, "task_id": task, "vdi": vdi, "format": format}
            link = self._http("GET", "/export_raw_vdi", arguments, {}, timeout_s)
            try:
                answer = link.getresponse()
                if answer.status != 200:
                    self._settled(task, f"HTTP {answer.status}: {answer.read(1000).decode(errors='replace')}")
                while chunk := answer.read(_CHUNK):
                    yield chunk
            except (OSError, http.client.HTTPException) as why:
                raise Unreachable(self.url, f"export of {vdi}: {why!r}") from why
            finally:
                link.close()
            self._settled(task, "")
        finally:
            with suppress(XenAPIError, Unreachable):
                self.call("task.destroy", task)

    # ---- inside

    def _login(self) -> str:
        credentials = (self._user, self._password, "1.0", self._originator)
        try:
            return str(self._send("session.login_with_password", credentials, self._timeout_s))
        except HostIsSlave as why:
            self.url = self._coordinator(why.address)
            return str(self._send("session.login_with_password", credentials, self._timeout_s))

    def _move(self, ref: str, address: str) -> None:
        with self._lock:
            if self._ref == ref:
                self.url, self._ref = self._coordinator(address), ""

    def _coordinator(self, address: str) -> str:
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            raise Unreachable(self.url, f"this host is a member of a pool; its coordinator is {address}")
        host = f"[{address}]" if ":" in address and not address.startswith("[") else address
        return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")

    def _proxy(self) -> tuple[Any, _Transport]:
        mine = self._thread
        if mine.transport is None or mine.url != self.url:
            if mine.transport is not None:
                mine.transport.close()
            mine.url = self.url
            mine.transport = _Transport(self.url, self._tls)
            mine.proxy = XenAPI.Session("http://server/", transport=mine.transport)
        return mine.proxy, mine.transport

    def _send(self, method: str, arguments: tuple[Any, ...], timeout_s: float | None) -> Any:
        proxy, transport = self._proxy()
        transport.timeout_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            answer = getattr(proxy, method)(*map(_wire, arguments))
        except xmlrpc.client.Fault as why:
            raise XenAPIError.from_wire(["INTERNAL_ERROR", f"Fault: {why.faultString}"]) from why
        except xmlrpc.client.ProtocolError as why:
            raise Unreachable(self.url, f"{method}: HTTP {why.errcode} {why.errmsg}") from why
        except _BROKEN as why:
            raise Unreachable(self.url, f"{method}: {why!r}") from why
        if not isinstance(answer, dict):
            return answer  # system.listMethods has no envelope
        if answer.get("Status") == "Success" and "Value" in answer:
            return answer["Value"]
        if answer.get("Status") == "Failure" and isinstance(answer.get("ErrorDescription"), list):
            raise XenAPIError.from_wire(answer["ErrorDescription"])
        raise Unreachable(self.url, f"{method}: the answer is no XenAPI")

    def _http(
        self, verb: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], timeout_s: float | None
    ) -> http.client.HTTPConnection:
        link = _connection(self.url, self._tls, self._timeout_s if timeout_s is None else timeout_s)
        try:
            link.putrequest(verb, f"{path}?{urlencode(query)}")
            for name, value in headers.items():
                link.putheader(name, value)
            link.endheaders()
        except (OSError, http.client.HTTPException) as why:
            link.close()
            raise Unreachable(self.url, f"{verb} {path}: {why!r}") from why
        return link

    def _answer(self, link: http.client.HTTPConnection) -> str:
        """ "" for success, else what the server said. xapi tells a late failure in a second answer: the task has it."""
        try:
            answer = link.getresponse()
            text = answer.read(2000).decode(errors="replace") if answer.status != 200 else ""
        except (OSError, http.client.HTTPException) as why:
            return f"no answer: {why!r}"
        return "" if answer.status == 200 else f"HTTP {answer.status}: {text}"

    def _ended(self, task: str, timeout_s: float | None) -> Any:
        """The task's record once it has ended; None when it has not in time (None: no limit)."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        token = ""  # the first answer comes at once, with the task as it is
        while True:
            wait_s = _TASK_POLL_S if deadline is None else max(0.0, min(_TASK_POLL_S, deadline - time.monotonic()))
            answer = self.call("event.from", [f"task/{task}"], token, wait_s, timeout_s=wait_s + self._timeout_s)
            token = str(answer["token"])
            for event in answer["events"]:
                if event["ref"] == task and event.get("snapshot", {}).get("status") in _ENDED:
                    return event["snapshot"]
            if deadline is not None and time.monotonic() >= deadline:
                return None

    def _settled(self, task: str, refusal: str) -> None:
        """Wait for the task's end and raise its error; `refusal` is for a server that left the task alone."""
        record = self._ended(task, 0.0 if refusal else None)
        if record is None:
            raise Unreachable(self.url, refusal)
        if record["status"] != "success":
            raise XenAPIError.from_wire(list(record["error_info"]))
        if refusal:
            raise Unreachable(self.url, refusal)


def _send_body(link: http.client.HTTPConnection, chunks: Iterable[bytes], length: int | None) -> None:
    sent = 0
    for chunk in chunks:
        sent += len(chunk)
        if length is not None and sent > length:
            raise ValueError(f"the body is longer than the {length} bytes announced")
        link.send(chunk)
    if length is None:
        with suppress(OSError):
            link.sock.shutdown(socket.SHUT_WR)
    elif sent < length:
        raise ValueError(f"the body ended after {sent} of {length} bytes")
