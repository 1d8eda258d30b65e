"""The host's records: every object that XenAPI shows, in memory and in one SQLite file.

A record is a dict of the data model's fields: wire names; int, float, bool and str as Python has them, datetimes and
references as strings, sets as lists, maps as dicts. Rules:

  * every change happens inside `transaction()`: other threads wait, an exception puts the memory back as it was, and
    the end of the outermost block writes everything to SQLite at once. Blocks nest; keep them short: no port calls;
  * a record is never changed in place, only replaced: what a reader got stays as it was;
  * the data model's relations are kept here: VM.VBDs follows from VBD.VM and cannot be set;
  * a write that changes nothing is no event. All changes of one transaction have one generation number, numbers only
    grow, and a reader that knows generation N asks for what came after it (`changes`);
  * sessions are not written to disk.

Durability: WAL with synchronous=NORMAL. A killed daemon loses nothing that was answered; a machine that loses power
may lose the last moments, never the file's consistency. The hypervisor and the disks are read again at each start, so
a lost moment is a lost record of something harmless, while a sync per change would cost milliseconds in every call.

On disk: record(cls, ref, created, modified, body), body a JSON object; meta(name, value) with the last generation.
"""

import json
import sqlite3
import threading
import uuid as uuids
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xenstack.host.database.relations import Relations
from xenstack.xenapi.errors import HandleInvalid, UuidInvalid
from xenstack.xenapi.model import NULL, Model, load

Record = dict[str, Any]
Key = tuple[str, str]

