"""The error tree: every class travels and comes back the same; what is unknown keeps every word."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenstack.xenapi import errors
from xenstack.xenapi.errors import CODES, UnknownFailure, XenAPIError


def sample(cls: type[XenAPIError]) -> XenAPIError:
    names = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    return cls(*names)


@pytest.mark.parametrize("cls", CODES.values(), ids=lambda c: c.__name__)
def test_every_class_survives_the_wire(cls: type[XenAPIError]) -> None:
    sent = sample(cls)
    back = XenAPIError.from_wire(sent.wire())
    assert type(back) is cls
    assert back.wire() == sent.wire()
    assert str(back)


@pytest.mark.parametrize("cls", CODES.values(), ids=lambda c: c.__name__)
def test_a_known_code_with_other_parameters_keeps_every_word(cls: type[XenAPIError]) -> None:
    words = [*sample(cls).wire(), "one more", "and another"]
    back = XenAPIError.from_wire(words)
    assert back.wire() == words
    assert isinstance(back, UnknownFailure) or cls is errors.InternalError


def test_backend_failures_keep_their_number() -> None:
    back = XenAPIError.from_wire(["SR_BACKEND_FAILURE_79", "", "shrinking not allowed", ""])
    assert isinstance(back, errors.SrBackendFailure)
    assert back.number == 79
    assert back.wire() == ["SR_BACKEND_FAILURE_79", "", "shrinking not allowed", ""]


def test_numbers_become_text_on_the_wire() -> None:
    assert errors.SrFull(10, 5).wire() == ["SR_FULL", "10", "5"]  # type: ignore[arg-type]


def test_an_error_can_be_caught_compared_and_put_into_sets() -> None:
    one = errors.VmBadPowerState("ref", "halted", "running")
    assert {one, errors.SrNotEmpty()}
    with pytest.raises(errors.VmBadPowerState) as caught:
        raise one
    assert caught.value.actual == "running"


@given(st.lists(st.text(max_size=20), max_size=6))
def test_any_words_make_an_error_with_the_same_words(words: list[str]) -> None:
    assert XenAPIError.from_wire(words).wire() == (words or [""])
