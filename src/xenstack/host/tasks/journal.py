"""The journal of plans that are under way: what recovery reads after a crash.

On disk: one table in the daemon's SQLite file, a row per open plan:

    plan_journal(id INTEGER PRIMARY KEY, plan TEXT, steps TEXT, facts TEXT, stuck INTEGER)

`steps` is a JSON list of the names of the steps entered, oldest first; `facts` a JSON object. A row lives from
before the first step until the plan has finished or was undone completely; a daemon that starts with an empty
table was stopped with no operation under way. Beside it `plan_number(name, last)` keeps the numbers that are given
out once and never again (domain ids). The journal has its own connection, so that it can be written
from any thread and while the database is inside a transaction of its own.
"""

import json
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BUSY_S = 30.0  # how long a write waits for the database's own connection

_TABLE = """CREATE TABLE IF NOT EXISTS plan_journal(
    id INTEGER PRIMARY KEY AUTOINCREMENT, plan TEXT NOT NULL, steps TEXT NOT NULL, facts TEXT NOT NULL,
    stuck INTEGER NOT NULL DEFAULT 0)"""
_NUMBERS = "CREATE TABLE IF NOT EXISTS plan_number(name TEXT PRIMARY KEY, last INTEGER NOT NULL)"


@dataclass(frozen=True, slots=True)
class Entry:
    """One plan that was not finished: its name, the steps entered, and what it had decided."""

    id: int
    plan: str
    steps: tuple[str, ...]
    facts: dict[str, Any]
    stuck: bool


class Journal:
    """The open plans of one daemon. Safe to use from several threads."""

    def __init__(self, file: Path | str = ":memory:") -> None:
        """Open the journal in the SQLite file; without one it lives in memory, which survives no crash."""
        self._lock = threading.Lock()
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None, timeout=_BUSY_S)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(_TABLE)
        self._db.execute(_NUMBERS)

    def opened(self, plan: str, facts: dict[str, Any]) -> int:
        """A plan begins; returns the number by which the other calls name it."""
        with self._lock:
            row = self._db.execute(
                "INSERT INTO plan_journal(plan, steps, facts) VALUES(?, '[]', ?)", (plan, json.dumps(facts))
            )
            return int(row.lastrowid or 0)

    def entered(self, entry: int, step: str, facts: dict[str, Any]) -> None:
        """A step is about to run."""
        with self._lock:
            self._db.execute(
                "UPDATE plan_journal SET steps = json_insert(steps, '$[#]', ?), facts = ? WHERE id = ?",
                (step, json.dumps(facts), entry),
            )

    def closed(self, entry: int) -> None:
        """The plan finished, or everything it did was undone."""
        with self._lock:
            self._db.execute("DELETE FROM plan_journal WHERE id = ?", (entry,))

    def stuck(self, entry: int, steps: Sequence[str]) -> None:
        """These steps could not be undone (or finished): the entry stays, with them alone, for the next start."""
        with self._lock:
            self._db.execute(
                "UPDATE plan_journal SET stuck = 1, steps = ? WHERE id = ?", (json.dumps(list(steps)), entry)
            )

    def entries(self) -> list[Entry]:
        """Every open plan, newest first (a later plan may build on what an earlier one acquired)."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id, plan, steps, facts, stuck FROM plan_journal ORDER BY id DESC"
            ).fetchall()
        return [
            Entry(n, plan, tuple(json.loads(done)), json.loads(facts), bool(stuck))
            for n, plan, done, facts, stuck in rows
        ]

    def next_number(self, name: str) -> int:
        """1, 2, 3 … for each name: a number that was given out is never given again while the file lives."""
        with self._lock:
            row = self._db.execute(
                "INSERT INTO plan_number VALUES(?, 1) ON CONFLICT(name) DO UPDATE SET last = last + 1 RETURNING last",
                (name,),
            ).fetchone()
        return int(row[0])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
