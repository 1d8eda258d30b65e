"""The expression language of get_all_records_where and get_all_where, as xapi has it.

    true · false · not E · E and E · E or E · (E) · A = A        with A: field "name" or "text"

There is no other comparison, and no precedence but from left to right: `true or true and false` is false. Fields are
named as in xapi's database: a field of a group has two underscores (`name__label`, `VCPUs__max`), the reference is
`_ref`. Every field compares as text; a set or map is equal to nothing. Errors: InvalidValue for what is no expression,
InternalError "missing field" for a field that is not there.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from xenstack.xenapi.errors import InternalError, InvalidValue
from xenstack.xenapi.model import Class


class Row(Protocol):
    """A record as a query sees it: text by internal name, None for sets and maps."""

    def __contains__(self, name: object, /) -> bool: ...

    def __getitem__(self, name: str, /) -> str | None: ...


Test = Callable[[Row], bool]

_TOKEN = re.compile(r'[ \t\n\r]+|(true|false|not|and|or|field)(?![A-Za-z0-9_])|([()=])|"([^"\n]*)"')
_LEXING = 'Failure("lexing: empty token")'
_GRAMMAR = "Xapi_database.Db_filter_parse.MenhirBasics.Error"
_MAX_TOKENS = 2_000
_MAX_DEPTH = 100

_GROUPS = {
    "": ("name_label", "name_description"),
    "VM": ("memory_", "VCPUs_", "actions_", "PV_", "HVM_"),
    "VM_metrics": ("memory_", "VCPUs_"),
    "host": ("API_version_", "memory_"),
    "host_metrics": ("memory_",),
    "VBD": ("qos_",),
    "VIF": ("qos_",),
    "VBD_metrics": ("io_",),
    "VIF_metrics": ("io_",),
    "PIF_metrics": ("io_",),
}


def internal_name(cls: str, field: str) -> str:
    """A field's name in xapi's database, which queries and MAP_DUPLICATE_KEY use."""
    if field in _GROUPS[""]:
        return field.replace("_", "__", 1)
    for prefix in _GROUPS.get(cls, ()):
        if field.startswith(prefix):
            return f"{prefix}_{field[len(prefix) :]}"
    return field


def rows(cls: Class) -> Callable[[str, Mapping[str, Any]], Row]:
    """How records of a class look to a query."""
    names = {internal_name(cls.name, name): name for name in cls.fields}
    return lambda ref, record: _Record(names, ref, record)


class _Record:
    """One record; only the fields that are asked for become text."""

    __slots__ = ("_names", "_record", "_ref")

    def __init__(self, names: Mapping[str, str], ref: str, record: Mapping[str, Any]) -> None:
        self._names = names
        self._ref = ref
        self._record = record

    def __contains__(self, name: object) -> bool:
        return name == "_ref" or name in self._names

    def __getitem__(self, name: str) -> str | None:
        if name == "_ref":
            return self._ref
        value = self._record[self._names[name]]
        if isinstance(value, bool):
            return "true" if value else "false"
        return None if isinstance(value, list | dict) else str(value)


def parse(text: str) -> Test:
    """The test that an expression makes. Errors: InvalidValue."""
    reader = _Reader(text)
    test = reader.expression(0)
    if reader.left():
        raise InvalidValue(text, _GRAMMAR)
    return test


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None or len(self._tokens) >= _MAX_TOKENS:
                raise InvalidValue(text, _LEXING)
            at = match.end()
            if match[3] is not None:
                self._tokens.append(("text", match[3]))
            elif match[1] or match[2]:
                self._tokens.append((match[1] or match[2], ""))
        self._tokens.reverse()

    def left(self) -> bool:
        return bool(self._tokens)

    def _next(self) -> tuple[str, str]:
        if not self._tokens:
            raise InvalidValue(self._text, _GRAMMAR)
        return self._tokens.pop()

    def _peek(self) -> str:
        return self._tokens[-1][0] if self._tokens else ""

    def expression(self, depth: int) -> Test:
        test = self._term(depth)
        while self._peek() in ("and", "or"):
            test = _joined(self._next()[0], test, self._term(depth))
        return test

    def _term(self, depth: int) -> Test:
        if depth > _MAX_DEPTH:
            raise InvalidValue(self._text, _GRAMMAR)
        kind, text = self._next()
        if kind in ("true", "false"):
            return (lambda _: True) if kind == "true" else (lambda _: False)
        if kind == "not":
            inner = self._term(depth + 1)
            return lambda row: not inner(row)
        if kind == "(":
            inner = self.expression(depth + 1)
            if self._next()[0] != ")":
                raise InvalidValue(self._text, _GRAMMAR)
            return inner
        if kind not in ("field", "text"):
            raise InvalidValue(self._text, _GRAMMAR)
        one = self._atom(kind, text)
        if self._next()[0] != "=":
            raise InvalidValue(self._text, _GRAMMAR)
        other = self._atom(*self._next())
        return lambda row: (value := one(row)) is not None and value == other(row)

    def _atom(self, kind: str, text: str) -> Callable[[Row], str | None]:
        if kind == "text":
            return lambda _: text
        name_kind, name = self._next() if kind == "field" else ("", "")
        if name_kind != "text":
            raise InvalidValue(self._text, _GRAMMAR)

        def value(row: Row) -> str | None:
            if name not in row:
                raise InternalError("missing field", (name, ""))
            return row[name]

        return value


def _joined(word: str, one: Test, other: Test) -> Test:
    if word == "and":
        return lambda row: one(row) and other(row)
    return lambda row: one(row) or other(row)
