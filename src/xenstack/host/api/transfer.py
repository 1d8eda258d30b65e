"""PUT /import_raw_vdi and GET /export_raw_vdi: bulk bodies between a socket and storage, in a thread of their own.

    PUT /import_raw_vdi?vdi=REF|UUID&format=raw|vhd|qcow2&session_id=…[&task_id=…]      GET /export_raw_vdi?…

The answer to an import comes after the body, when storage has everything: 200 means that the VDI holds the image, any
other that it is as it was. (xapi says 200 before the body and tells of a late failure in a second answer.) Errors
that are known before the body are answered at once and the connection is closed. A task that is named gets the
progress and the end; a client that cannot tell the length declares 1 PiB and hangs up, as clients of xapi do.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from xenstack.host.api import access
from xenstack.host.api.server import Refused, Request, written
from xenstack.host.api.sessions import Sessions
from xenstack.host.api.stream import Lent
from xenstack.host.calls.call import Context
from xenstack.host.database.store import Store
from xenstack.host.operations import translate
from xenstack.host.storage.port import Format, StorageError, Vdi
from xenstack.host.tasks.queue import Queue, promised
from xenstack.host.tasks.task import ENDED, Task
from xenstack.xenapi.errors import HandleInvalid, InternalError, UuidInvalid, VdiIoError, VdiReadonly, XenAPIError
from xenstack.xenapi.model import NULL

log = logging.getLogger(__name__)

_CHUNK = 1 << 20  # measured: twice as fast as 256 KiB; fewer turns between the socket's thread and the image
_AT_ONCE = 8  # transfers that run; the others wait for a place
_ENDLESS = 1 << 50  # what clients declare that do not know the length


@dataclass(frozen=True, slots=True)
class _Job:
    """What one transfer is about."""

    context: Context
    vdi: str
    vdi_uuid: str
    sr_uuid: str
    format: Format


class Transfers:
    """Serves both handlers."""

    def __init__(self, store: Store, sessions: Sessions, queue: Queue, context: Callable[[str, Task], Context]) -> None:
        self._store = store
        self._sessions = sessions
        self._queue = queue
        self._context = context
        self._places = threading.BoundedSemaphore(_AT_ONCE)

    async def put(self, request: Request) -> None:
        """PUT /import_raw_vdi."""
        job = await self._job(request, "put_import_raw_vdi")
        if request.query.get("chunked", "false").lower() not in ("false", "0", ""):
            self._refuse(job, Refused(501, "Method Not Implemented", "xapi's own chunked framing is not served"))
        length = self._length(job, request)
        await request.connection.invite()
        head = request.connection.take()
        lent = request.connection.stream.blocking()
        await self._run(job, lambda: _receive(job, lent, head, length), request)

    async def get(self, request: Request) -> None:
        """GET /export_raw_vdi."""
        job = await self._job(request, "get_export_raw_vdi")
        request.connection.take()
        lent = request.connection.stream.blocking()
        await self._run(job, lambda: _send(job, lent), request)

    async def _run(self, job: _Job, work: Callable[[], bytes], request: Request) -> None:
        task = job.context.task
        self._queue.watch(task)

        def whole() -> bytes:
            with self._places:
                return work()

        try:
            answer = await asyncio.to_thread(whole)
            task.succeed(f"<value>{job.vdi}</value>")
        except (OSError, TimeoutError) as why:
            task.fail(VdiIoError(f"the client left: {why}"))
            raise
        except Exception as why:
            error = _spoken(job, why)
            task.fail(error)
            log.warning("%s of VDI %s: %s", request.path, job.vdi_uuid, error)
            body = f"{error}\n".encode()
            answer = written(500, "Internal Error", body, [("Content-Type", "text/plain")])
        finally:
            self._queue.forget(task)
        await request.connection.stream.send(answer)

    def _length(self, job: _Job, request: Request) -> int | None:
        try:
            return _length(request)
        except Refused as why:
            self._refuse(job, why)

    def _refuse(self, job: _Job, why: Refused) -> NoReturn:
        job.context.task.fail(InternalError(why.detail or why.reason))
        raise why

    async def _job(self, request: Request, realm: str) -> _Job:
        session = await access.check(request, self._sessions, realm)
        task = self._task(request.query.get("task_id", ""))
        context = self._context(session, task)
        try:
            return _described(context, request.query)
        except Refused as why:
            task.fail(InternalError(why.detail or why.reason))
            raise
        except XenAPIError as why:
            task.fail(why)
            raise Refused(500, "internal server error", _worded(why)) from None

    def _task(self, ref: str) -> Task:
        store = self._store
        if not ref:
            return Task.hidden(store)
        if not store.exists("task", ref):
            raise Refused(500, "internal server error", f"HANDLE_INVALID: [ task; {ref[:100]} ]")
        if self._queue.knows(ref) or store.get("task", ref, "status") in ENDED:
            raise Refused(500, "internal server error", "the task belongs to something else, or has ended")
        return Task(store, ref, hidden=False)


def _described(context: Context, query: dict[str, str]) -> _Job:
    store, name = context.store, query.get("vdi", "")
    try:
        form = Format(query.get("format", "raw").lower())
    except ValueError:
        raise Refused(404, "not found", f"unknown format {query['format'][:20]}") from None
    vdi = name if store.exists("VDI", name) else next(iter(store.where("VDI", uuid=name)), "")
    if not vdi:
        raise HandleInvalid("VDI", name) if name.startswith("OpaqueRef:") else UuidInvalid("VDI", name)
    record = store.view("VDI", vdi)
    sr = store.get("SR", record["SR"], "uuid") if record["SR"] != NULL else ""
    return _Job(context, vdi, record["uuid"], sr, form)


def _length(request: Request) -> int | None:
    if "transfer-encoding" in request.headers:
        raise Refused(411, "length required", "chunked bodies are not accepted: tell the length, or 1 PiB and hang up")
    text = request.headers.get("content-length", "")
    if not text:
        raise Refused(411, "length required")
    return None if int(text) >= _ENDLESS else int(text)


def _receive(job: _Job, lent: Lent, head: bytes, length: int | None) -> bytes:
    context, store = job.context, job.context.store
    if store.get("VDI", job.vdi, "read_only"):
        raise VdiReadonly(job.vdi)
    left = _ENDLESS if length is None else length
    with context.storage.import_vdi(job.sr_uuid, job.vdi_uuid, format=job.format, length=length) as body:
        first = head[:left]
        if first:
            body.write(first)
        left -= len(first)
        buffer = memoryview(bytearray(_CHUNK))
        while left:
            got = _fill(lent, buffer[: min(_CHUNK, left)])
            if not got:
                break
            body.write(buffer[:got])
            left -= got
            context.task.check_cancelled()
            if length:
                context.task.progress(0.99 * (1 - left / length))
        done = body.finish()
    _record(job, done)
    return written(200, "OK", b"", [])


def _fill(lent: Lent, buffer: memoryview) -> int:
    """Read until the buffer is full or the stream ends: few large writes cost storage less than many small ones."""
    got = 0
    while got < len(buffer):
        more = lent.recv_into(buffer[got:])
        if not more:
            break
        got += more
    return got


def _record(job: _Job, done: Vdi) -> None:
    store = job.context.store
    with store.transaction():
        if store.exists("VDI", job.vdi):
            store.set("VDI", job.vdi, virtual_size=done.virtual_size, physical_utilisation=done.physical_utilisation)


def _send(job: _Job, lent: Lent) -> bytes:
    context = job.context
    with context.storage.export_vdi(job.sr_uuid, job.vdi_uuid, format=job.format) as body:
        lines = ("HTTP/1.1 200 OK", f"Content-Length: {body.length}", "Content-Type: application/octet-stream")
        lent.send("\r\n".join((*lines, "Connection: close", "Cache-Control: no-cache, no-store", "", "")).encode())
        sent = 0
        try:
            for chunk in body:
                context.task.check_cancelled()
                lent.send(chunk)
                sent += len(chunk)
                context.task.progress(0.99 * sent / max(body.length, 1))
        except (StorageError, XenAPIError) as why:
            # the head is out: hanging up early is all that tells the client; the task tells why
            log.error("export of VDI %s broke after %d of %d bytes: %s", job.vdi_uuid, sent, body.length, why)
            raise ConnectionAbortedError(str(why)) from why
    return b""


def _spoken(job: _Job, why: Exception) -> XenAPIError:
    if isinstance(why, StorageError):
        return translate.of_storage(job.context.store, why, "transfer")
    return promised(why, f"transfer of VDI {job.vdi_uuid}")


def _worded(why: XenAPIError) -> str:
    code, *parameters = why.wire()
    return f"{code}: [ {'; '.join(p[:100] for p in parameters)} ]"
