"""Parts of the edge alone: queries, passwords, sessions, the queue."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenstack.host.api import query
from xenstack.host.api.sessions import Password, Sessions
from xenstack.host.database.store import Store
from xenstack.host.tasks.queue import Queue
from xenstack.host.tasks.task import Task
from xenstack.xenapi.errors import (
    InternalError,
    InvalidValue,
    SessionInvalid,
    SrNotEmpty,
    TooManyPendingTasks,
    XenAPIError,
)

ROW = {"_ref": "OpaqueRef:x", "name__label": "a", "is_a_template": "false", "tags": None}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("true", True),
        ("not true", False),
        ("not not true", True),
        (" ( true ) ", True),
        ("not(true)", False),
        ("true or true and false", False),
        ("true and false or true", True),
        ('"x" = "x"', True),
        ('"x"="y"', False),
        ('field "name__label" = "a"', True),
        ('field"name__label"="b"', False),
        ('field "_ref" = "OpaqueRef:x"', True),
        ('not field "is_a_template" = "true"', True),
        ('field "tags" = ""', False),
        ('field "tags" = field "tags"', False),
    ],
)
def test_expressions(text: str, result: bool) -> None:
    assert query.parse(text)(ROW) is result


@pytest.mark.parametrize(
    "text",
    [
        "",
        "field",
        "garbage",
        "TRUE",
        "(true",
        "true)",
        "and true",
        "true and",
        'field "a" = true',
        "field 'a' = 'b'",
        'field "a" != "b"',
        'field "a" = "open',
        "not",
        "(" * 500 + "true" + ")" * 500,
        "true " * 5000,
        'field a = "b"',
    ],
)
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        query.parse(text)
    assert caught.value.field == text


def test_a_missing_field_is_an_internal_error() -> None:
    with pytest.raises(InternalError) as caught:
        query.parse('field "name_label" = "a"')(ROW)
    assert caught.value.wire() == ["INTERNAL_ERROR", "missing field", "name_label", ""]


@given(st.text(alphabet='truefalsnodi ()="\\\n_x', max_size=40))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        test = query.parse(text)
    except InvalidValue:
        return
    try:
        assert test(ROW) in (True, False)
    except InternalError as why:
        missing = why.message
        assert missing == "missing field"


@pytest.mark.parametrize(
    ("cls", "wire", "internal"),
    [
        ("VM", "name_label", "name__label"),
        ("VM", "VCPUs_max", "VCPUs__max"),
        ("VM", "other_config", "other_config"),
        ("VM", "HVM_boot_params", "HVM__boot_params"),
        ("VM", "actions_after_crash", "actions__after_crash"),
        ("VDI", "sm_config", "sm_config"),
        ("VBD", "qos_algorithm_type", "qos__algorithm_type"),
    ],
)
def test_names_in_queries(cls: str, wire: str, internal: str) -> None:
    assert query.internal_name(cls, wire) == internal


def test_a_password_file_is_made_read_and_changed(tmp_path: Path) -> None:
    file = tmp_path / "password"
    first = Password(file)
    made = file.read_text().strip()
    assert len(made) >= 20
    assert first.matches(made)
    assert not first.matches(made + "x")
    first.change("é new")
    assert "new" not in file.read_text()
    again = Password(file)
    assert again.matches("é new")
    assert not again.matches(made)
    file.write_text("\n")
    with pytest.raises(ValueError, match="no password"):
        Password(file)


def test_sessions_expire_and_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p").write_text("secret\n")
    store = Store()
    sessions = Sessions(store, Password(tmp_path / "p"), timeout_s=100.0)
    ended: list[str] = []
    sessions.on_close(ended.append)
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    one, two = (sessions.login("root", "secret", host="h", originator="t", trusted=False) for _ in range(2))
    clock[0] += 90
    sessions.check(one)
    clock[0] += 90
    sessions.check(one)
    sessions.expire()
    assert ended == [two]
    with pytest.raises(SessionInvalid):
        sessions.check(two)
    clock[0] += 101
    with pytest.raises(SessionInvalid):
        sessions.check(one)
    assert store.refs("session") == []


def wait_for(task: Task, store: Store) -> dict[str, object]:
    for _ in range(500):
        if store.get("task", task.ref, "status") != "pending":
            return store.record("task", task.ref)
        threading.Event().wait(0.01)
    raise AssertionError("the task does not end")


def test_the_queue_ends_tasks_with_what_happened() -> None:
    store, queue = Store(), Queue(2)

    def refused() -> str:
        raise SrNotEmpty()

    def broken() -> str:
        raise ZeroDivisionError("ours")

    ends = {}
    for name, work in (("good", lambda: "<value>x</value>"), ("refused", refused), ("broken", broken)):
        task = Task.recorded(store, name, host="h")
        queue.start(task, work)
        record = wait_for(task, store)
        ends[name] = (record["status"], record["result"], record["error_info"], record["progress"])
    assert ends["good"] == ("success", "<value>x</value>", [], 1.0)
    assert ends["refused"] == ("failure", "", ["SR_NOT_EMPTY"], 1.0)
    assert ends["broken"] == ("failure", "", ["INTERNAL_ERROR", "ZeroDivisionError: ours"], 1.0)
    queue.close()


def test_a_cancelled_task_stops_at_its_next_step_and_a_doomed_one_goes_with_its_end() -> None:
    store, queue = Store(), Queue(1)
    task = Task.recorded(store, "long", host="h")
    started = threading.Event()

    def work() -> str:
        started.set()
        while True:
            task.check_cancelled()
            task.progress(0.5)
            threading.Event().wait(0.01)

    queue.start(task, work)
    started.wait(5)
    assert queue.knows(task.ref)
    assert queue.cancel(task.ref)
    assert wait_for(task, store)["status"] == "cancelled"
    assert not queue.cancel(task.ref)
    gate = threading.Event()
    doomed = Task.recorded(store, "doomed", host="h")
    queue.start(doomed, lambda: str(gate.wait(5)))
    assert queue.destroy_at_end(doomed.ref)
    gate.set()
    queue.close()
    assert not store.exists("task", doomed.ref)
    assert not queue.destroy_at_end(doomed.ref)


def test_a_queue_that_closes_does_not_wait_for_ever() -> None:
    queue, gate = Queue(1), threading.Event()
    queue.submit(gate.wait)
    waiting = queue.submit(gate.wait)
    assert queue.close(0.05) is False
    assert waiting.cancelled()
    gate.set()
    assert queue.close(5.0) is True


def test_a_full_queue_refuses() -> None:
    queue, gate = Queue(1, waiting=1), threading.Event()
    queue.submit(gate.wait)
    queue.submit(gate.wait)
    with pytest.raises(TooManyPendingTasks):
        queue.submit(gate.wait)
    task = Task.recorded(store := Store(), "late", host="h")
    with pytest.raises(XenAPIError):
        queue.start(task, str)
    assert store.get("task", task.ref, "status") == "failure"
    gate.set()
    queue.close()
