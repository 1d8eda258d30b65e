"""event.from over the wire."""

import threading
import time
from typing import Any

import pytest
from tests.kit.daemon import Daemon

from xenstack.xenapi import errors
from xenstack.xenapi.session import Session


def ask(session: Session, classes: list[str], token: str, timeout_s: float = 5.0) -> Any:
    return session.call("event.from", classes, token, timeout_s)


def seen(answer: Any) -> list[tuple[str, str, str]]:
    return [(e["operation"], e["class"], e["ref"]) for e in answer["events"]]


@pytest.fixture
def token(session: Session) -> str:
    return ask(session, ["secret"], "", 0.0)["token"]


def make(session: Session) -> str:
    return session.call("secret.create", {"value": "x", "other_config": {}})


def test_the_beginning_is_everything(session: Session) -> None:
    answer = ask(session, ["*"], "")
    classes = {e["class"] for e in answer["events"]}
    assert {"host", "pool", "vm", "sr", "pbd", "host_cpu"} <= classes
    assert "session" not in classes
    assert {e["operation"] for e in answer["events"]} == {"add"}
    assert answer["valid_ref_counts"]["host"] == 1
    assert set(answer["events"][0]) == {"id", "timestamp", "class", "operation", "ref", "snapshot"}


def test_add_mod_del_in_order(session: Session, token: str) -> None:
    one, two = make(session), make(session)
    middle = ask(session, ["SECRET"], token)
    assert seen(middle) == [("add", "secret", one), ("add", "secret", two)]
    session.call("secret.set_value", one, "y")
    session.call("secret.destroy", two)
    three = make(session)
    last = ask(session, ["secret"], middle["token"])
    assert seen(last) == [("add", "secret", three), ("mod", "secret", one), ("del", "secret", two)]
    assert last["events"][1]["snapshot"]["value"] == "y"
    assert "snapshot" not in last["events"][2]
    assert last["valid_ref_counts"]["secret"] == 2
    for each in (one, three):
        session.call("secret.destroy", each)


def test_one_object_and_nothing_else(session: Session, token: str) -> None:
    one, two = make(session), make(session)
    after = ask(session, [f"secret/{one}"], token)
    assert [e["ref"] for e in after["events"]] == [one]
    session.call("secret.set_value", two, "y")
    assert ask(session, [f"secret/{one}"], after["token"], 0.2)["events"] == []
    for each in (one, two):
        session.call("secret.destroy", each)


def test_an_unchanged_write_is_no_event_and_the_wait_ends_at_its_timeout(session: Session) -> None:
    one = make(session)
    token = ask(session, ["secret"], "")["token"]
    session.call("secret.set_value", one, "x")
    started = time.monotonic()
    answer = ask(session, ["secret"], token, 0.3)
    assert answer["events"] == []
    assert 0.25 < time.monotonic() - started < 3.0
    session.call("secret.destroy", one)


def test_a_waiter_wakes_at_a_change(host: Daemon, session: Session, token: str) -> None:
    found: list[Any] = []

    def wait() -> None:
        with host.session() as other:
            found.append(ask(other, ["secret"], token, 20.0))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    started = time.monotonic()
    one = make(session)
    thread.join(10)
    assert time.monotonic() - started < 3.0
    assert ("add", "secret", one) in seen(found[0])
    session.call("secret.destroy", one)


def test_a_logout_wakes_the_waiter(host: Daemon, session: Session, token: str) -> None:
    other = host.session()
    ref = other.ref
    found: list[BaseException] = []

    def wait() -> None:
        try:
            other._send("event.from", (ref, ["secret"], token, 20.0), 30.0)
        except errors.XenAPIError as why:
            found.append(why)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    session._send("session.logout", (ref,), 10.0)
    thread.join(5)
    assert [type(why) for why in found] == [errors.SessionInvalid]


def test_inject(session: Session, token: str) -> None:
    one = make(session)
    now = ask(session, ["secret"], token)["token"]
    injected = session.call("event.inject", "secret", one)
    assert injected >= now
    answer = ask(session, ["secret"], injected)
    assert seen(answer) == [("mod", "secret", one)]
    assert answer["token"] > injected
    with pytest.raises(errors.HandleInvalid):
        session.call("event.inject", "Nothing", one)
    session.call("secret.destroy", one)


@pytest.mark.parametrize("token", ["x", "0", "1,", "9" * 20 + "," + "0" * 20])
def test_what_is_no_token(session: Session, token: str) -> None:
    with pytest.raises(errors.EventFromTokenParseFailure):
        ask(session, ["VM"], token)


def test_a_token_of_another_database_says_that_events_are_lost(session: Session) -> None:
    with pytest.raises(errors.EventsLost):
        ask(session, ["VM"], f"{10**15:020d},{0:020d}")


def test_next_needs_a_registration(session: Session) -> None:
    with pytest.raises(errors.SessionNotRegistered):
        session.call("event.next")
    session.call("event.register", ["secret"])
    one = make(session)
    assert one in [e["ref"] for e in session.call("event.next")]
    session.call("event.unregister", ["*"])
    session.call("secret.destroy", one)


def test_the_sessions_iterator(session: Session) -> None:
    batches = session.events(["secret"], timeout_s=5.0)
    assert next(batches).complete
    one = make(session)
    batch = next(batches)
    assert not batch.complete
    assert [e["ref"] for e in batch.events] == [one]
    session.call("secret.destroy", one)


def test_many_waiters_need_no_threads(host: Daemon, token: str) -> None:
    sessions = [host.session() for _ in range(40)]
    threads = [threading.Thread(target=ask, args=(s, ["VM_group"], token, 1.0)) for s in sessions]
    for each in threads:
        each.start()
    started = time.monotonic()
    assert sessions[0].call("host.get_all")
    assert time.monotonic() - started < 2.0
    for each in threads:
        each.join()
    for each in sessions:
        each.close()
