"""The messages that follow from the data model: records, getters, setters, maps and sets, plain objects.

`plan` compiles one message into a function of the store and the decoded arguments. Reading is quick and needs no
thread, but for whole tables; whatever writes ends in a SQLite commit and belongs into one. Classes whose objects have
side effects have handlers for create and destroy; those that are plain data (secrets, users, groups …) are served here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xenstack.host.api import query
from xenstack.host.database.store import Store
from xenstack.xenapi.errors import InternalError, MapDuplicateKey
from xenstack.xenapi.model import Message, Parameter, Type, parse_type

Run = Callable[[Store, list[Any]], Any]

_PLAIN = frozenset(
    ("secret", "user", "VM_group", "subject", "Observer", "PVS_cache_storage", "Caller", "Rate_limit", "VM_appliance")
)
"""Classes whose objects are data and nothing else: creating and destroying one has no effect beyond the record."""


@dataclass(frozen=True, slots=True)
class Implicit:
    """One message, ready to run. `quick`: may run on the event loop."""

    run: Run
    quick: bool


def hidden_messages(store: Store) -> dict[str, Message]:
    """get_all_records_where and get_all_where of every class that has get_all_records; xapi does not publish them."""
    found = {}
    for cls in store.model.classes.values():
        if "get_all_records" not in cls.messages:
            continue
        for name, result in (
            ("get_all_records_where", f"({cls.name} ref -> {cls.name} record) map"),
            ("get_all_where", f"{cls.name} ref set"),
        ):
            if name not in cls.messages and not (cls.name == "message" and name == "get_all_where"):
                roles = cls.messages["get_all_records"].roles
                expression = (Parameter("expr", Type("string")),)
                found[f"{cls.name}.{name}"] = Message(
                    cls.name, name, parse_type(result), expression, roles, True, cls.state, ()
                )
    return found


def plan(store: Store, message: Message) -> Implicit | None:
    """How to serve the message; None when it does not follow from the model."""
    cls, name = message.cls, message.name
    whole = {
        "get_record": Implicit(lambda s, a: s.view(cls, a[0]), True),
        "get_by_uuid": Implicit(lambda s, a: s.by_uuid(cls, a[0]), True),
        "get_all": Implicit(lambda s, _: s.refs(cls), True),
        "get_by_name_label": Implicit(lambda s, a: s.where(cls, name_label=a[0]), True),
        "get_all_records": Implicit(lambda s, _: dict(s.views(cls)), False),
        "get_all_records_where": Implicit(lambda s, a: dict(_matching(s, cls, a[0])), False),
        "get_all_where": Implicit(lambda s, a: [ref for ref, _ in _matching(s, cls, a[0])], False),
    }
    if name in whole:
        return whole[name]
    if name in ("create", "destroy"):
        return _constructor(cls, name) if cls in _PLAIN else None
    return _accessor(store, cls, name)


def _matching(store: Store, cls: str, expression: str) -> list[tuple[str, Any]]:
    test, row = query.parse(expression), query.rows(store.model.classes[cls])
    return [(ref, record) for ref, record in store.views(cls) if test(row(ref, record))]


def _constructor(cls: str, name: str) -> Implicit:
    if name == "create":
        return Implicit(lambda s, a: s.create(cls, a[0]), False)
    return Implicit(lambda s, a: s.delete(cls, a[0]), False)


def _accessor(store: Store, cls: str, name: str) -> Implicit | None:
    fields = store.model.classes[cls].fields
    for prefix, make in _MAKERS:
        field = name.removeprefix(prefix)
        if field != name and field in fields:
            return make(cls, field)
    return None


def _getter(cls: str, field: str) -> Implicit:
    return Implicit(lambda s, a: s.view(cls, a[0])[field], True)


def _setter(cls: str, field: str) -> Implicit:
    return Implicit(lambda s, a: s.set(cls, a[0], **{field: a[1]}), False)


def _adder_to_map(cls: str, field: str) -> Implicit:
    def run(store: Store, arguments: list[Any]) -> None:
        ref, key, value = arguments
        with store.transaction():
            held = store.get(cls, ref, field)
            if key in held:
                raise MapDuplicateKey(cls, query.internal_name(cls, field), ref, str(key))
            if key == "":
                raise InternalError("Db_exn.Empty_key_in_map")
            store.set(cls, ref, **{field: {**held, key: value}})

    return Implicit(run, False)


def _remover_from_map(cls: str, field: str) -> Implicit:
    def run(store: Store, arguments: list[Any]) -> None:
        ref, key = arguments
        with store.transaction():
            held = store.get(cls, ref, field)
            held.pop(key, None)
            store.set(cls, ref, **{field: held})

    return Implicit(run, False)


def _adder_to_set(cls: str, field: str) -> Implicit:
    def run(store: Store, arguments: list[Any]) -> None:
        ref, value = arguments
        with store.transaction():
            held = store.get(cls, ref, field)
            if value not in held:
                store.set(cls, ref, **{field: [*held, value]})

    return Implicit(run, False)


def _remover_from_set(cls: str, field: str) -> Implicit:
    def run(store: Store, arguments: list[Any]) -> None:
        ref, value = arguments
        with store.transaction():
            held = store.get(cls, ref, field)
            store.set(cls, ref, **{field: [each for each in held if each != value]})

    return Implicit(run, False)


_MAKERS: tuple[tuple[str, Callable[[str, str], Implicit]], ...] = (
    ("get_", _getter),
    ("set_", _setter),
    ("add_to_", _adder_to_map),
    ("remove_from_", _remover_from_map),
    ("add_", _adder_to_set),
    ("remove_", _remover_from_set),
)
