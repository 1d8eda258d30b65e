"""XML-RPC as xapi speaks it: reading calls from anybody, writing answers by the data model's types.

Reading: a body is hostile. No DTD, no entities but XML's own five, at most MAX_DEPTH nested values and
MAX_VALUES values; what is not a methodCall is `Malformed`, which the edge answers with HTTP 500, as xapi does.

Writing: 64-bit integers are strings of digits, datetimes dateTime.iso8601, references and enum words strings, sets
arrays, maps structs with their keys as text, void the empty string.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.parsers import expat

from xenstack.xenapi.model import Model, Type
from xenstack.xenapi.values import DateTime

MAX_DEPTH = 64
MAX_VALUES = 200_000

_HEAD = '<?xml version="1.0"?><methodResponse><params><param>'
_TAIL = "</param></params></methodResponse>"
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_INT = re.compile(r"\s*[+-]?[0-9]{1,30}\s*")
_SCALARS = frozenset(("string", "int", "i4", "i8", "boolean", "double", "dateTime.iso8601", "nil"))
_PARENTS = {
    "methodCall": frozenset(("",)),
    "methodName": frozenset(("methodCall",)),
    "params": frozenset(("methodCall",)),
    "param": frozenset(("params",)),
    "value": frozenset(("param", "data", "member")),
    "array": frozenset(("value",)),
    "data": frozenset(("array",)),
    "struct": frozenset(("value",)),
    "member": frozenset(("struct",)),
    "name": frozenset(("member",)),
    **{scalar: frozenset(("value",)) for scalar in _SCALARS},
}


class Malformed(Exception):
    """The body is no call in this protocol."""


def _scalar(kind: str, text: str) -> Any:
    if kind == "string":
        return text
    if kind in ("int", "i4", "i8"):
        if not _INT.fullmatch(text):
            raise Malformed(f"not an integer: {text[:50]!r}")
        return int(text)
    if kind == "boolean":
        if text.strip() not in ("0", "1"):
            raise Malformed(f"not a boolean: {text[:50]!r}")
        return text.strip() == "1"
    if kind == "double":
        try:
            return float(text)
        except ValueError:
            raise Malformed(f"not a double: {text[:50]!r}") from None
    return None if kind == "nil" else DateTime(text.strip())


class _Reader:
    """One body, from expat's events to a method and its arguments."""

    def __init__(self) -> None:
        self.method: str | None = None
        self.arguments: list[Any] | None = None
        self._path: list[str] = [""]
        self._text: list[str] = []
        self._open: list[list[Any] | dict[str, Any]] = []  # arrays and structs around the present value
        self._names: list[str] = []
        self._values: list[list[Any]] = []  # what each open <value> holds: one item once it is known
        self._count = 0

    def start(self, tag: str, _attributes: Any) -> None:
        parents = _PARENTS.get(tag)
        if parents is None or self._path[-1] not in parents:
            raise Malformed(f"<{tag[:50]}> in <{self._path[-1]}>")
        self._path.append(tag)
        self._text.clear()
        if tag == "params":
            if self.method is None or self.arguments is not None:
                raise Malformed("params without a methodName")
            self.arguments = []
        elif tag == "value":
            self._count += 1
            if self._count > MAX_VALUES or len(self._values) >= MAX_DEPTH:
                raise Malformed("too many values, or nested too deep")
            self._values.append([])
        elif tag in ("array", "struct"):
            self._open.append([] if tag == "array" else {})
        elif tag == "member":
            self._names.append("")

    def text(self, data: str) -> None:
        self._text.append(data)

    def end(self, tag: str) -> None:
        self._path.pop()
        text = "".join(self._text)
        self._text.clear()
        if tag == "methodName":
            if self.method is not None:
                raise Malformed("two methodNames")
            self.method = text
        elif tag == "name":
            if not text:
                raise Malformed("a member without a name")
            self._names[-1] = text
        elif tag in _SCALARS:
            self._hold(_scalar(tag, text))
        elif tag in ("array", "struct"):
            self._hold(self._open.pop())
        elif tag == "value":
            held = self._values.pop()
            self._take(held[0] if held else text)
        elif tag == "member":
            self._names.pop()

    def _hold(self, value: Any) -> None:
        if self._values[-1]:
            raise Malformed("two types in one value")
        self._values[-1].append(value)

    def _take(self, value: Any) -> None:
        where = self._path[-1]
        if where == "param":
            assert self.arguments is not None
            self.arguments.append(value)
            return
        around = self._open[-1]
        if isinstance(around, list):
            around.append(value)
        elif not self._names[-1] or self._names[-1] in around:
            raise Malformed("a member without a name, or twice")
        else:
            around[self._names[-1]] = value


def _refuse(*_: Any) -> int:
    raise Malformed("a DTD or entity")


