"""event.from: what changed since a token, or a wait until something does.

A waiter is a coroutine, not a thread: it sleeps until a commit wakes it, gathers for a moment so that a burst of
changes is one answer, and looks again. A token is "%020d,%020d": the store's generation, and a second number that
xapi uses for messages. Rules as xapi has them: subscriptions are "*", a class in any case, or class/reference; an
empty answer comes only at the timeout; the order is adds, mods, dels; a del has no snapshot; a logout wakes the waiter
with SESSION_INVALID. Where xapi would silently lose deletions that are too old to be known, we say EVENTS_LOST.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xenstack.host.api.sessions import Sessions
from xenstack.host.database.store import Change, Store
from xenstack.xenapi.errors import (
    EventFromTokenParseFailure,
    EventsLost,
    HandleInvalid,
    SessionInvalid,
    SessionNotRegistered,
)

_TOKEN = re.compile(r"([0-9]{1,20}),([0-9]{1,20})")
_GATHER_S = 0.003  # how long a burst may go on; a task's end is never held up longer
_MAX_WAIT_S = 3600.0
_SILENT = frozenset(("session", "event"))  # classes that make no events
_ORDER = {"add": 0, "mod": 1, "del": 2}


def token_of(generation: int) -> str:
    """A generation as clients get it."""
    return f"{generation:020d},{0:020d}"


def generation_of(token: str) -> int:
    """The generation that a client names; "" is the beginning. Errors: EventFromTokenParseFailure."""
    if token == "":
        return 0
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise EventFromTokenParseFailure(token)
    if int(match[1]) >= 1 << 62:
        raise EventFromTokenParseFailure(token)
    return int(match[1])


def subscription(classes: list[str]) -> Callable[[str, str], bool]:
    """What a list of subscriptions picks; unknown classes pick nothing."""
    if "*" in classes:
        return lambda cls, _: cls not in _SILENT
    whole, single = set(), set()
    for each in classes:
        name, slash, ref = each.partition("/")
        if slash:
            single.add((name.lower(), ref))
        else:
            whole.add(name.lower())

    def wanted(cls: str, ref: str) -> bool:
        lower = cls.lower()
        return cls not in _SILENT and (lower in whole or (bool(single) and (lower, ref) in single))

    return wanted


@dataclass
class _Legacy:
    """A session's registration for event.next."""

    classes: set[str] = field(default_factory=set)
    generation: int = 0


class Events:
    """The waiters of one host. Its methods are called on the event loop, but for the store's listener."""

    def __init__(self, store: Store, sessions: Sessions) -> None:
        self._store = store
        self._sessions = sessions
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._woken = False
        self._registered: dict[str, _Legacy] = {}
        store.subscribe(self._wake_from_any_thread)

    def attach(self) -> None:
        """Waiters belong to this event loop."""
        self._loop = asyncio.get_running_loop()

    async def since(self, session: str, classes: list[str], token: str, timeout_s: float) -> dict[str, Any]:
        """event.from. Errors: EventFromTokenParseFailure, EventsLost, SessionInvalid."""
        since, wanted = generation_of(token), subscription(classes)
        deadline = time.monotonic() + min(max(timeout_s, 0.0), _MAX_WAIT_S)
        while True:
            changed = self._changed
            generation, found = self._look(since, wanted)
            if found and since:
                await asyncio.sleep(_GATHER_S)
                generation, found = self._look(since, wanted)
            if not self._sessions.alive(session):
                raise SessionInvalid(session)
            if found or not await _until(changed, deadline):
                return {
                    "events": [_event(each, generation) for each in _ordered(found)],
                    "valid_ref_counts": {cls.lower(): n for cls, n in self._store.counts().items()},
                    "token": token_of(generation),
                }

    def register(self, session: str, classes: list[str]) -> None:
        """event.register."""
        mine = self._registered.setdefault(session, _Legacy(generation=self._store.generation))
        mine.classes.update(classes)

    def unregister(self, session: str, classes: list[str]) -> None:
        """event.unregister; "*" for all."""
        if (mine := self._registered.get(session)) is not None:
            mine.classes = set() if "*" in classes else mine.classes - set(classes)

    async def next(self, session: str) -> list[dict[str, Any]]:
        """event.next: waits for ever. Errors: SessionNotRegistered, EventsLost, SessionInvalid."""
        mine = self._registered.get(session)
        if mine is None:
            raise SessionNotRegistered(session)
        while True:
            answer = await self.since(session, sorted(mine.classes), token_of(mine.generation), _MAX_WAIT_S)
            mine.generation = generation_of(answer["token"])
            if answer["events"]:
                return list(answer["events"])

    def inject(self, cls: str, ref: str) -> str:
        """event.inject: an event for an unchanged object. Errors: HandleInvalid.

        The token is the one just before it: event.from from there on tells of it, and the tokens that event.from
        returns afterwards are greater. That is how clients wait until they have seen everything up to now.
        """
        if cls not in self._store.model.classes:
            raise HandleInvalid(cls, ref)
        return token_of(self._store.inject(cls, ref) - 1)

    def forget_from_any_thread(self, session: str) -> None:
        """The session has ended: its waiters wake and find out."""
        self._registered.pop(session, None)
        self._wake_from_any_thread()

    def _look(self, since: int, wanted: Callable[[str, str], bool]) -> tuple[int, list[Change]]:
        looked = self._store.changes(since, wanted)
        if looked is None:
            raise EventsLost()
        return looked

    def _wake_from_any_thread(self) -> None:
        if self._loop is not None and not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._woken = False
        self._changed.set()
        self._changed = asyncio.Event()


async def _until(changed: asyncio.Event, deadline: float) -> bool:
    left = deadline - time.monotonic()
    if left <= 0:
        return False
    try:
        async with asyncio.timeout(left):
            await changed.wait()
    except TimeoutError:
        return False
    return True


def _ordered(found: list[Change]) -> list[Change]:
    return sorted(found, key=lambda each: _ORDER[_operation(each)])


def _operation(change: Change) -> str:
    return "del" if change.record is None else "add" if change.added else "mod"


def _event(change: Change, generation: int) -> Mapping[str, Any]:
    event: dict[str, Any] = {
        "id": str(generation),
        "timestamp": "0.0",
        "class": change.cls.lower(),
        "operation": _operation(change),
        "ref": change.ref,
    }
    if change.record is not None:
        event["snapshot"] = Snapshot(change.cls, change.record)
    return event


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A record in an event; the edge writes it in its protocol."""

    cls: str
    record: Mapping[str, Any]
