"""Arguments: what xapi takes is taken, what it refuses is refused in its words."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenstack.xenapi.errors import InternalError
from xenstack.xenapi.model import load, parse_type
from xenstack.xenapi.values import DateTime, decode, decode_record, shown

MODEL = load()


def read(value: Any, text: str) -> Any:
    return decode(value, parse_type(text), MODEL)


@pytest.mark.parametrize(
    ("sent", "kind", "got"),
    [
        (5, "int", 5),
        ("5", "int", 5),
        ("-1", "int", -1),
        ("0x10", "int", 16),
        ("0b11", "int", 3),
        ("0o17", "int", 15),
        ("0xffffffffffffffff", "int", -1),
        ("1_000", "int", 1000),
        ("09", "int", 9),
        ("9223372036854775807", "int", (1 << 63) - 1),
        ("1.5", "float", 1.5),
        (2, "float", 2.0),
        (1.5, "float", 1.5),
        (True, "bool", True),
        ("Destroy", "enum on_normal_exit", "destroy"),
        ("running", "enum vm_power_state", "Running"),
        (["a", "a"], "string set", ["a", "a"]),
        ({"1": 1.0}, "(int -> float) map", {1: 1.0}),
        ("20200101T00:00:00Z", "datetime", "20200101T00:00:00Z"),
        (DateTime("20200101T00:00:00Z"), "datetime", "20200101T00:00:00Z"),
    ],
)
def test_taken(sent: Any, kind: str, got: Any) -> None:
    assert read(sent, kind) == got


@pytest.mark.parametrize(
    ("sent", "kind", "word"),
    [
        (1, "VM ref", "Expected string, got 'I(1)'"),
        (True, "string", "Expected string, got 'B(true)'"),
        ({"a": "b"}, "string", "Expected string, got '{a:S(b)}'"),
        (None, "string", "Expected string, got 'N'"),
        ("x", "int", "Int64.of_string"),
        ("", "int", "Int64.of_string"),
        (" 7 ", "int", "Int64.of_string"),
        ("99999999999999999999", "int", "Int64.of_string"),
        (1 << 63, "int", "Int64.of_string"),
        (1.0, "int", "Expected int64, got 'F(1)'"),
        (True, "int", "Expected int64"),
        ("true", "bool", "Expected bool, got 'S(true)'"),
        (0, "bool", "Expected bool, got 'I(0)'"),
        ("x", "float", "float_of_string"),
        ("nothing", "enum vbd_mode", "Unknown tag/contents"),
        ("", "enum vbd_mode", "Unknown tag"),
        ("a", "string set", "Expecting Rpc.Enum, but found 'S(a)'"),
        ([1], "string set", "Expected string, got 'I(1)'"),
        ([], "(string -> string) map", "Expecting Rpc.Dict, but found '[]'"),
        ({"": "x"}, "(string -> string) map", "Empty_key_in_map"),
        ("yesterday", "datetime", "no date"),
        ("x", "VM record", "Expecting Rpc.Dict"),
    ],
)
def test_refused(sent: Any, kind: str, word: str) -> None:
    with pytest.raises(InternalError) as caught:
        read(sent, kind)
    assert word in caught.value.message


def test_a_record_needs_what_the_model_requires_and_ignores_what_it_does_not_know() -> None:
    record = {"value": "secret", "nothing": "x", "uuid": "mine"}
    assert decode_record(record, "secret", MODEL) == {"value": "secret"}
    with pytest.raises(InternalError, match=r'Dispatcher_FieldNotFound\("value"\)'):
        decode_record({}, "secret", MODEL)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
KINDS = sorted({str(p.type) for m in MODEL.messages.values() for p in m.parameters})


@given(ANYTHING, st.sampled_from(KINDS))
def test_nothing_but_a_promised_error_comes_of_anything(value: Any, kind: str) -> None:
    try:
        read(value, kind)
    except InternalError as why:
        message = why.message
    else:
        message = ""
    assert len(message) < 400
    assert shown(value)