def read_call(body: bytes) -> tuple[str, list[Any]]:
    """The method and arguments of a call. Errors: Malformed."""
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    parser.ExternalEntityRefHandler = _refuse
    try:
        parser.Parse(body, True)
    except expat.ExpatError as why:
        raise Malformed(str(why)) from None
    except (ValueError, LookupError) as why:  # an encoding that expat or Python does not know
        raise Malformed(str(why)) from None
    if not reader.method or reader.arguments is None:
        raise Malformed("no methodName, or no params")
    return reader.method, reader.arguments


# ---- writing


def escape(text: str) -> str:
    """Text for an element; characters that XML cannot have become question marks."""
    if "&" in text:
        text = text.replace("&", "&amp;")
    if "<" in text or ">" in text:
        text = text.replace("<", "&lt;").replace(">", "&gt;")
    if not text.isprintable():
        text = _FORBIDDEN.sub("?", text).replace("\r", "&#13;")
    return text


def _text(value: Any) -> str:
    return f"<value>{escape(str(value))}</value>"


def _bool(value: Any) -> str:
    return "<value><boolean>1</boolean></value>" if value else "<value><boolean>0</boolean></value>"


def _double(value: Any) -> str:
    return f"<value><double>{value:.17g}</double></value>"


def _date(value: Any) -> str:
    return f"<value><dateTime.iso8601>{escape(value)}</dateTime.iso8601></value>"


def _any(value: Any) -> str:
    """A value that no type describes: as Python has it, integers as <i4>."""
    if isinstance(value, bool):
        return _bool(value)
    if isinstance(value, int):
        return f"<value><i4>{value}</i4></value>"
    if isinstance(value, float):
        return _double(value)
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Mapping):
        return _struct((str(k), _any(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return _array(map(_any, value))
    return _text("" if value is None else value)


def _array(items: Iterable[str]) -> str:
    return f"<value><array><data>{''.join(items)}</data></array></value>"


def _struct(members: Iterable[tuple[str, str]]) -> str:
    inner = "".join([f"<member><name>{escape(name)}</name>{value}</member>" for name, value in members])
    return f"<value><struct>{inner}</struct></value>"


@dataclass(frozen=True, slots=True)
class Raw:
    """A value that is written already."""

    text: str


class Writer:
    """Writes values by their types. One per model; keeps what it learnt about each type."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._of: dict[Type, Callable[[Any], str]] = {}

    def value(self, value: Any, of: Type) -> str:
        """`<value>…</value>`."""
        write = self._of.get(of) or self._learn(of)
        return write(value)

    def record(self, cls: str, record: Mapping[str, Any]) -> str:
        """A whole record."""
        return self.value(record, Type("record", cls))

    def _learn(self, of: Type) -> Callable[[Any], str]:
        write: Callable[[Any], str]
        match of.kind:
            case "string" | "int" | "ref" | "enum" | "void":
                write = _text if of.kind != "void" else _void
            case "bool":
                write = _bool
            case "float":
                write = _double
            case "datetime":
                write = _date
            case "set" | "option":
                write = self._array_of(of)
            case "map":
                write = self._map_of(of)
            case "record":
                write = self._record_of(of.name)
            case _:
                write = _any
        self._of[of] = write
        return write

    def _array_of(self, of: Type) -> Callable[[Any], str]:
        assert of.item is not None
        item = self._learn(of.item)
        if of.kind == "option":
            return lambda value: _text("") if value is None or value == [] else item(value)
        return lambda value: _array([item(each) for each in value])

    def _map_of(self, of: Type) -> Callable[[Any], str]:
        assert of.item is not None
        item = self._learn(of.item)
        return lambda value: _struct((str(k), item(v)) for k, v in value.items())

    def _record_of(self, cls: str) -> Callable[[Any], str]:
        members = [
            (f.name, f"<member><name>{f.name}</name>", self._learn(f.type)) for f in self._model.record_fields(cls)
        ]

        def write(record: Mapping[str, Any]) -> str:
            parts = [head + item(record[name]) + "</member>" for name, head, item in members if name in record]
            return f"<value><struct>{''.join(parts)}</struct></value>"

        return write


def _void(_: Any) -> str:
    return "<value></value>"


def success(value: str) -> bytes:
    """The body of an answer that holds a written value."""
    return (
        f"{_HEAD}<value><struct><member><name>Status</name><value>Success</value></member>"
        f"<member><name>Value</name>{value}</member></struct></value>{_TAIL}"
    ).encode()


def failure(words: list[str]) -> bytes:
    """The body of an answer that tells of a failure: the code and its parameters."""
    return (
        f"{_HEAD}<value><struct><member><name>Status</name><value>Failure</value></member>"
        f"<member><name>ErrorDescription</name>{_array(map(_text, words))}</member></struct></value>{_TAIL}"
    ).encode()


def bare(value: Any) -> bytes:
    """The body of an answer without Status and Value: system.listMethods has none."""
    return f"{_HEAD}{_any(value)}{_TAIL}".encode()
