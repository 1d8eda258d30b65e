"""Who may call: root's password, and the sessions that were opened with it.

The password file holds one line: the password itself, or `scrypt$N$SALT$HASH` after session.change_password. Memory
holds the hash alone, so a wrong password costs what a right one does. Sessions live in memory: they end at logout,
after `timeout_s` without a call, or with the daemon. root on the unix socket needs no password, as with xapi.
"""

import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from xenstack.host.database.store import Store
from xenstack.host.tasks.task import now
from xenstack.xenapi.errors import SessionAuthenticationFailed, SessionInvalid

_COST = 1 << 13  # scrypt's N: about 25 ms and 8 MiB for a login
_TOUCH_S = 60.0  # how often a session in use has its last_active written


class Password:
    """root's password."""

    def __init__(self, file: Path) -> None:
        """Read the file, or make it with a random password. Raises OSError and ValueError (what is wrong with it)."""
        self._file = file
        if not file.exists():
            write_secret(file, secrets.token_urlsafe(18) + "\n")
        line = file.read_text(encoding="utf-8").split("\n", 1)[0]
        if line.startswith("scrypt$"):
            _, cost, salt, digest = line.split("$")
            self._kept = (int(cost), bytes.fromhex(salt), bytes.fromhex(digest))
        elif line:
            self._kept = _hashed(line)
        else:
            raise ValueError(f"{file} holds no password in its first line")

    def matches(self, password: str) -> bool:
        """Whether it is the password."""
        cost, salt, digest = self._kept
        return hmac.compare_digest(_digest(password, cost, salt), digest)

    def change(self, password: str) -> None:
        """Set another; the file keeps its hash only, unless it is the same."""
        if self.matches(password):
            return
        cost, salt, digest = self._kept = _hashed(password)
        write_secret(self._file, f"scrypt${cost}${salt.hex()}${digest.hex()}\n")


def _digest(password: str, cost: int, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, n=cost, r=8, p=1, dklen=32)


def _hashed(password: str) -> tuple[int, bytes, bytes]:
    salt = os.urandom(16)
    return _COST, salt, _digest(password, _COST, salt)


def write_secret(file: Path, text: str) -> None:
    """Write a file that only its owner can read, at one blow."""
    temporary = file.with_name(f".{file.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(file)


class Sessions:
    """The open sessions."""

    def __init__(self, store: Store, password: Password, *, timeout_s: float) -> None:
        self._store = store
        self._password = password
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._used: dict[str, float] = {}
        self._written: dict[str, float] = {}
        self._told: list[Callable[[str], None]] = []

    def on_close(self, told: Callable[[str], None]) -> None:
        """Call `told` with every session that ends, on the thread that ends it."""
        self._told.append(told)

    def login(self, user: str, password: str, *, host: str, originator: str, trusted: bool) -> str:
        """Open a session. Errors: SessionAuthenticationFailed."""
        self.authenticate(user, password, trusted=trusted)
        values = {
            "this_host": host,
            "is_local_superuser": True,
            "last_active": now(),
            "validation_time": now(),
            "auth_user_name": user or "root",
            "originator": originator,
        }
        ref = self._store.create("session", values)
        with self._lock:
            self._used[ref] = self._written[ref] = time.monotonic()
        return ref

    def authenticate(self, user: str, password: str, *, trusted: bool = False) -> None:
        """Errors: SessionAuthenticationFailed."""
        if trusted:
            return
        right = self._password.matches(password)  # also for an unknown user: the answer's time tells nothing
        if user != "root":
            raise SessionAuthenticationFailed(user, "User not known to the underlying authentication module")
        if not right:
            raise SessionAuthenticationFailed(user, "Authentication failure")

    def change_password(self, password: str) -> None:
        """Set root's password; open sessions stay."""
        self._password.change(password)

    def check(self, ref: str) -> None:
        """A call of the session: it lives on. Errors: SessionInvalid."""
        at = time.monotonic()
        with self._lock:
            used = self._used.get(ref)
            if used is None:
                raise SessionInvalid(ref)
            self._used[ref] = at
            stale = at - self._written[ref] > _TOUCH_S
            if stale:
                self._written[ref] = at
        if at - used > self._timeout_s:
            self.close(ref)
            raise SessionInvalid(ref)
        if stale and self._store.exists("session", ref):
            self._store.set("session", ref, last_active=now())

    def alive(self, ref: str) -> bool:
        """Whether the session is open; does not count as use."""
        with self._lock:
            return ref in self._used

    def close(self, ref: str) -> None:
        """End the session. No error when it has ended."""
        with self._lock:
            known = self._used.pop(ref, None) is not None
            self._written.pop(ref, None)
        if known and self._store.exists("session", ref):
            self._store.delete("session", ref)
        for told in self._told if known else ():
            told(ref)

    def expire(self) -> None:
        """End what nobody used for too long."""
        limit = time.monotonic() - self._timeout_s
        with self._lock:
            old = [ref for ref, used in self._used.items() if used < limit]
        for ref in old:
            self.close(ref)
