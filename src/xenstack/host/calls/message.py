"""message: notes that hosts and clients leave about an object."""

from typing import Any

from xenstack.host.calls.call import Context, call
from xenstack.host.tasks.task import now
from xenstack.xenapi.errors import UuidInvalid

_CLASSES = {"Host": "host", "Pool": "pool"}  # the others are called as their class
_KEPT = 5_000  # notes; the oldest go first


@call("message.create")
def create(context: Context, name: str, priority: int, cls: str, obj_uuid: str, body: str) -> str:
    """Leave a note about an existing object. Errors: UuidInvalid."""
    store, about = context.store, _CLASSES.get(cls, cls)
    if not store.where(about, uuid=obj_uuid):
        raise UuidInvalid(cls, obj_uuid)
    values = {"name": name, "priority": priority, "cls": cls, "obj_uuid": obj_uuid, "timestamp": now(), "body": body}
    with store.transaction():
        for old in store.refs("message")[: -_KEPT + 1]:
            store.delete("message", old)
        return store.create("message", values)


@call("message.destroy")
def destroy(context: Context, self: str) -> None:
    context.store.delete("message", self)


@call("message.destroy_many")
def destroy_many(context: Context, messages: list[str]) -> None:
    """All or none."""
    with context.store.transaction():
        for each in messages:
            context.store.delete("message", each)


@call("message.get_since")
def get_since(context: Context, since: str) -> dict[str, Any]:
    """Notes not older than a moment."""
    moment = _digits(since)
    return {ref: record for ref, record in context.store.views("message") if _digits(record["timestamp"]) >= moment}


@call("message.get")
def get(context: Context, cls: str, obj_uuid: str, since: str) -> dict[str, Any]:
    """Notes about one object."""
    wanted = (cls, obj_uuid)
    return {ref: r for ref, r in get_since(context, since).items() if (r["cls"], r["obj_uuid"]) == wanted}


def _digits(moment: str) -> str:
    return "".join(c for c in moment.split(".", maxsplit=1)[0] if c.isdigit())
