"""A real host daemon for tests: its own process, a free loopback port, everything simulated unless told otherwise."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from xenstack.xenapi.session import Session, Unreachable

_UP_S = 30.0
SOURCE = Path(__file__).parents[2] / "src"


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Daemon:
    """A daemon that can be stopped, killed and started again on the same state and port."""

    state: Path
    port: int
    password: str = "only for tests"
    user: str = "root"
    process: subprocess.Popen[bytes] | None = None
    settings: str = ""  # more lines of the configuration
    command: tuple[str, ...] = ("-m", "xenstack.host")  # what Python runs
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.state.parent / "daemon.log").read_text()

    def start(self) -> None:
        """Start it and wait until it lets us log in."""
        config = self.state.parent / "host.toml"
        secret = self.state.parent / "password"
        secret.touch(mode=0o600)
        secret.write_text(self.password + "\n")
        config.write_text(
            f'{self.settings}\nstate = "{self.state}"\npassword_file = "{secret}"\nhost_name = "dom0-test"\n'
            f'[[listeners]]\naddress = "127.0.0.1:{self.port}"\n'
        )
        with (self.state.parent / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.command, "serve", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": f"{SOURCE}:{SOURCE.parent}", **self.environment},
            )
        deadline = time.monotonic() + _UP_S
        while True:
            try:
                with self.session() as session:
                    assert session.ref
                return
            except Unreachable:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise RuntimeError(f"the daemon does not come up:\n{self.log}") from None
                time.sleep(0.05)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """Stop it as a service supervisor would."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            self.process = None

    def session(self, timeout_s: float = 30.0) -> Session:
        """A client of its own."""
        return Session(self.url, self.user, self.password, originator="tests", timeout_s=timeout_s)


@contextmanager
def daemon(folder: Path) -> Iterator[Daemon]:
    """A daemon for the length of a `with` block; `folder` is empty."""
    made = Daemon(state=folder / "state", port=free_port())
    made.state.mkdir(mode=0o700)
    made.start()
    try:
        yield made
    finally:
        made.stop()
