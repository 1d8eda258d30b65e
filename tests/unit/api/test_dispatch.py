"""Calls over the wire: the order of checks, implicit messages, sessions, tasks."""

import time
from collections.abc import Iterator

import pytest
from tests.kit.daemon import Daemon

from xenstack.xenapi import errors
from xenstack.xenapi.session import Session, Unreachable

BOGUS = "OpaqueRef:deadbeef-dead-beef-dead-beefdeadbeef"


@pytest.fixture
def secret(session: Session) -> Iterator[str]:
    ref = session.call("secret.create", {"value": "x", "other_config": {}})
    yield ref
    session.call("secret.destroy", ref)
    assert ref not in session.call("secret.get_all")


def raw(host: Daemon, method: str, *arguments: object) -> object:
    """A call without the session argument that the client would add."""
    return host.session()._send(method, arguments, 10.0)


@pytest.mark.parametrize(
    ("method", "arguments", "error"),
    [
        ("VM.nothing", [BOGUS], errors.SessionInvalid(BOGUS)),
        ("VM.nothing", [], errors.MessageMethodUnknown("VM.nothing")),
        ("VM.get_all", [], errors.MessageParameterCountMismatch("VM.get_all", "0", "-1")),
        (
            "session.login_with_password",
            ["root"],
            errors.MessageParameterCountMismatch("session.login_with_password", "2", "1"),
        ),
        (
            "session.login_with_password",
            ["root", "wrong"],
            errors.SessionAuthenticationFailed("root", "Authentication failure"),
        ),
        ("VM.get_all", [True], errors.InternalError("Failure(\"Expected string, got 'B(true)'\")")),
    ],
    ids=["session before name", "name", "count", "login count", "password", "session type"],
)
def test_refusals_before_the_session(host: Daemon, method: str, arguments: list, error: errors.XenAPIError) -> None:
    with pytest.raises(type(error)) as caught:
        raw(host, method, *arguments)
    assert caught.value.wire() == error.wire()


