"""One file SR on the disk: which files there are, how they hang together, and how much they take.

    <vdi uuid>.qcow2         a VDI; its header may name a base as backing file
    <vdi uuid>.raw           a VDI whose bytes are the file's bytes (config drives, ISOs)
    <uuid>.base.qcow2        a hidden read-only base of clones; it may itself have a base
    .<uuid>.<random>.tmp     being written; swept by `sweep`
    .lock                    held (flock) by the process that has the SR

The files' own headers say everything: there is no second book to disagree with them. Names in headers are relative, so
the folder may be moved. Invariant: every base has at least one child; `tidy` restores it.

A file appears or changes by one rename, after it was written. Nothing is flushed to the disk at once: ext4 (with its
default auto_da_alloc) and btrfs write a file's data before a rename that replaces another file becomes durable, so that
a power failure leaves the old or the new content of an imported VDI. VDIs made in the last seconds before it may be
missing or damaged; `scan` tells.
"""

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from threading import RLock
from time import monotonic

from xenstack.host.storage.claims import Claims
from xenstack.host.storage.image.qcow2_source import Qcow2Source
from xenstack.host.storage.image.source import BrokenImage, RawSource, Source
from xenstack.host.storage.inspect import DIRTY, HEAD, qcow2_header
from xenstack.host.storage.port import (
    SECTOR,
    Format,
    ImageRejected,
    IoFailed,
    SrFull,
    SrInUse,
    Vdi,
    VdiMissing,
)

log = getLogger(__name__)

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_VDI = re.compile(rf"({_UUID})\.(qcow2|raw)")
_BASE = re.compile(rf"({_UUID})\.base\.qcow2")
_TEMPORARY = re.compile(rf"\.{_UUID}\.[0-9a-f]+\.tmp")
LOCK = ".lock"
_PLENTY, _LOOK_AGAIN_S = 1 << 30, 2.0


@dataclass(slots=True)
class Node:
    """A VDI or a base. `parent` is the uuid of the base below it, "" when it stands alone."""

    uuid: str
    path: Path
    format: Format
    virtual_size: int
    parent: str = ""


@dataclass(slots=True)
class Listing:
    """What a look at the directory found."""

    vdis: dict[str, Node]
    bases: dict[str, Node]
    damaged: dict[str, str]
    foreign: list[str]
    temporaries: list[str]


def _node(path: Path, uuid: str, format: Format) -> Node:
    """Read a file's header. Raises ImageRejected, OSError."""
    if path.is_symlink() or not path.is_file():
        raise ImageRejected("not a file")
    if format is Format.RAW:
        size = path.stat().st_size
        if size == 0 or size % SECTOR:
            raise ImageRejected(f"a raw VDI of {size} bytes")
        return Node(uuid, path, format, size)
    with path.open("rb") as file:
        header = qcow2_header(file.read(HEAD))
    if header.external_data or header.crypt_method or header.incompatible & ~DIRTY:
        raise ImageRejected("qcow2 with features that are not kept in an SR")
    parent = ""
    if header.backing_file or header.backing_format:
        base = _BASE.fullmatch(header.backing_file)
        if base is None or header.backing_format != "qcow2":
            raise ImageRejected("qcow2 with a backing file that is not a base of this SR")
        parent = base[1]
    return Node(uuid, path, format, header.size, parent)


def look(folder: Path) -> Listing:
    """Read the directory. Raises OSError when it cannot be read."""
    found = Listing({}, {}, {}, [], [])
    for entry in sorted(folder.iterdir()):
        name = entry.name
        if name == LOCK:
            continue
        if _TEMPORARY.fullmatch(name):
            found.temporaries.append(name)
            continue
        base, vdi = _BASE.fullmatch(name), _VDI.fullmatch(name)
        try:
            if base:
                found.bases[base[1]] = _node(entry, base[1], Format.QCOW2)
            elif vdi and vdi[1] in found.vdis:
                found.damaged[name] = "a second file for the same VDI"
            elif vdi:
                found.vdis[vdi[1]] = _node(entry, vdi[1], Format(vdi[2]))
            else:
                found.foreign.append(name)
        except (ImageRejected, OSError) as why:
            found.damaged[name] = str(why.reason if isinstance(why, ImageRejected) else why)
    _drop_broken_chains(found)
    return found


def _drop_broken_chains(found: Listing) -> None:
    for nodes in (found.vdis, found.bases):
        for uuid, node in list(nodes.items()):
            seen, parent = {""}, node.parent
            while parent not in seen and parent in found.bases:
                seen.add(parent)
                parent = found.bases[parent].parent
            if parent:
                found.damaged[node.path.name] = f"its base {parent} is not usable"
                del nodes[uuid]


def take_lock(path: Path, sr: str) -> int:
    """Own an SR's directory until the descriptor is closed. Raises SrInUse, OSError."""
    fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as why:
        os.close(fd)
        if why.errno == errno.EWOULDBLOCK:
            raise SrInUse(sr, "another process has it") from why
        raise
    return fd


def sweep(path: Path) -> tuple[list[str], list[str]]:
    """Remove temporaries, and bases nobody needs; (their names, those bases' names). The caller holds the lock."""
    found = look(path)
    for name in found.temporaries:
        (path / name).unlink(missing_ok=True)
    if found.damaged:
        # a damaged file may need any base: better too much left than too little
        log.warning("%s: damaged files %s; no base is removed", path, sorted(found.damaged))
        return found.temporaries, []
    removed = []
    needed = {node.parent for node in (*found.vdis.values(), *found.bases.values())}
    while idle := [uuid for uuid in found.bases if uuid not in needed]:
        for uuid in idle:
            found.bases[uuid].path.unlink(missing_ok=True)
            removed.append(found.bases.pop(uuid).path.name)
        needed = {node.parent for node in (*found.vdis.values(), *found.bases.values())}
    return found.temporaries, removed


