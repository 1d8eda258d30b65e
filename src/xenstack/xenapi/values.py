"""From what a client sent to what the data model wants: checking and converting arguments.

A wire codec gives plain Python (None, bool, int, float, str, list, dict, DateTime); `decode` makes of it a value of one
of the model's types or raises InternalError in xapi's words, which clients see and some compare. Rules, as xapi has
them: 64-bit integers come as integers or as strings, also "0x10"; floats come as floats, integers or strings; a
bool is a bool and nothing else; enum words in any case; fields of a record that the class does not have are ignored.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from xenstack.xenapi.errors import InternalError
from xenstack.xenapi.model import Model, Type

_INT = re.compile(r"([-+]?)(0[xX][0-9a-fA-F][0-9a-fA-F_]*|0[oO][0-7][0-7_]*|0[bB][01][01_]*|[0-9][0-9_]*)")
_DATE = re.compile(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}T[0-9]{2}:?[0-9]{2}:?[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:?[0-9]{2})?")
_MIN, _MAX, _WRAP = -(1 << 63), (1 << 63) - 1, 1 << 64
_SHOWN = 200  # characters of a wrong value that an error repeats


class DateTime(str):
    """A date and time in ISO 8601, as the wire had it."""

    __slots__ = ()


def shown(value: Any) -> str:
    """A value as xapi's errors write it: I(1), S(x), [S(a)], {a:S(b)}."""
    if value is None:
        return "N"
    if isinstance(value, bool):
        return f"B({'true' if value else 'false'})"
    if isinstance(value, int):
        return f"I({value})"
    if isinstance(value, float):
        return f"F({value:.16g})"
    if isinstance(value, DateTime):
        return f"D({value})"
    if isinstance(value, list):
        return f"[{';'.join(map(shown, value))}]"
    if isinstance(value, dict):
        return "{" + ";".join(f"{k}:{shown(v)}" for k, v in value.items()) + "}"
    return f"S({value})"


def _failure(text: str) -> InternalError:
    quoted = text[:_SHOWN].replace("\\", "\\\\").replace('"', '\\"')
    return InternalError(f'Failure("{quoted}")')


def _expected(what: str, value: Any) -> InternalError:
    return _failure(f"Expected {what}, got '{shown(value)}'")


def decode(value: Any, of: Type, model: Model) -> Any:
    """The value as a value of the type. Errors: InternalError."""
    read = _READERS.get(of.kind)
    if read is None:
        raise InternalError(f"values of type {of} cannot be sent")
    return read(value, of, model)


def decode_record(value: Any, cls: str, model: Model) -> dict[str, Any]:
    """The fields that a client gave for a new object: those of the class that a client may give.

    Errors: InternalError, also for a required field that is missing.
    """
    if not isinstance(value, dict):
        raise _failure(f"Expecting Rpc.Dict, but found '{shown(value)}'")
    fields = model.classes[cls].fields.values()
    given = {}
    for each in fields:
        if each.qualifier == "RO/runtime":
            continue
        if each.name in value:
            given[each.name] = decode(value[each.name], each.type, model)
        elif each.required:
            raise InternalError(f'Server_helpers.Dispatcher_FieldNotFound("{each.name}")')
    return given


def _string(value: Any, *_: Any) -> str:
    if not isinstance(value, str) or isinstance(value, DateTime):
        raise _expected("string", value)
    return value


def _int(value: Any, *_: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str) or isinstance(value, DateTime):
        raise _expected("int64", value)
    number = _parsed(value) if isinstance(value, str) else value
    if number is None or not _MIN <= number <= _MAX:
        raise _failure("Int64.of_string")
    return number


def _parsed(text: str) -> int | None:
    match = _INT.fullmatch(text) if len(text) <= 80 else None
    if match is None:
        return None
    digits = match[2].replace("_", "")
    decimal = not digits[1:2].isalpha()
    number = int(digits, 10) if decimal else int(digits, 0)
    if not decimal and _MAX < number < _WRAP:
        number -= _WRAP  # OCaml reads 0xffffffffffffffff as -1
    return -number if match[1] == "-" else number


def _bool(value: Any, *_: Any) -> bool:
    if not isinstance(value, bool):
        raise _expected("bool", value)
    return value


def _float(value: Any, *_: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str) or isinstance(value, DateTime):
        raise _expected("float", value)
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise _failure("float_of_string") from None


def _enum(value: Any, of: Type, model: Model) -> str:
    text = _string(value)
    words = model.enums[of.name]
    if text in words:
        return text
    folded = text.lower()
    for word in words:
        if word.lower() == folded:
            return word
    raise _failure("Unknown tag/contents")


def _datetime(value: Any, *_: Any) -> str:
    if not isinstance(value, str):
        raise _expected("datetime", value)
    if not _DATE.fullmatch(value):
        raise InternalError(f'Failure("date.ml:of_iso8601: {value[:_SHOWN]} is no date")')
    return str(value)


def _map(value: Any, of: Type, model: Model) -> dict[Any, Any]:
    assert of.key is not None
    assert of.item is not None
    if not isinstance(value, dict):
        raise _failure(f"Expecting Rpc.Dict, but found '{shown(value)}'")
    if "" in value:
        raise InternalError("Db_exn.Empty_key_in_map")
    decoded: Mapping[Any, Any] = {decode(k, of.key, model): decode(v, of.item, model) for k, v in value.items()}
    return dict(decoded)


def _set(value: Any, of: Type, model: Model) -> list[Any]:
    assert of.item is not None
    if not isinstance(value, list):
        raise _failure(f"Expecting Rpc.Enum, but found '{shown(value)}'")
    return [decode(each, of.item, model) for each in value]


def _option(value: Any, of: Type, model: Model) -> Any:
    assert of.item is not None
    return value if value is None else decode(value, of.item, model)


_READERS: dict[str, Callable[[Any, Type, Model], Any]] = {
    "string": _string,
    "ref": _string,
    "int": _int,
    "bool": _bool,
    "float": _float,
    "enum": _enum,
    "datetime": _datetime,
    "set": _set,
    "map": _map,
    "option": _option,
    "record": lambda value, of, model: decode_record(value, of.name, model),
}
