"""XML-RPC and JSON-RPC: hostile bodies are refused, values come through, a standard client agrees with us."""

import contextlib
import json
import xmlrpc.client
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenstack.xenapi import jsonrpc
from xenstack.xenapi import xmlrpc as ours
from xenstack.xenapi.model import load, parse_type
from xenstack.xenapi.values import DateTime
from xenstack.xenapi.xmlrpc import Malformed

MODEL = load()
WRITER = ours.Writer(MODEL)


def answered(value: Any, kind: str) -> Any:
    body = ours.success(WRITER.value(value, parse_type(kind)))
    (envelope,), _ = xmlrpc.client.loads(body.decode())
    assert envelope["Status"] == "Success"
    return envelope["Value"]


@pytest.mark.parametrize(
    ("value", "kind", "seen"),
    [
        (1 << 40, "int", str(1 << 40)),
        (True, "bool", True),
        (1.5, "float", 1.5),
        ("<&>\"'é世", "string", "<&>\"'é世"),
        (["OpaqueRef:x"], "VM ref set", ["OpaqueRef:x"]),
        ({"a": "b"}, "(string -> string) map", {"a": "b"}),
        ({0: 0.5}, "(int -> float) map", {"0": 0.5}),
        (None, "void", ""),
        ("a\r\nb\tc", "string", "a\r\nb\tc"),
        ("nul\x00 bell\x07", "string", "nul? bell?"),
        ({"a&b<": "x"}, "(string -> string) map", {"a&b<": "x"}),
    ],
)
def test_values_as_a_standard_client_reads_them(value: Any, kind: str, seen: Any) -> None:
    assert answered(value, kind) == seen


def test_datetimes_and_records() -> None:
    record = {f.name: MODEL.default("VM", f.name) for f in MODEL.record_fields("VM")}
    back = answered(record, "VM record")
    assert set(back) == set(record)
    assert back["snapshot_time"] == xmlrpc.client.DateTime("19700101T00:00:00Z")
    assert back["memory_static_max"] == "0"
    assert back["is_a_template"] is False


def test_failures_and_bare_answers() -> None:
    (envelope,), _ = xmlrpc.client.loads(ours.failure(["A_CODE", "<x>"]).decode())
    assert envelope == {"Status": "Failure", "ErrorDescription": ["A_CODE", "<x>"]}
    assert xmlrpc.client.loads(ours.bare(["VM.start"]).decode())[0] == (["VM.start"],)


SENT = st.recursive(
    st.booleans()
    | st.integers(-(1 << 31), (1 << 31) - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=5), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(st.lists(SENT, max_size=4))
def test_what_a_standard_client_writes_is_read(arguments: list[Any]) -> None:
    body = xmlrpc.client.dumps(tuple(arguments), "VM.start").encode()
    assert ours.read_call(body) == ("VM.start", arguments)


CALL = (
    "<?xml version='1.0'?><methodCall><methodName>x.y</methodName>"
    "<params><param><value>{}</value></param></params></methodCall>"
)


@pytest.mark.parametrize(
    ("inner", "value"),
    [
        ("<i8>5</i8>", 5),
        ("bare text", "bare text"),
        ("<string></string>", ""),
        ("", ""),
        ("<nil/>", None),
        ("<dateTime.iso8601>20200101T00:00:00Z</dateTime.iso8601>", DateTime("20200101T00:00:00Z")),
        ("<struct/>", {}),
        ("<array><data/></array>", []),
        (" <i4>1</i4> ", 1),
    ],
)
def test_forms_that_other_clients_send(inner: str, value: Any) -> None:
    assert ours.read_call(CALL.format(inner).encode()) == ("x.y", [value])


BOMB = "<!DOCTYPE a [<!ENTITY b 'bbbbbbbbbb'>]>"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "hello",
        "<?xml version='1.0'?><a/>",
        "<methodCall><methodName>x</methodName></methodCall>",
        "<methodCall><params/></methodCall>",
        "<methodCall><methodName/><params/></methodCall>",
        f"{BOMB}{CALL.format('&b;')[21:]}",
        "<!DOCTYPE methodCall SYSTEM 'file:///etc/passwd'>" + CALL.format("x")[21:],
        CALL.format("&undefined;"),
        CALL.format("<i4>x</i4>"),
        CALL.format("<boolean>yes</boolean>"),
        CALL.format("<double>z</double>"),
        CALL.format("<i4>1</i4><i4>2</i4>"),
        CALL.format("<base64>AA==</base64>"),
        CALL.format("<value>x</value>"),
        CALL.format("<struct><member><name></name><value>x</value></member></struct>"),
        CALL.format("<struct><member><value>x</value></member></struct>"),
        CALL.format(f"<struct>{'<member><name>a</name><value>x</value></member>' * 2}</struct>"),
        CALL.format("<array><data>" * 70 + "</data></array>" * 70),
        CALL.format("<array><data><value>" * 100),
        CALL.format("<array><data>" + "<value/>" * (ours.MAX_VALUES + 1) + "</data></array>"),
        CALL.format("<array><data><value>" * 65 + "</value></data></array>" * 65),
        CALL.format("<i4>" + "9" * 5000 + "</i4>"),
    ],
)
def test_malformed_and_hostile_bodies_are_refused(body: str) -> None:
    with pytest.raises(Malformed):
        ours.read_call(body.encode())


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b"<?xml version='1.0' encoding='ebcdic-none'?><a/>", b"\x00" * 100])
def test_bodies_that_are_no_text_are_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        ours.read_call(body)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_call_or_malformed(body: bytes) -> None:
    for read in (ours.read_call, jsonrpc.read_call):
        with contextlib.suppress(Malformed):
            read(body)


