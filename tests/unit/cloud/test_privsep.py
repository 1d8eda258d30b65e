"""The warm process that forks oslo.privsep's helpers, with oslo.privsep's own client at the other end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "src"
PROGRAM = SOURCE / "xenstack" / "cloud" / "privsep.py"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("p") / "socket"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    with subprocess.Popen([sys.executable, "-m", "xenstack.cloud.privsep", str(path)], env=environment) as server:
        yield path
        server.kill()


def ask(door: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(PROGRAM), str(door), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def test_a_helper_serves_neutrons_privileged_calls(door: Path, tmp_path: Path) -> None:
    from oslo_privsep import comm

    path = tmp_path / "helper"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        done = ask(door, "--privsep_context", "neutron.privileged.default", "--privsep_sock_path", str(path))
        assert done.returncode == 0, done.stderr
        connection, _ = listener.accept()
    channel = comm.ClientChannel(connection)
    with contextlib.closing(channel):
        assert channel.send_recv((comm.Message.PING.value,))[0] == comm.Message.PONG
        name = "neutron.privileged.agent.linux.utils.path_exists"
        call = (comm.Message.CALL.value, name, (str(path),), {})
        assert channel.send_recv(call)[:2] == (comm.Message.RET.value, True)
        pid, _, _ = _peer(connection)
    _gone(pid)  # the helper ends with its client


def test_a_helper_that_cannot_start_says_so(door: Path, tmp_path: Path) -> None:
    words = ("--privsep_context", "neutron.privileged.default", "--privsep_sock_path", str(tmp_path / "nobody"))
    assert ask(door, *words).returncode == 1
    assert ask(door, "--privsep_context", "neutron.privileged.default").returncode != 0
    assert ask(door, *words).returncode == 1  # the server lives on


@pytest.mark.parametrize("body", [b"\n", b"{}\n", b"[1]\n", b"[" * 10_000 + b"\n", b"\xff\n", b""])
def test_nonsense_starts_nothing(door: Path, body: bytes) -> None:
    deadline = time.monotonic() + 60
    while not door.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(door))
        client.sendall(body)
        client.shutdown(socket.SHUT_WR)
        assert client.makefile("rb").read() == b""


def _peer(connection: socket.socket) -> tuple[int, int, int]:
    import struct

    return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))


def _gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return
        if state == "Z":
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the helper outlives its client")
