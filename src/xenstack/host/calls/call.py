"""How a hand-written message becomes a handler.

A handler is a function with the message's name over it:

    @call("VM.start")
    def start(context: Context, vm: str, start_paused: bool, force: bool) -> None: ...

It gets the arguments decoded and checked against the data model (Int64 as int, references as strings, records as dicts
of wire names, trailing optional ones filled with their type's empty value), runs in a worker thread, for a plain
call and for `Async.` alike, and returns plain data or raises a XenAPIError.

Implicit messages (getters, setters, records) have no handler: they follow from the model. One that has a side effect
(a constructor, a setter that plugs) is written by hand and says so with `replaces_implicit=True`. A handler that the
model does not know, or with another number of parameters, fails when its module is imported.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from xenstack.host.database.store import Store
from xenstack.host.hypervisor.port import Hypervisor
from xenstack.host.network.port import Network
from xenstack.host.storage.port import Storage
from xenstack.host.tasks.journal import Journal
from xenstack.host.tasks.task import Task
from xenstack.xenapi.model import load

if TYPE_CHECKING:
    from xenstack.host.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a handler works with: the host's parts, and whose call it is.

    `session` is the caller's session ref ("" when the host itself calls). `task` reports progress and knows of a
    cancel.
    """

    store: Store
    hypervisor: Hypervisor
    storage: Storage
    network: Network
    journal: Journal
    config: "Config"
    host_ref: str
    pool_ref: str
    session: str
    task: Task
    sessions: "Sessions"
    queue: "Queue"


class Sessions(Protocol):
    """What handlers may do to sessions."""

    def close(self, ref: str) -> None:
        """End the session. No error when it has ended."""

    def change_password(self, password: str) -> None:
        """Set root's password; open sessions stay."""


class Queue(Protocol):
    """What handlers may do to the tasks under way."""

    def knows(self, ref: str) -> bool:
        """Whether the task is one of a call under way."""

    def cancel(self, ref: str) -> bool:
        """Ask a task to stop; False when no such task runs."""

    def destroy_at_end(self, ref: str) -> bool:
        """Remove the task's record once it has ended; False when it has, and the record is the caller's to remove."""


Handler = Callable[..., Any]

CALLS: dict[str, Handler] = {}
"""Every handler by its message's full name (`VM.start`)."""


def call(name: str, *, replaces_implicit: bool = False) -> Callable[[Handler], Handler]:
    """Declare the handler of the message `name`. Raises ValueError when the model disagrees."""
    message = load().messages.get(name)
    if message is None:
        raise ValueError(f"XenAPI has no message {name}")
    if message.implicit and not replaces_implicit:
        raise ValueError(f"{name} follows from the model; say replaces_implicit when it has a side effect")
    if replaces_implicit and not message.implicit:
        raise ValueError(f"{name} is no implicit message")
    if name in CALLS:
        raise ValueError(f"{name} has two handlers")

    def declare(handler: Handler) -> Handler:
        given = len(inspect.signature(handler).parameters) - 1
        if given != len(message.parameters):
            raise ValueError(f"{name} has {len(message.parameters)} parameters, its handler {given}")
        CALLS[name] = handler
        return handler

    return declare


def load_all() -> None:
    """Import every module beside this one, so that CALLS is complete."""
    package = importlib.import_module(__package__ or "xenstack.host.calls")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