GOOD = CALL.format("<struct><member><name>a</name><value><i4>1</i4></value></member></struct>").encode()


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=3))
def test_a_damaged_call_is_a_call_or_malformed(at: int, bytes_: bytes) -> None:
    with contextlib.suppress(Malformed):
        ours.read_call(GOOD[:at] + bytes_ + GOOD[at + len(bytes_) :])


# ---- JSON


def call(**fields: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": "VM.start", "params": [1, "a"], "id": 7, **fields}).encode()


def test_json_calls_and_answers() -> None:
    two = jsonrpc.read_call(call())
    assert (two.method, two.arguments, two.id, two.version) == ("VM.start", [1, "a"], 7, "2.0")
    assert json.loads(jsonrpc.success(two, {"é": 1 << 40})) == {"jsonrpc": "2.0", "result": {"é": 1 << 40}, "id": 7}
    failed = {"code": 1, "message": "CODE", "data": ["p"]}
    assert json.loads(jsonrpc.failure(two, ["CODE", "p"])) == {"jsonrpc": "2.0", "error": failed, "id": 7}
    one = jsonrpc.read_call(json.dumps({"method": "a.b", "params": [], "id": "x"}).encode())
    assert json.loads(jsonrpc.success(one, "")) == {"result": "", "error": None, "id": "x"}
    assert json.loads(jsonrpc.failure(one, ["CODE", "p"])) == {"result": None, "error": ["CODE", "p"], "id": "x"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{not json",
        b"[]",
        b"3",
        b"null",
        b'"x"',
        call(id=None),
        call(id=1.5),
        call(id=[1]),
        call(id=True),
        call(method=3),
        call(params="x"),
        call(jsonrpc="3.0"),
        call(jsonrpc=2.0),
        call(jsonrpc="1.0"),
        call() + b" junk",
        call()[:-1],
        b'{"jsonrpc": "2.0", "params": [], "id": 1}',
        b'{"method": "a.b", "id": 1}',
        b'{"method":"a.b","params":' + b"[" * 5000 + b"]" * 5000 + b',"id":1}',
        b'{"method":"a.b","params":' + b"[" * 70 + b"]" * 70 + b',"id":1}',
        b'{"method":"a.b","params":[' + b"9" * 5000 + b'],"id":1}',
        b'{"method":"a.b","params":[NaN],"id":1}',
        b'{"method":"a.b","params":["' + b"\xff" + b'"],"id":1}',
    ],
)
def test_what_is_no_json_call_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        jsonrpc.read_call(body)


def test_named_parameters_are_one_argument_and_none_are_none() -> None:
    assert jsonrpc.read_call(call(params={"session_id": "s"})).arguments == [{"session_id": "s"}]
    assert jsonrpc.read_call(b'{"jsonrpc":"2.0","method":"a.b","id":1}').arguments == []
