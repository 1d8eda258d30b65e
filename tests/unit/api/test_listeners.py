"""TLS, unix sockets, listeners that serve consoles only, a simulated host from the command line, a clean stop."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import XenAPI
from tests.kit.daemon import SOURCE, free_port

from xenstack.xenapi.session import Session, Unreachable, tls


class Running:
    """One daemon with every kind of listener."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plain, self.secure, self.consoles = free_port(), free_port(), free_port()
        self.socket = folder / "s" / "xapi.sock"
        (folder / "host.toml").write_text(
            f'state = "{folder}/state"\nstorage = "simulated"\n'
            f'[[listeners]]\naddress = "127.0.0.1:{self.plain}"\n'
            f'[[listeners]]\naddress = "127.0.0.1:{self.secure}"\ntls = true\n'
            f'[[listeners]]\naddress = "127.0.0.1:{self.consoles}"\nserves = "consoles"\n'
            f'[[listeners]]\naddress = "{self.socket}"\n'
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "xenstack.host", "serve", "--config", str(folder / "host.toml")],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
        assert self.process.stdout is not None
        self.said = [self.process.stdout.readline().decode() for _ in range(5)]

    @property
    def password(self) -> str:
        return (self.folder / "state" / "password").read_text().strip()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(tmp_path_factory.mktemp("listeners"))
    yield made
    if made.process.poll() is None:
        made.process.kill()
    made.process.wait()


def test_it_says_where_it_is_and_how_to_log_in(running: Running) -> None:
    said = "".join(running.said)
    for url in (f"http://127.0.0.1:{running.plain}", f"https://127.0.0.1:{running.secure}", f"unix://{running.socket}"):
        assert url in said
    assert str(running.folder / "state" / "password") in said


def test_secrets_are_the_owners_alone(running: Running) -> None:
    for name in ("password", "tls.key"):
        assert (running.folder / "state" / name).stat().st_mode & 0o077 == 0, name
    assert running.socket.stat().st_mode & 0o077 == 0


def test_tls_with_the_generated_certificate(running: Running) -> None:
    url, password = f"https://127.0.0.1:{running.secure}", running.password
    checked = tls(ca_file=str(running.folder / "state" / "tls.crt"))
    with Session(url, "root", password, tls_context=checked) as session:
        sr = session.call("pool.get_default_SR", session.call("pool.get_all")[0])
        record = {"SR": sr, "virtual_size": 2 << 20, "type": "user", "sharable": False, "read_only": False}
        vdi = session.call("VDI.create", {**record, "other_config": {}})
        data = os.urandom(2 << 20)
        session.import_vdi(vdi, [data], length=len(data))
        assert b"".join(session.export_vdi(vdi)) == data
        session.call("VDI.destroy", vdi)
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        Session(url, "root", password).call("host.get_all")
    library = XenAPI.Session(url, ignore_ssl=True)
    library.login_with_password("root", password)
    assert library.xenapi.host.get_all()


def test_plain_http_on_a_tls_port_ends_at_once(running: Running) -> None:
    link = http.client.HTTPConnection("127.0.0.1", running.secure, timeout=5)
    link.request("GET", "/")
    with pytest.raises((http.client.HTTPException, OSError)):
        link.getresponse()


def test_root_needs_no_password_on_the_unix_socket(running: Running) -> None:
    with Session(f"unix://{running.socket}", "", "") as session:
        assert session.call("host.get_all")


def test_a_consoles_listener_serves_nothing_else(running: Running) -> None:
    for verb, path in (
        ("POST", "/"),
        ("POST", "/jsonrpc"),
        ("GET", "/export_raw_vdi"),
        ("OPTIONS", "/"),
        ("PUT", "/x"),
    ):
        link = http.client.HTTPConnection("127.0.0.1", running.consoles, timeout=5)
        link.request(verb, path, b"")
        assert link.getresponse().status == 403, (verb, path)
        link.close()
    with socket.create_connection(("127.0.0.1", running.consoles), timeout=5) as raw:
        raw.sendall(b"CONNECT /console?ref=OpaqueRef:x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.recv(1000).startswith(b"HTTP/1.1 401")


def test_a_silent_client_is_dropped_and_idle_ones_do_not_matter(running: Running) -> None:
    idle = [socket.create_connection(("127.0.0.1", running.plain)) for _ in range(50)]
    with Session(f"http://127.0.0.1:{running.plain}", "root", running.password) as session:
        assert session.call("host.get_all")
    for each in idle:
        each.close()


def test_sigterm_stops_at_once_with_waiters_and_leaves_no_socket(running: Running) -> None:
    session = Session(f"http://127.0.0.1:{running.plain}", "root", running.password)
    token = session.call("event.from", ["VM"], "", 0.0)["token"]
    waiter = socket.create_connection(("127.0.0.1", running.plain))
    call = f'{{"method": "event.from", "params": ["{session.ref}", ["VM"], "{token}", 60.0], "id": 1}}'.encode()
    waiter.sendall(b"POST /jsonrpc HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(call), call))
    time.sleep(0.3)
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(10) == 0
    assert waiter.recv(100) == b""
    assert not running.socket.exists()


def test_bad_configurations_are_told_field_by_field(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(
        'state = "relative"\nworkers = 0\nhypervisor = "none"\nnothing = 1\n[[listeners]]\naddress = "x:y"\n'
    )
    run = subprocess.run(
        [sys.executable, "-m", "xenstack.host", "serve", "--config", str(bad)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        timeout=60,
        check=False,
    )
    assert run.returncode == 2
    assert "nothing: no such field" in run.stderr


def test_a_taken_port_is_an_error_with_a_reason(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "xenstack.host",
                "serve",
                "--simulated",
                "--listen",
                address,
                "--state",
                str(tmp_path),
            ],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            timeout=60,
            check=False,
        )
    assert run.returncode == 1
    assert "in use" in run.stderr