_TABLES = (
    """CREATE TABLE IF NOT EXISTS record(
    cls TEXT NOT NULL, ref TEXT NOT NULL, created INTEGER NOT NULL, modified INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY(cls, ref)) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
)
_BUSY_S = 30.0  # how long a write waits for the journal's connection to the same file
_DELETIONS_KEPT = 20_000  # a reader that missed more is told so
_VOLATILE = frozenset({"session"})


@dataclass(frozen=True, slots=True)
class Change:
    """What became of an object since the reader's generation. `record` is None when it is gone."""

    cls: str
    ref: str
    added: bool
    record: Mapping[str, Any] | None


def new_ref() -> str:
    """A reference that no object has."""
    return f"OpaqueRef:{uuids.uuid4()}"


def _copied(record: Mapping[str, Any]) -> Record:
    return {k: v.copy() if isinstance(v, list | dict) else v for k, v in record.items()}


class Store:
    """All records of one host. Safe to use from any thread."""

    def __init__(self, file: Path | None = None, model: Model | None = None) -> None:
        """Open the file, or keep everything in memory when there is none."""
        self.model = model or load()
        self._lock = threading.RLock()
        self._tables: dict[str, dict[str, Record]] = {name: {} for name in self.model.classes}
        self._uuids: dict[str, dict[str, str]] = {name: {} for name in self.model.classes}
        self._created: dict[Key, int] = {}
        self._log: dict[Key, int] = {}  # every object's last change, oldest first
        self._gone: dict[Key, int] = {}  # deletions, oldest first
        self._relations = Relations(self.model)
        self._depth = 0
        self._undo: list[tuple[Key, Record | None]] = []
        self._listeners: list[Callable[[], None]] = []
        self._generation = 1
        self._file = str(file) if file else ":memory:"
        self._db = sqlite3.connect(self._file, check_same_thread=False, isolation_level=None, timeout=_BUSY_S)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        for table in _TABLES:
            self._db.execute(table)
        self._load()
        self._forgotten = self._generation

    # ---- reading

    def record(self, cls: str, ref: str) -> Record:
        """A copy of the record. Errors: HandleInvalid."""
        return _copied(self.view(cls, ref))

    def view(self, cls: str, ref: str) -> Mapping[str, Any]:
        """The record itself: read it, never change it or what is in it. Errors: HandleInvalid."""
        with self._lock:
            found = self._table(cls).get(ref)
        if found is None:
            raise HandleInvalid(cls, ref)
        return found

    def views(self, cls: str) -> list[tuple[str, Mapping[str, Any]]]:
        """Every (ref, record) of a class; as with `view`, for reading only."""
        with self._lock:
            return list(self._table(cls).items())

    def get(self, cls: str, ref: str, field: str) -> Any:
        """One field; lists and dicts are copies. Errors: HandleInvalid."""
        value = self.view(cls, ref)[field]
        return value.copy() if isinstance(value, list | dict) else value

    def exists(self, cls: str, ref: str) -> bool:
        """Whether there is such an object."""
        with self._lock:
            return ref in self._table(cls)

    def by_uuid(self, cls: str, uuid: str) -> str:
        """The ref of the object with this uuid. Errors: UuidInvalid."""
        with self._lock:
            self._table(cls)
            found = self._uuids[cls].get(uuid)
        if found is None:
            raise UuidInvalid(cls, uuid)
        return found

    def refs(self, cls: str) -> list[str]:
        """All objects of a class, oldest first."""
        with self._lock:
            return list(self._table(cls))

    def where(self, cls: str, **fields: Any) -> list[str]:
        """The refs of the objects whose fields have these values, oldest first."""
        with self._lock:
            if set(fields) == {"uuid"}:
                found = self._uuids[cls].get(fields["uuid"])
                return [] if found is None else [found]
            wanted = fields.items()
            return [ref for ref, r in self._table(cls).items() if all(r[k] == v for k, v in wanted)]

    # ---- writing

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Nested blocks roll back on their own when the outer block catches their exception."""
        with self._lock:
            mark = len(self._undo)
            self._depth += 1
            try:
                yield
                if self._depth == 1:
                    self._commit()
            except BaseException:
                self._roll_back(mark)
                raise
            finally:
                self._depth -= 1

    def create(self, cls: str, values: Mapping[str, Any], ref: str | None = None) -> str:
        """Add an object: the model's defaults, then `values`; a fresh uuid unless one is given. Returns its ref.

        Sets that follow from relations are ignored in `values`, so that a record can be copied whole. Errors:
        UuidInvalid when the uuid is taken; KeyError (our bug) for a field that the class does not have.
        """
        fields = self.model.classes[cls].fields
        if unknown := values.keys() - fields.keys():
            raise KeyError(f"{cls} has no {sorted(unknown)}")
        with self.transaction():
            named, ref = ref is not None, ref or new_ref()
            kept = self._relations.kept(cls)
            record = {name: self.model.default(cls, name) for name in fields}
            record.update({k: v for k, v in _copied(values).items() if k not in kept})
            if "uuid" in fields:
                record["uuid"] = record["uuid"] or str(uuids.uuid4())
                if record["uuid"] in self._uuids[cls]:
                    raise UuidInvalid(cls, record["uuid"])
            if ref in self._tables[cls]:
                raise KeyError(f"{ref} exists")
            for name in kept:
                record[name] = self._relations.children(self._tables, cls, name, ref) if named else []
            self._put(cls, ref, record)
            self._relate(cls, ref, {}, record)
        return ref

    def set(self, cls: str, ref: str, **fields: Any) -> None:
        """Change fields. Errors: HandleInvalid; KeyError (our bug) for a field that is not there or follows from a
        relation."""
        with self.transaction():
            old = self.view(cls, ref)
            if (
                wrong := (fields.keys() - old.keys())
                | (fields.keys() & self._relations.kept(cls))
                | (fields.keys() & {"uuid"})
            ):
                raise KeyError(f"{cls}: cannot set {sorted(wrong)}")
            if all(old[k] == v and type(old[k]) is type(v) for k, v in fields.items()):
                return
            new = {**old, **_copied(fields)}
            self._put(cls, ref, new)
            self._relate(cls, ref, old, new)

    def delete(self, cls: str, ref: str) -> None:
        """Remove an object; what points to it is left as it is. Errors: HandleInvalid."""
        with self.transaction():
            old = self.view(cls, ref)
            self._relate(cls, ref, old, {})
            self._put(cls, ref, None)

    def inject(self, cls: str, ref: str) -> int:
        """Make an event for an unchanged object; returns the generation that has it. Errors: HandleInvalid."""
        with self._lock:
            self.view(cls, ref)
            self._generation += 1
            self._touch((cls, ref))
            generation = self._generation
            self._tell()
        return generation

    # ---- changes

    @property
    def generation(self) -> int:
        """The number of the newest change."""
        with self._lock:
            return self._generation

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every committed change, on the thread that made it: it must return at once."""
        self._listeners.append(listener)

    def changes(self, since: int, wanted: Callable[[str, str], bool]) -> tuple[int, list[Change]] | None:
        """What happened after generation `since` to the objects that `wanted(cls, ref)` picks, and the generation up
        to which this is. None when it cannot be told any more: deletions were forgotten, or `since` is of another
        database. Since 0 means: everything there is."""
        with self._lock:
            if since and (since < self._forgotten or since > self._generation):
                return None
            found = []
            for key, at in reversed(self._log.items()):
                if at <= since:
                    break
                if wanted(*key):
                    found.append(Change(*key, self._created[key] > since, self._tables[key[0]][key[1]]))
            found.reverse()
            for key, at in reversed(self._gone.items()):
                if at <= since or not since:
                    break
                if wanted(*key):
                    found.append(Change(*key, False, None))
            return self._generation, found

    def counts(self) -> dict[str, int]:
        """How many objects each class has."""
        with self._lock:
            return {cls: len(table) for cls, table in self._tables.items()}

    def close(self) -> None:
        """Write nothing more, and close the file."""
        with self._lock:
            self._db.close()

    # ---- inside

    def _table(self, cls: str) -> dict[str, Record]:
        return self._tables[cls]

    def _put(self, cls: str, ref: str, record: Record | None) -> None:
        table = self._tables[cls]
        old = table.get(ref)
        self._undo.append(((cls, ref), old))
        self._place(cls, ref, old, record)

    def _place(self, cls: str, ref: str, old: Record | None, new: Record | None) -> None:
        if old is not None and old.get("uuid"):
            self._uuids[cls].pop(old["uuid"], None)
        if new is None:
            self._tables[cls].pop(ref, None)
        else:
            self._tables[cls][ref] = new
            if new.get("uuid"):
                self._uuids[cls][new["uuid"]] = ref

    def _relate(self, cls: str, ref: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        for parent_cls, parent, many, joined in self._relations.moves(cls, old, new):
            held = self._tables[parent_cls].get(parent) if parent != NULL else None
            if held is None:
                continue
            members = [*held[many], ref] if joined else [r for r in held[many] if r != ref]
            self._put(parent_cls, parent, {**held, many: members})

    def _roll_back(self, mark: int) -> None:
        while len(self._undo) > mark:
            (cls, ref), old = self._undo.pop()
            self._place(cls, ref, self._tables[cls].get(ref), old)

    def _commit(self) -> None:
        first: dict[Key, Record | None] = {}
        for key, old in self._undo:
            first.setdefault(key, old)
        changed = [key for key, old in first.items() if old != self._tables[key[0]].get(key[1])]
        if changed:
            generation = self._generation + 1
            self._write(changed, generation)
            self._generation = generation
            for key in changed:
                self._touch(key)
        self._undo.clear()
        if changed:
            self._tell()

    def _touch(self, key: Key) -> None:
        self._log.pop(key, None)
        if key[1] in self._tables[key[0]]:
            self._created.setdefault(key, self._generation)
            self._log[key] = self._generation
            return
        self._created.pop(key, None)
        self._gone[key] = self._generation
        while len(self._gone) > _DELETIONS_KEPT:
            oldest = next(iter(self._gone))
            self._forgotten = max(self._forgotten, self._gone.pop(oldest))

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def _write(self, keys: list[Key], generation: int) -> None:
        kept = [key for key in keys if key[0] not in _VOLATILE]
        if not kept:
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for cls, ref in kept:
                record = self._tables[cls].get(ref)
                if record is None:
                    self._db.execute("DELETE FROM record WHERE cls = ? AND ref = ?", (cls, ref))
                    continue
                created = self._created.get((cls, ref), generation)
                self._db.execute(
                    "INSERT OR REPLACE INTO record VALUES(?, ?, ?, ?, ?)",
                    (cls, ref, created, generation, json.dumps(record, separators=(",", ":"))),
                )
            self._db.execute("INSERT OR REPLACE INTO meta VALUES('generation', ?)", (generation,))
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _load(self) -> None:
        rows = self._db.execute("SELECT cls, ref, created, modified, body FROM record ORDER BY modified, created, ref")
        for cls, ref, created, modified, body in rows.fetchall():
            if cls not in self._tables:
                continue
            kept, stored = self._relations.kept(cls), json.loads(body)
            fields = self.model.classes[cls].fields
            record = {name: stored.get(name, self.model.default(cls, name)) for name in fields}
            record.update({name: [] for name in kept})
            self._place(cls, ref, None, record)
            self._created[cls, ref] = created
            self._log[cls, ref] = modified
        for cls, ordered in self._tables.items():
            self._tables[cls] = dict(sorted(ordered.items(), key=lambda item: self._created[cls, item[0]]))
        for cls in self._tables:
            for ref, record in list(self._tables[cls].items()):
                self._relate(cls, ref, {}, record)
        self._undo.clear()
        newest = self._db.execute("SELECT value FROM meta WHERE name = 'generation'").fetchone()
        self._generation = max(newest[0] if newest else 1, 1)
