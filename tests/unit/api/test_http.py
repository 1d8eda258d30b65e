"""The HTTP edge: hostile clients, bulk transfers, consoles."""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.kit.daemon import Daemon

from xenstack.xenapi import errors
from xenstack.xenapi.session import Session

MIB = 1 << 20


def talk(host: Daemon, sent: bytes, *, end: bool = False) -> bytes:
    """Everything that the server answers to these bytes before it hangs up, or is silent for a second."""
    got = b""
    with socket.create_connection(("127.0.0.1", host.port), timeout=10.0) as link:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            link.sendall(sent)
            if end:
                link.shutdown(socket.SHUT_WR)
        link.settimeout(1.0)
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while data := link.recv(65536):
                got += data
    return got


def request(host: Daemon, verb: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
    link = http.client.HTTPConnection("127.0.0.1", host.port, timeout=20)
    link.request(verb, path, body, headers or {})
    answer = link.getresponse()
    found = (answer.status, answer.read(), dict(answer.getheaders()))
    link.close()
    return found


@pytest.fixture
def vdi(session: Session) -> Iterator[str]:
    sr = session.call("pool.get_default_SR", session.call("pool.get_all")[0])
    record = {
        "name_label": "t",
        "SR": sr,
        "virtual_size": 4 * MIB,
        "type": "user",
        "sharable": False,
        "read_only": False,
    }
    ref = session.call("VDI.create", {**record, "other_config": {}})
    yield ref
    session.call("VDI.destroy", ref)


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("GET", "/", 403),
        ("GET", "/../etc/passwd", 403),
        ("PUT", "/nothing", 403),
        ("DELETE", "/", 501),
        ("HEAD", "/", 501),
        ("OPTIONS", "/jsonrpc", 200),
        ("PUT", "/import_raw_vdi", 401),
        ("GET", "/export_raw_vdi", 401),
        ("POST", "/", 500),
        ("POST", "/jsonrpc", 500),
        ("POST", "//", 403),
    ],
)
def test_paths_and_verbs(host: Daemon, verb: str, path: str, status: int) -> None:
    assert request(host, verb, path)[0] == status


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"\x00" * 500,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"GET /" + b"a" * (1 << 17) + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_the_daemon_lives(host: Daemon, session: Session, sent: bytes) -> None:
    answer = talk(host, sent, end=True)
    assert answer == b"" or answer.split(b" ")[1][:1] in (b"4", b"5")
    assert session.call("host.get_all")


def test_a_body_that_is_too_large_is_refused(host: Daemon) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n"
    assert b" 413 " in talk(host, head + b"x" * (17 * MIB))


def test_an_unfinished_body_is_no_call(host: Daemon) -> None:
    assert b"200 OK" not in talk(
        host, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n<methodCall>", end=True
    )


def test_requests_share_a_connection_and_may_be_pipelined(host: Daemon) -> None:
    body = json.dumps({"method": "system.listMethods", "params": [], "id": 1}).encode()
    one = b"POST /jsonrpc HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    assert talk(host, one * 3, end=True).count(b"HTTP/1.1 200") == 3


def test_json_has_the_exact_content_type(host: Daemon, session: Session) -> None:
    call = {"jsonrpc": "2.0", "method": "host.get_all_records", "params": [session.ref], "id": 1}
    status, body, headers = request(host, "POST", "/jsonrpc", json.dumps(call), {"Content-Type": "application/json"})
    assert (status, headers["Content-Type"]) == (200, "application/json")
    (record,) = json.loads(body)["result"].values()
    assert isinstance(record["API_version_major"], int)


# ---- transfers


def test_a_body_becomes_the_vdi_and_comes_back(session: Session, vdi: str) -> None:
    data = os.urandom(MIB) + bytes(2 * MIB) + os.urandom(MIB)
    session.import_vdi(vdi, [data[:700_000], data[700_000:]], length=len(data))
    assert b"".join(session.export_vdi(vdi)) == data
    image = b"".join(session.export_vdi(vdi, format="qcow2"))
    session.import_vdi(vdi, [bytes(4 * MIB)], length=4 * MIB)
    session.import_vdi(vdi, [image], length=len(image), format="qcow2")
    assert hashlib.sha256(b"".join(session.export_vdi(vdi))).digest() == hashlib.sha256(data).digest()
    assert not session.call("task.get_by_name_label", "import_raw_vdi")


def test_a_client_that_does_not_know_the_length(session: Session, vdi: str) -> None:
    session.import_vdi(vdi, [b"x" * MIB], length=None)
    assert b"".join(session.export_vdi(vdi))[: MIB + 1] == b"x" * MIB + b"\0"


