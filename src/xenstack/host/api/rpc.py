"""XML-RPC and JSON-RPC requests: body to call, answer to body."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from xenstack.host.api.dispatch import Answer, Dispatcher
from xenstack.host.api.events import Snapshot
from xenstack.host.api.server import CROSS_ORIGIN, Refused, Request
from xenstack.host.tasks.queue import promised
from xenstack.xenapi import jsonrpc, xmlrpc
from xenstack.xenapi.model import Model
from xenstack.xenapi.xmlrpc import Malformed

log = logging.getLogger(__name__)

_LARGE = 1 << 16  # bodies above this are read in a thread, answers with more records than the next are written in one
_MANY = 50


class Rpc:
    """Serves both protocols with one dispatcher."""

    def __init__(self, dispatcher: Dispatcher, model: Model, *, max_body: int) -> None:
        self._dispatcher = dispatcher
        self._writer = xmlrpc.Writer(model)
        self._max_body = max_body

    async def _body(self, request: Request) -> bytes:
        """The body; one that is announced as too large is refused before any of it is read."""
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > self._max_body:
            raise Refused(413, "request entity too large", f"a body has at most {self._max_body} bytes")
        return await request.connection.body(self._max_body)

    async def xmlrpc(self, request: Request) -> None:
        """POST / and /RPC2."""
        body = await self._body(request)
        try:
            method, arguments = await _maybe_threaded(xmlrpc.read_call, body)
        except Malformed as why:
            raise Refused(500, "internal server error", str(why)) from None
        try:
            answer = await self._dispatcher.call(method, arguments, request.caller)
            text = await _maybe_threaded(self._xml, answer) if _is_large(answer) else self._xml(answer)
        except Exception as why:
            text = xmlrpc.failure(promised(why, method).wire())
        await request.connection.answer(200, text, [("Content-Type", "text/xml"), *CROSS_ORIGIN])

    async def jsonrpc(self, request: Request) -> None:
        """POST /jsonrpc and /json."""
        body = await self._body(request)
        try:
            call = await _maybe_threaded(jsonrpc.read_call, body)
        except Malformed as why:
            raise Refused(500, "internal server error", str(why)) from None
        try:
            answer = await self._dispatcher.call(call.method, call.arguments, request.caller)
            value = jsonrpc.plain(_without_snapshots(answer.value), answer.type)
            if _is_large(answer):
                text = await asyncio.to_thread(jsonrpc.success, call, value)
            else:
                text = jsonrpc.success(call, value)
        except Exception as why:
            text = jsonrpc.failure(call, promised(why, call.method).wire())
        await request.connection.answer(200, text, [("Content-Type", "application/json"), *CROSS_ORIGIN])

    def _xml(self, answer: Answer) -> bytes:
        if answer.bare:
            return xmlrpc.bare(answer.value)
        value = answer.value
        if answer.type.kind == "other":
            value = self._with_xml_snapshots(value)
        return xmlrpc.success(self._writer.value(value, answer.type))

    def _with_xml_snapshots(self, value: Any) -> Any:
        if isinstance(value, Snapshot):
            return xmlrpc.Raw(self._writer.record(value.cls, value.record))
        if isinstance(value, Mapping):
            return {k: self._with_xml_snapshots(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self._with_xml_snapshots(v) for v in value]
        return value


def _without_snapshots(value: Any) -> Any:
    """An event batch as plain data; everything else is plain already."""
    if isinstance(value, dict) and isinstance(value.get("events"), list):
        return {**value, "events": [_plain_event(each) for each in value["events"]]}
    if isinstance(value, list) and value and isinstance(value[0], dict) and "snapshot" in value[0]:
        return [_plain_event(each) for each in value]
    return value


def _plain_event(event: Mapping[str, Any]) -> Mapping[str, Any]:
    snapshot = event.get("snapshot")
    return {**event, "snapshot": snapshot.record} if isinstance(snapshot, Snapshot) else event


def _is_large(answer: Answer) -> bool:
    value = answer.value
    if answer.type.kind == "record":
        return False
    if isinstance(value, dict) and isinstance(value.get("events"), list):
        return len(value["events"]) > _MANY
    return isinstance(value, dict | list) and len(value) > _MANY


async def _maybe_threaded(work: Any, argument: Any) -> Any:
    if isinstance(argument, bytes) and len(argument) < _LARGE:
        return work(argument)
    return await asyncio.to_thread(work, argument)