@contextmanager
def translated(sr: str) -> Iterator[None]:
    """Turn failures of the disk into the port's errors."""
    try:
        yield
    except OSError as why:
        if why.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise SrFull(sr, 0, 0) from why
        raise IoFailed(str(why)) from why
    except BrokenImage as why:
        raise IoFailed(f"damaged image: {why}") from why


class Folder:
    """An attached SR. Whoever changes `vdis`, `bases` or `claims` holds `lock`; long work is done outside it, under a
    claim on the VDI, which also keeps the VDI's bases."""

    def __init__(self, path: Path, sr: str, size_limit: int | None) -> None:
        self.path = path
        self.sr = sr
        self.size_limit = size_limit
        self.lock = RLock()
        self.claims = Claims()
        self._looked = (0, -_LOOK_AGAIN_S)  # bytes used, when
        self.promises: dict[int, int] = {}  # bytes that running writers may still take, see Budget
        self._fd = take_lock(path, sr)
        self.vdis: dict[str, Node] = {}
        self.bases: dict[str, Node] = {}
        try:
            self.refresh()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give the directory back."""
        os.close(self._fd)

    def refresh(self) -> Listing:
        """Read the directory again."""
        with self.lock:
            found = look(self.path)
            self.vdis, self.bases = dict(found.vdis), dict(found.bases)
            return found

    def node(self, vdi: str) -> Node:
        """Raises VdiMissing."""
        try:
            return self.vdis[vdi]
        except KeyError:
            raise VdiMissing(self.sr, vdi) from None

    def file_of(self, vdi: str, format: Format) -> Path:
        return self.path / f"{vdi}.{format.value}"

    def base_file(self, uuid: str) -> Path:
        return self.path / f"{uuid}.base.qcow2"

    def temporary(self, vdi: str) -> Path:
        """A new name for a file that is being written for a VDI."""
        return self.path / f".{vdi}.{secrets.token_hex(6)}.tmp"

    def chain(self, node: Node) -> list[Path]:
        """The node's file and the bases below it, topmost first."""
        paths = [node.path]
        while node.parent:
            node = self.bases[node.parent]
            paths.append(node.path)
        return paths

    def open(self, vdi: str) -> Source:
        """Open a VDI for reading, its bases included. Raises VdiMissing, BrokenImage, OSError."""
        with self.lock:
            node = self.node(vdi)
            return RawSource(node.path) if node.format is Format.RAW else Qcow2Source(self.chain(node))

    def pristine(self, node: Node) -> bool:
        """Nothing was written to this file since it was made."""
        if node.format is Format.RAW:
            return False
        source = Qcow2Source.open(node.path)
        try:
            return source.pristine()
        finally:
            source.close()

    def describe(self, node: Node) -> Vdi:
        """Raises OSError."""
        return Vdi(
            uuid=node.uuid,
            format=node.format,
            virtual_size=node.virtual_size,
            physical_utilisation=node.path.stat().st_blocks * 512,
        )

    def tidy(self, base: str) -> None:
        """Remove a base that lost its last child, and put its only child in its place when that child adds nothing.

        Called with the lock held, after the deed is done: a failure is logged, the next `sweep` mends it.
        """
        while base in self.bases:
            node = self.bases[base]
            children = [n for n in (*self.vdis.values(), *self.bases.values()) if n.parent == base]
            try:
                if not children:
                    node.path.unlink(missing_ok=True)
                    del self.bases[base]
                elif len(children) == 1 and self._adds_nothing(children[0], node):
                    node.path.rename(children[0].path)
                    del self.bases[base]
                    children[0].parent = node.parent
                    return
                else:
                    return
            except (OSError, BrokenImage, ImageRejected) as why:
                log.warning("SR %s: base %s stays: %s", self.sr, base, why)
                return
            base = node.parent

    def _adds_nothing(self, child: Node, base: Node) -> bool:
        leaf = self.vdis.get(child.uuid) is child
        same = leaf and child.virtual_size == base.virtual_size and not self.claims.users(child.uuid)
        return same and self.pristine(child)

    def used(self) -> int:
        """What all files take, in bytes; a file with two names counts once. Raises OSError."""
        blocks: dict[int, int] = {}
        with os.scandir(self.path) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # removed meanwhile
                    status = entry.stat(follow_symlinks=False)
                    blocks[status.st_ino] = status.st_blocks * 512
        return sum(blocks.values())

    def physical_size(self, used: int) -> int:
        """Limit, or what the file system has for us, whichever is less."""
        disk = os.statvfs(self.path)
        most = used + disk.f_bavail * disk.f_frsize
        return most if self.size_limit is None else min(most, self.size_limit)

    def check_room(self, needed: int) -> None:
        """`check_space` for a few KiB: a recent look is good enough while there is plenty. Raises SrFull."""
        used, at = self._looked
        if monotonic() - at > _LOOK_AGAIN_S or self.physical_size(used) - used - sum(self.promises.values()) < _PLENTY:
            self.check_space(needed)

    def check_space(self, needed: int) -> int:
        """How many bytes are free and not promised; raises SrFull when they are fewer than `needed`."""
        used = self.used()
        self._looked = used, monotonic()
        free = max(self.physical_size(used) - used - sum(self.promises.values()), 0)
        if free < needed:
            raise SrFull(self.sr, needed, free)
        return free

    @contextmanager
    def failures(self, *discard: Path) -> Iterator[None]:
        """Turn failures of the disk into the port's errors; whatever fails, the files of `discard` go."""
        try:
            with translated(self.sr):
                yield
        except BaseException:
            for path in discard:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
