"""The cloud's passwords: made once, at the first start, kept in one file that only root can read.

A password is asked for by name; a name that is asked for the first time gets a new one. So a new host or service
needs no migration of the file.
"""

import json
import os
import secrets
import threading
from pathlib import Path


class Secrets:
    """Invariant: what `password` returned once is on disk, and stays the answer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}

    def password(self, name: str) -> str:
        """32 hexadecimal digits: safe in URLs, ini files and command lines."""
        with self._lock:
            if name not in self._known:
                self._known[name] = secrets.token_hex(16)
                write_private(self._path, json.dumps(self._known, indent=1, sort_keys=True) + "\n")
            return self._known[name]


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, in one move: a reader sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as out:
        out.write(text)
    fresh.replace(path)
