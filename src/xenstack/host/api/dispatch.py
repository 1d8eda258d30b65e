"""One call, from method and arguments to a value or an error: what every protocol shares.

The order of checks is xapi's, and clients depend on it: the session (when there are arguments), the method's name,
the number of arguments, their types, then the work. Work goes where it fits:

  * reading a record or field: here, on the event loop; it takes microseconds;
  * reading whole tables, and writing: a thread;
  * handlers (hand-written messages): a thread; as `Async.` behind a task, whose reference is the answer;
  * event.from and event.next: coroutines, so that thousands may wait.

A hand-written message without a handler is refused with NOT_IMPLEMENTED and its name.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from xenstack.host.api import implicit
from xenstack.host.api.events import Events
from xenstack.host.api.sessions import Sessions
from xenstack.host.calls.call import CALLS, Context
from xenstack.host.database.store import Store
from xenstack.host.tasks.queue import Queue, promised
from xenstack.host.tasks.task import Task
from xenstack.xenapi import xmlrpc
from xenstack.xenapi.errors import (
    MessageMethodUnknown,
    MessageParameterCountMismatch,
    MessageRemoved,
    NotImplementedByHost,
    UnknownFailure,
    XenAPIError,
)
from xenstack.xenapi.model import Message, Model, Type
from xenstack.xenapi.values import decode

log = logging.getLogger(__name__)

_NO_ASYNC = frozenset(("session", "event", "task", "auth"))
_LOGINS = frozenset(("session.login_with_password", "session.slave_local_login_with_password"))
_STRINGS = Type("set", item=Type("string"))
_STRING = Type("string")
Waiting = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent the request. `trusted`: root on the unix socket."""

    trusted: bool
    address: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A value and its type. `bare`: without the usual envelope (system.listMethods)."""

    value: Any
    type: Type
    bare: bool = False


class Dispatcher:
    """Serves calls. Its methods are called on the event loop."""

    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        events: Events,
        queue: Queue,
        context: Callable[[str, Task], Context],
    ) -> None:
        """`context` makes what a handler works with, for a session and a task."""
        self._store = store
        self._model: Model = store.model
        self._sessions = sessions
        self._events = events
        self._queue = queue
        self._context = context
        self._messages = {**self._model.messages, **implicit.hidden_messages(store)}
        self._implicit: dict[str, implicit.Implicit | None] = {}
        self._writer = xmlrpc.Writer(self._model)
        self._waiting: dict[str, Waiting] = {
            "event.from": events.since,
            "event.next": events.next,
            "event.register": self._register,
            "event.unregister": self._unregister,
            "event.inject": self._inject,
            "event.get_current_id": self._current_id,
        }

    @property
    def methods(self) -> list[str]:
        """What system.listMethods tells: every message, and the Async ones."""
        names = list(self._messages)
        return names + [f"Async.{name}" for name in names if self._has_async(self._messages[name])]

    async def call(self, method: str, arguments: list[Any], caller: Caller) -> Answer:
        """Serve one call. Errors: XenAPIError."""
        if method == "system.listMethods":
            return Answer(self.methods, _STRINGS, bare=True)
        if method in _LOGINS:
            return await self._login(method, arguments, caller)
        if arguments:
            self._sessions.check(decode(arguments[0], _STRING, self._model))
        name, asynchronous = _stripped(method)
        message = self._messages.get(name)
        if message is None:
            raise MessageMethodUnknown(name)
        if not arguments:
            raise MessageParameterCountMismatch(name, str(_required(message)), "-1")
        session, given = arguments[0], arguments[1:]
        decoded = self._decoded(message, given)
        if asynchronous:
            if not self._has_async(message):
                raise UnknownFailure("Fault", (f"No async mode for this operation (rpc: {name})",))
            return self._start(message, decoded, session)
        return Answer(await self._serve(message, decoded, session), message.result)

    # ---- inside

    async def _serve(self, message: Message, arguments: list[Any], session: str) -> Any:
        name = message.full_name
        if (waiting := self._waiting.get(name)) is not None:
            return await waiting(session, *arguments)
        if name in CALLS:
            return await self._threaded(lambda: self._handle(message, arguments, session, Task.hidden(self._store)))
        plan = self._planned(message)
        if plan is None:
            self._check_object(message, arguments)
            raise _refusal(message)
        if plan.quick:
            return plan.run(self._store, arguments)
        return await self._threaded(lambda: plan.run(self._store, arguments))

    def _handle(self, message: Message, arguments: list[Any], session: str, task: Task) -> Any:
        try:
            return CALLS[message.full_name](self._context(session, task), *arguments)
        except Exception as why:
            raise promised(why, message.full_name) from why

    async def _threaded(self, work: Callable[[], Any]) -> Any:
        return await asyncio.wrap_future(self._queue.submit(work))

    def _start(self, message: Message, arguments: list[Any], session: str) -> Answer:
        name = message.full_name
        plan = None if name in CALLS else self._planned(message)
        task = Task.recorded(
            self._store, f"Async.{name}", host=self._context(session, Task.hidden(self._store)).host_ref
        )

        def work() -> str:
            if name in CALLS:
                value = self._handle(message, arguments, session, task)
            elif plan is not None:
                value = plan.run(self._store, arguments)
            else:
                raise _refusal(message)
            return self._writer.value(value, message.result)

        self._queue.start(task, work)
        return Answer(task.ref, Type("ref", "task"))

    def _check_object(self, message: Message, arguments: list[Any]) -> None:
        """A refused call about an object that is not there says so first. Errors: HandleInvalid."""
        first = message.parameters[0] if message.parameters else None
        if first is not None and first.type == Type("ref", message.cls) and message.state != "Removed":
            self._store.view(message.cls, arguments[0])

    def _planned(self, message: Message) -> implicit.Implicit | None:
        name = message.full_name
        if name not in self._implicit:
            known = (
                message.implicit and self._model.classes[message.cls].state != "Removed"
            ) or message.cls == "message"  # whose records xapi serves by hand
            self._implicit[name] = implicit.plan(self._store, message) if known else None
        return self._implicit[name]

    def _has_async(self, message: Message) -> bool:
        reads = message.cls == "message" and message.name.startswith("get_")
        if message.cls in _NO_ASYNC or message.name == "list_methods" or reads:
            return False
        return not message.implicit or message.name in ("create", "destroy")

    def _decoded(self, message: Message, given: list[Any]) -> list[Any]:
        required = _required(message)
        if not required <= len(given) <= len(message.parameters):
            raise MessageParameterCountMismatch(message.full_name, str(required), str(len(given)))
        decoded = [decode(v, p.type, self._model) for v, p in zip(given, message.parameters, strict=False)]
        return decoded + [self._model.empty(p.type) for p in message.parameters[len(given) :]]

    async def _login(self, method: str, arguments: list[Any], caller: Caller) -> Answer:
        if len(arguments) < 2:
            raise MessageParameterCountMismatch(method, "2", str(len(arguments)))
        words = [decode(each, _STRING, self._model) for each in arguments[:4]]
        context = self._context("", Task.hidden(self._store))
        originator = words[3] if len(words) > 3 else ""

        def login() -> str:
            return self._sessions.login(
                words[0], words[1], host=context.host_ref, originator=originator, trusted=caller.trusted
            )

        ref = await self._threaded(login)
        log.info("%s logged in from %s (%s)", words[0] or "root", caller.address, originator or "no originator")
        return Answer(ref, Type("ref", "session"))

    async def _register(self, session: str, classes: list[str]) -> str:
        self._events.register(session, classes)
        return ""

    async def _unregister(self, session: str, classes: list[str]) -> str:
        self._events.unregister(session, classes)
        return ""

    async def _inject(self, _session: str, cls: str, ref: str) -> str:
        return self._events.inject(cls, ref)

    async def _current_id(self, _session: str) -> int:
        return self._store.generation


def _stripped(method: str) -> tuple[str, bool]:
    for prefix in ("Async.", "InternalAsync."):
        if method.startswith(prefix):
            return method[len(prefix) :], True
    return method, False


def _required(message: Message) -> int:
    return sum(1 for each in message.parameters if not each.optional)


def _refusal(message: Message) -> XenAPIError:
    if message.state == "Removed":
        return MessageRemoved()
    return NotImplementedByHost(message.full_name)