@pytest.mark.parametrize(
    ("method", "arguments", "wire"),
    [
        ("VM.nothing", [], ["MESSAGE_METHOD_UNKNOWN", "VM.nothing"]),
        ("Async.VM.nothing", [], ["MESSAGE_METHOD_UNKNOWN", "VM.nothing"]),
        ("VM.start", [BOGUS], ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.start", "3", "1"]),
        ("VM.start", [BOGUS, "false", False], ["INTERNAL_ERROR", "Failure(\"Expected bool, got 'S(false)'\")"]),
        ("VM.get_record", [BOGUS], ["HANDLE_INVALID", "VM", BOGUS]),
        ("VM.get_by_uuid", ["x"], ["UUID_INVALID", "VM", "x"]),
        ("Async.VM.get_all", [], ["Fault", "No async mode for this operation (rpc: VM.get_all)"]),
        ("PIF.scan", [BOGUS], ["NOT_IMPLEMENTED", "PIF.scan"]),
        ("VLAN.destroy", [BOGUS], ["HANDLE_INVALID", "VLAN", BOGUS]),
        ("VMPP.get_all", [], ["MESSAGE_REMOVED"]),
    ],
)
def test_refusals_within_a_session(session: Session, method: str, arguments: list, wire: list[str]) -> None:
    with pytest.raises(errors.XenAPIError) as caught:
        session.call(method, *arguments)
    assert caught.value.wire() == wire


def test_every_implicit_reading_message_answers(session: Session) -> None:
    from xenstack.xenapi.model import load

    model = load()
    one = {cls: next(iter(session.call(f"{cls}.get_all")), None) for cls in ("VM", "host", "pool", "SM", "SR")}
    asked = 0
    for message in model.messages.values():
        about_self = [p.name for p in message.parameters] == ["self"] and message.name.startswith("get_")
        if message.implicit and message.cls in one and about_self:
            session.call(message.full_name, one[message.cls])
            asked += 1
    assert asked > 250


def test_get_all_records_of_every_class_that_lists_it(session: Session) -> None:
    for method in session._send("system.listMethods", (), 10.0):
        if method.endswith(".get_all_records") and not method.startswith(("VMPP", "VBD_metrics", "VIF_metrics")):
            assert isinstance(session.call(method), dict)


def test_setters_maps_and_sets(session: Session) -> None:
    pool = session.call("pool.get_all")[0]
    session.call("pool.set_other_config", pool, {"a": "b"})
    with pytest.raises(errors.MapDuplicateKey) as caught:
        session.call("pool.add_to_other_config", pool, "a", "c")
    assert caught.value.wire() == ["MAP_DUPLICATE_KEY", "pool", "other_config", pool, "a"]
    session.call("pool.remove_from_other_config", pool, "a")
    session.call("pool.remove_from_other_config", pool, "a")
    assert session.call("pool.get_other_config", pool) == {}
    session.call("pool.add_tags", pool, "t")
    session.call("pool.add_tags", pool, "t")
    assert session.call("pool.get_tags", pool) == ["t"]
    session.call("pool.remove_tags", pool, "t")
    assert session.call("pool.get_tags", pool) == []


def test_plain_objects_are_made_and_removed(session: Session, secret: str) -> None:
    record = session.call("secret.get_record", secret)
    assert record["value"] == "x"
    assert session.call("secret.get_by_uuid", record["uuid"]) == secret
    with pytest.raises(errors.InternalError, match="FieldNotFound"):
        session.call("secret.create", {})


def test_queries(session: Session) -> None:
    host = session.call("host.get_all")[0]
    name = session.call("host.get_name_label", host)
    assert list(session.call("host.get_all_records_where", f'field "name__label" = "{name}"')) == [host]
    assert session.call("host.get_all_where", 'not (field "name__label" = "x") and field "enabled" = "true"') == [host]
    with pytest.raises(errors.InvalidValue):
        session.call("host.get_all_where", "garbage")


def test_the_machines_records_are_the_ports_answers(session: Session, host: Daemon) -> None:
    (record,) = session.call("host.get_all_records").values()
    assert record["hostname"] == "dom0-test"
    assert record["software_version"]["product_version"].count(".") == 2
    assert "xen" not in record["software_version"]
    assert int(record["cpu_info"]["cpu_count"]) == len(record["host_CPUs"])
    metrics = session.call("host_metrics.get_record", record["metrics"])
    assert int(metrics["memory_total"]) == 64 << 30
    (pool,) = session.call("pool.get_all_records").values()
    assert session.call("SR.get_type", pool["default_SR"]) == "file"
    control = session.call("VM.get_record", record["control_domain"])
    assert (control["domid"], control["is_control_domain"], control["power_state"]) == ("0", True, "Running")


def test_a_session_ends_with_its_logout(host: Daemon) -> None:
    one = host.session()
    ref = one.ref
    assert one.call("session.get_this_host", ref) == one.call("host.get_all")[0]
    one.close()
    with pytest.raises(errors.SessionInvalid):
        raw(host, "VM.get_all", ref)


def test_an_ended_session_is_replaced(host: Daemon, session: Session) -> None:
    before = session.ref
    raw(host, "session.logout", before)
    assert session.call("host.get_all")
    assert session.ref != before


def test_async_tasks_end_with_their_result(session: Session) -> None:
    task = session.call("Async.network.create", {"name_label": "n", "other_config": {}})
    for _ in range(200):
        record = session.call("task.get_record", task)
        if record["status"] != "pending":
            break
        time.sleep(0.02)
    assert (record["status"], record["progress"], record["error_info"]) == ("success", 1.0, [])
    ref = record["result"].removeprefix("<value>").removesuffix("</value>")
    session.call("network.destroy", ref)
    session.call("task.destroy", task)
    with pytest.raises(errors.HandleInvalid):
        session.call("task.get_status", task)


def test_async_failures_are_in_the_task(session: Session) -> None:
    task = session.call("Async.VM.start", BOGUS, False, False)
    for _ in range(200):
        if session.call("task.get_status", task) != "pending":
            break
        time.sleep(0.02)
    record = session.call("task.get_record", task)
    assert (record["status"], record["error_info"]) == ("failure", ["HANDLE_INVALID", "VM", BOGUS])
    session.call("task.destroy", task)


def test_a_clients_own_task(session: Session) -> None:
    task = session.call("task.create", "mine", "for a test")
    session.call("task.set_progress", task, 0.5)
    assert session.call("task.get_progress", task) == 0.5
    session.call("task.cancel", task)
    assert list(session.call("task.get_current_operations", task).values()) == ["cancel"]
    session.call("task.set_status", task, "success")
    session.call("task.destroy", task)
    assert task not in session.call("task.get_all")


def test_the_password_can_be_changed(host: Daemon, session: Session) -> None:
    session.call("session.change_password", "not checked", "another")
    try:
        with pytest.raises(errors.SessionAuthenticationFailed):
            raw(host, "session.login_with_password", "root", host.password)
        assert raw(host, "session.login_with_password", "root", "another")
        assert "another" not in (host.state.parent / "password").read_text()
        assert (host.state.parent / "password").stat().st_mode & 0o777 == 0o600
    finally:
        session.call("session.change_password", "", host.password)


def test_a_restart_keeps_records_and_ends_sessions(host: Daemon) -> None:
    with host.session() as one:
        secret = one.call("secret.create", {"value": "kept", "other_config": {}})
        pending = one.call("task.create", "lost", "")
        old = one.ref
        host.kill()
        with pytest.raises(Unreachable):
            one.call("VM.get_all")
        host.start()
        with pytest.raises(errors.SessionInvalid):
            raw(host, "VM.get_all", old)
        assert one.call("secret.get_value", secret) == "kept"
        assert one.call("task.get_status", pending) == "failure"
        one.call("secret.destroy", secret)
        one.call("task.destroy", pending)
        assert len(one.call("host.get_all")) == len(one.call("pool.get_all")) == 1
