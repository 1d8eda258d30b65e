"""The data model of XenAPI: classes, fields, messages, enums and relations, read from `datamodel.json`.

The file is data, not code: names, types, qualifiers, signatures, roles and lifecycle states as xapi publishes them.
Three things in it are ours: `default` of a field (what a new record holds unless told otherwise; without one
the type's empty value), `required` (xapi refuses to create a record without it), and `relations`:

    [child, field, parent, set]   parent.set is kept as the set of all children whose field points to the parent.

Rules: nothing here knows a wire format or a server. A type is parsed once, however often it is used.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

NULL = "OpaqueRef:NULL"
EPOCH = "19700101T00:00:00Z"

_WORD = re.compile(r"->|[()]|[^\s()]+")


@dataclass(frozen=True, slots=True)
class Type:
    """One type. `kind` is string, int, float, bool, datetime, void, ref, enum, record, set, map, option or other.

    `name` is the class of a ref or record, or the name of an enum; `key` and `item` are the parts of a map,
    `item` is what a set holds.
    """

    kind: str
    name: str = ""
    key: "Type | None" = None
    item: "Type | None" = None

    def __str__(self) -> str:
        match self.kind:
            case "ref" | "record":
                return f"{self.name} {self.kind}"
            case "enum":
                return f"enum {self.name}"
            case "set" | "option":
                return f"{self.item} {self.kind}"
            case "map":
                return f"({self.key} -> {self.item}) map"
            case "other":
                return self.name
        return self.kind


@cache
def parse_type(text: str) -> Type:
    """The type that `text` names, in the notation of xapi's published data model. Raises ValueError."""
    if text in ("an event batch", "<class> record"):
        return Type("other", text)
    words = _WORD.findall(text)
    parsed, rest = _parse(words)
    if rest:
        raise ValueError(f"not a type: {text!r}")
    return parsed


def _parse(words: list[str]) -> tuple[Type, list[str]]:
    if not words:
        raise ValueError("a type ends early")
    head, *rest = words
    if head == "(":
        key, rest = _parse(rest)
        if rest[:1] != ["->"]:
            raise ValueError("a map without ->")
        item, rest = _parse(rest[1:])
        if rest[:2] != [")", "map"]:
            raise ValueError("a map without its end")
        parsed, rest = Type("map", key=key, item=item), rest[2:]
    elif head == "enum" and rest:
        parsed, rest = Type("enum", rest[0]), rest[1:]
    elif rest[:1] in (["ref"], ["record"]):
        parsed, rest = Type(rest[0], head), rest[1:]
    elif head in ("string", "int", "float", "bool", "datetime", "void"):
        parsed = Type(head)
    else:
        raise ValueError(f"not a type: {head!r}")
    while rest[:1] in (["set"], ["option"]):
        parsed, rest = Type(rest[0], item=parsed), rest[1:]
    return parsed, rest


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a class. `qualifier` is RW, RO/constructor (given to create) or RO/runtime (the server's)."""

    name: str
    type: Type
    qualifier: str
    state: str
    since: str
    default: Any = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a message."""

    name: str
    type: Type
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One call. `parameters` are without the session; `needs_session` is False for the logins only.

    Implicit messages follow from the fields; the others are written by hand.
    """

    cls: str
    name: str
    result: Type
    parameters: tuple[Parameter, ...]
    roles: tuple[str, ...]
    implicit: bool
    state: str
    errors: tuple[str, ...]
    needs_session: bool = True

    @property
    def full_name(self) -> str:
        """As on the wire: `VM.start`."""
        return f"{self.cls}.{self.name}"


@dataclass(frozen=True, slots=True)
class Relation:
    """`parent.many` is the set of the children whose `one` (a ref or a set of refs) holds the parent."""

    child: str
    one: str
    parent: str
    many: str


@dataclass(frozen=True, slots=True)
class Class:
    """One class of objects."""

    name: str
    state: str
    fields: Mapping[str, Field]
    messages: Mapping[str, Message]

    @property
    def has_records(self) -> bool:
        """Whether objects of the class exist: their uuid can be asked for."""
        return "uuid" in self.fields and "get_record" in self.messages


@dataclass(frozen=True, slots=True)
class Model:
    """The whole declaration."""

    classes: Mapping[str, Class]
    enums: Mapping[str, tuple[str, ...]]
    messages: Mapping[str, Message]
    relations: tuple[Relation, ...]
    parents: Mapping[str, tuple[Relation, ...]]  # by child class: whose sets its fields feed
    children: Mapping[str, tuple[Relation, ...]]  # by parent class: which of its sets are kept
    lower: Mapping[str, str]  # class names by their lower-case form, as events have them
    _empty: dict[Type, Any] = field(default_factory=dict)

    def default(self, cls: str, name: str) -> Any:
        """What the field of a new record holds; a fresh list or dict each time."""
        declared = self.classes[cls].fields[name]
        value = self.empty(declared.type) if declared.default is None else declared.default
        return value.copy() if isinstance(value, list | dict) else value

    def empty(self, of: Type) -> Any:
        """The type's empty value: "", 0, False, the null reference, an enum's first word, …"""
        match of.kind:
            case "int":
                return 0
            case "float":
                return 0.0
            case "bool":
                return False
            case "datetime":
                return EPOCH
            case "ref":
                return NULL
            case "enum":
                return self.enums[of.name][0]
            case "set" | "option":
                return []
            case "map" | "record" | "other":
                return {}
        return ""

    def record_fields(self, cls: str) -> Iterator[Field]:
        """The fields of a class in the declaration's order."""
        return iter(self.classes[cls].fields.values())


def _class(row: Mapping[str, Any], roles: list[tuple[str, ...]]) -> Class:
    fields = {}
    for name, kind, qualifier, state, since, *more in row["fields"]:
        options = more[0] if more else {}
        fields[name] = Field(
            name, parse_type(kind), qualifier, state, since, options.get("default"), options.get("required", False)
        )
    messages = {}
    for name, result, parameters, role, implicit, state, errors in row["messages"]:
        declared = tuple(Parameter(p[0], parse_type(p[1]), len(p) > 2) for p in parameters)
        needs_session = bool(declared) and declared[0].name == "session_id"
        messages[name] = Message(
            row["name"],
            name,
            parse_type(result),
            declared[1:] if needs_session else declared,
            roles[role],
            bool(implicit),
            state,
            tuple(errors),
            needs_session,
        )
    return Class(row["name"], row["state"], fields, messages)


@cache
def load() -> Model:
    """The declaration that is installed with this package; read once."""
    text = resources.files("xenstack.xenapi").joinpath("datamodel.json").read_text(encoding="utf-8")
    data = json.loads(text)
    roles = [tuple(each) for each in data["roles"]]
    classes = {row["name"]: _class(row, roles) for row in data["classes"]}
    relations = tuple(Relation(*each) for each in data["relations"])
    return Model(
        classes=classes,
        enums={name: tuple(words) for row in data["classes"] for name, words in row["enums"].items()},
        messages={m.full_name: m for c in classes.values() for m in c.messages.values()},
        relations=relations,
        parents={name: tuple(r for r in relations if r.child == name) for name in classes},
        children={name: tuple(r for r in relations if r.parent == name) for name in classes},
        lower={name.lower(): name for name in classes},
    )