def test_failed_imports_leave_the_vdi_as_it_was(host: Daemon, session: Session, vdi: str) -> None:
    before = b"before!!" * (4 * MIB // 8)
    session.import_vdi(vdi, [before], length=len(before))
    with pytest.raises(errors.VdiTooSmall):
        session.import_vdi(vdi, [bytes(5 * MIB)], length=5 * MIB)
    with pytest.raises(errors.VdiIoError):
        session.import_vdi(vdi, [b"not a qcow2" * 1000], length=11_000, format="qcow2")
    query = f"/import_raw_vdi?session_id={session.ref}&vdi={vdi}&format=raw"
    cut = b"PUT " + query.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 4194304\r\n\r\n" + b"y" * MIB
    assert b" 500 " in talk(host, cut, end=True).split(b"\r\n")[0]
    assert b"".join(session.export_vdi(vdi)) == before


def test_transfers_are_refused_before_the_body(host: Daemon, session: Session, vdi: str) -> None:
    good = f"session_id={session.ref}&vdi={vdi}"
    for path, status in (
        (f"/import_raw_vdi?vdi={vdi}", 401),
        (f"/import_raw_vdi?session_id=OpaqueRef:x&vdi={vdi}", 500),
        (f"/import_raw_vdi?session_id={session.ref}&vdi=OpaqueRef:x", 500),
        (f"/import_raw_vdi?{good}&format=bad", 404),
        (f"/import_raw_vdi?{good}&chunked=true", 501),
        (f"/import_raw_vdi?{good}&task_id=OpaqueRef:x", 500),
    ):
        assert request(host, "PUT", path, b"x" * 100)[0] == status, path
    assert request(host, "PUT", f"/import_raw_vdi?{good}", iter([b"x"]), {"Transfer-Encoding": "chunked"})[0] == 411
    basic = base64.b64encode(f"root:{host.password}".encode()).decode()
    uuid = session.call("VDI.get_uuid", vdi)
    assert (
        request(host, "PUT", f"/import_raw_vdi?vdi={uuid}", bytes(512), {"Authorization": f"Basic {basic}"})[0] == 200
    )
    cookie = {"Cookie": f"session_id={session.ref}"}
    assert request(host, "GET", f"/export_raw_vdi?vdi={uuid}&format=raw", None, cookie)[0] == 200
    assert (
        request(host, "GET", f"/export_raw_vdi?vdi={uuid}", None, {"Authorization": "Basic cm9vdDp3cm9uZw=="})[0] == 401
    )


def test_a_named_task_tells_the_end(host: Daemon, session: Session, vdi: str) -> None:
    for body, form, status in ((bytes(4 * MIB), "raw", "success"), (b"x" * 600, "vhd", "failure")):
        task = session.call("task.create", "transfer", "")
        request(host, "PUT", f"/import_raw_vdi?session_id={session.ref}&vdi={vdi}&format={form}&task_id={task}", body)
        record = session.call("task.get_record", task)
        assert (record["status"], record["progress"]) == (status, 1.0)
        assert bool(record["error_info"]) is (status == "failure")
        session.call("task.destroy", task)


def test_a_cancelled_import_stops(host: Daemon, session: Session, vdi: str) -> None:
    task = session.call("task.create", "transfer", "")
    query = f"/import_raw_vdi?session_id={session.ref}&vdi={vdi}&format=raw&task_id={task}"
    with socket.create_connection(("127.0.0.1", host.port), timeout=20.0) as link:
        link.sendall(b"PUT " + query.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 4194304\r\n\r\n" + b"y" * MIB)
        for _ in range(100):
            if float(session.call("task.get_progress", task)) > 0:
                break
            time.sleep(0.05)
        session.call("task.cancel", task)
        link.sendall(b"y" * MIB)
        answer = link.recv(65536)
    assert b" 500 " in answer
    assert session.call("task.get_status", task) == "cancelled"
    session.call("task.destroy", task)
    assert set(b"".join(session.export_vdi(vdi))) == {0}


def test_an_image_in_a_request_with_expect(host: Daemon, session: Session, vdi: str) -> None:
    head = f"PUT /import_raw_vdi?session_id={session.ref}&vdi={vdi} HTTP/1.1\r\nHost: x\r\n"
    head += "Content-Length: 512\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", host.port), timeout=10.0) as link:
        link.sendall(head.encode())
        assert link.recv(100).startswith(b"HTTP/1.1 100")
        link.sendall(b"z" * 512)
        assert b" 200 " in link.recv(1000)
    assert b"".join(session.export_vdi(vdi))[:513] == b"z" * 512 + b"\0"


# ---- consoles


def test_consoles_refuse_strangers_and_what_is_not_there(host: Daemon, session: Session) -> None:
    for query, status in (("ref=OpaqueRef:x", 401), (f"ref=OpaqueRef:x&session_id={session.ref}", 404)):
        answer = talk(host, f"CONNECT /console?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert answer.startswith(f"HTTP/1.1 {status}".encode()), query


@pytest.mark.parametrize("pause_after", [None, 4, 12, 60])
def test_a_connect_without_host_is_understood(host: Daemon, session: Session, pause_after: int | None) -> None:
    """Nova's novncproxy sends nothing but the request line, as HTTP/1.1; its bytes may come in any pieces."""
    sent = f"CONNECT /console?ref=OpaqueRef%3Ax&session_id={session.ref} HTTP/1.1\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", host.port), timeout=10.0) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.sendall(sent[:pause_after])
        if pause_after:
            time.sleep(0.2)
            link.sendall(sent[pause_after:])
        assert link.recv(1000).startswith(b"HTTP/1.1 404"), "no such console, but understood"


def test_a_connect_that_never_ends_is_bounded(host: Daemon) -> None:
    assert b"HTTP/1.1 4" in talk(host, b"CONNECT /console?" + b"x" * (80 << 10))
    assert talk(host, b"CONNECT /cons", end=True)[:12] in (b"", b"HTTP/1.1 400")
