"""JSON-RPC 1.0 and 2.0 as xapi speaks them: integers are numbers, a call has an id (a number or a string), no batches.

A 1.0 failure is {"result": null, "error": [code, parameters…]}, a 2.0 one {"error": {"code": 1, "message": CODE,
"data": [parameters…]}}. What is no call is `Malformed`, which the edge answers with HTTP 500, as xapi does.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xenstack.xenapi.model import Type
from xenstack.xenapi.xmlrpc import MAX_DEPTH, MAX_VALUES, Malformed

_WRITER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Call:
    """One call, and what its answer must repeat."""

    method: str
    arguments: list[Any]
    id: int | str
    version: str


def _refuse(text: str) -> Any:
    raise Malformed(f"{text} is no JSON")


def read_call(body: bytes) -> Call:
    """The call in a body. Errors: Malformed."""
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=_refuse, parse_int=_integer)
    except (ValueError, RecursionError) as why:
        raise Malformed(f"not JSON: {str(why)[:200]}") from None
    if not isinstance(data, dict):
        raise Malformed("a call is an object")
    version = "2.0" if "jsonrpc" in data else "1.0"
    if version != data.get("jsonrpc", "1.0"):
        raise Malformed("jsonrpc must be 2.0")
    method, arguments, call_id = data.get("method"), data.get("params"), data.get("id")
    if version == "2.0" and (arguments is None or isinstance(arguments, dict)):
        arguments = [] if arguments is None else [arguments]  # named parameters are one wrong argument, as with xapi
    if not isinstance(method, str) or not isinstance(arguments, list):
        raise Malformed("a call has a method and a list of params")
    if isinstance(call_id, bool) or not isinstance(call_id, int | str):
        raise Malformed("the id must be a number or a string")
    _bounded(arguments)
    return Call(method, arguments, call_id, version)


def _integer(text: str) -> int:
    if len(text) > 40:
        raise Malformed("a number is too long")
    return int(text)


def _bounded(arguments: list[Any]) -> None:
    level: list[Any] = [arguments]
    seen = 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for each in level:
            below.extend(each.values() if isinstance(each, dict) else each)
        seen += len(below)
        level = [each for each in below if isinstance(each, dict | list)]
        if seen > MAX_VALUES:
            raise Malformed("too many values")
        if not level:
            return
    raise Malformed("nested too deep")


def plain(value: Any, of: Type) -> Any:
    """A value of a type as JSON has it: maps have text for keys, void is "", an absent option too."""
    if of.kind == "void":
        return ""
    if of.kind == "option":
        return None if value is None or value == [] else value
    return value


def success(call: Call, value: Any) -> bytes:
    """The body of an answer."""
    if call.version == "2.0":
        return _written({"jsonrpc": "2.0", "result": value, "id": call.id})
    return _written({"result": value, "error": None, "id": call.id})


def failure(call: Call, words: list[str]) -> bytes:
    """The body of an answer that tells of a failure: the code and its parameters."""
    if call.version == "2.0":
        code, *parameters = words
        return _written({"jsonrpc": "2.0", "error": {"code": 1, "message": code, "data": parameters}, "id": call.id})
    return _written({"result": None, "error": words, "id": call.id})


def _written(answer: Mapping[str, Any]) -> bytes:
    return _WRITER.encode(answer).encode("utf-8", errors="replace")
