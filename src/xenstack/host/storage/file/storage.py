"""The file SR adapter: SRs are the folders `<root>/<sr uuid>`; what lies in one is told in folder.py.

A clone of A: A's file becomes a hidden base under a second name (hard link), an empty overlay above it takes A's place
(rename), another one becomes the clone (rename). The order matters: at no moment can a writable file be another
file's base. A killed host leaves at most a base without children and temporaries; `sweep` removes both.
"""

import os
from contextlib import ExitStack
from logging import getLogger
from pathlib import Path
from threading import RLock
from uuid import uuid4

from xenstack.host.storage.arguments import check_limit, check_uuid, is_uuid, whole_sectors
from xenstack.host.storage.file.budget import Budget
from xenstack.host.storage.file.exporter import FileExport
from xenstack.host.storage.file.folder import LOCK, Folder, Node, look, sweep, take_lock, translated
from xenstack.host.storage.file.importer import FileImport
from xenstack.host.storage.file.resize import grow_qcow2
from xenstack.host.storage.image.qcow2_writer import Qcow2Writer, RawWriter, create_qcow2
from xenstack.host.storage.port import (
    CannotShrink,
    ExportReader,
    Format,
    ImageRejected,
    ImportWriter,
    Opened,
    Progress,
    Recovered,
    Scan,
    SrExists,
    SrInUse,
    SrMissing,
    SrNotAttached,
    SrNotEmpty,
    SrSpace,
    Unsupported,
    Vdi,
    VdiExists,
    VdiMissing,
    no_progress,
)

log = getLogger(__name__)

_NEW_FILE = 32 << 10  # what an empty image takes, rounded up: header, refcount table, refcount block
_MAX_CHAIN = 30  # images; beyond it a clone is a full copy (reads go through every image of a chain)


class FileStorage:
    """Implements the port `Storage` in a directory. See the port for every method's meaning."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._attached: dict[str, Folder] = {}
        self._lock = RLock()  # of `_attached`

    def _folder(self, sr: str) -> Folder:
        check_uuid(sr)
        with self._lock:
            try:
                return self._attached[sr]
            except KeyError:
                raise SrNotAttached(sr) from None

    # SRs

    def recover(self) -> Recovered:
        temporaries, bases = [], []
        for sr in self.srs():
            with self._lock, translated(sr), ExitStack() as locked:
                if sr not in self._attached:
                    fd = take_lock(self._root / sr, sr)
                    locked.callback(os.close, fd)
                swept, removed = sweep(self._root / sr)
                temporaries += [(sr, name) for name in swept]
                bases += [(sr, name) for name in removed]
        if temporaries or bases:
            log.info("swept temporaries %s and bases %s", temporaries, bases)
        return Recovered(temporaries=tuple(temporaries), bases=tuple(bases))

    def create_sr(self, sr: str) -> None:
        check_uuid(sr)
        with translated(sr):
            self._root.mkdir(parents=True, exist_ok=True)
            if (self._root / sr).exists():
                raise SrExists(sr)
            (self._root / sr).mkdir(mode=0o700)

    def attach_sr(self, sr: str, *, size_limit: int | None = None) -> None:
        check_uuid(sr)
        check_limit(size_limit)
        with self._lock, translated(sr):
            if folder := self._attached.get(sr):
                folder.size_limit = size_limit
            elif (self._root / sr).is_dir():
                self._attached[sr] = Folder(self._root / sr, sr, size_limit)
            else:
                raise SrMissing(sr)

    def detach_sr(self, sr: str) -> None:
        check_uuid(sr)
        with self._lock:
            if folder := self._attached.get(sr):
                with folder.lock:
                    if used := folder.claims.used():
                        raise SrInUse(sr, f"VDIs in use: {', '.join(used)}")
                    del self._attached[sr]
                    folder.release()

    def destroy_sr(self, sr: str) -> None:
        check_uuid(sr)
        path = self._root / sr
        with self._lock, translated(sr):
            if not path.is_dir():
                return
            if any(entry.name != LOCK for entry in path.iterdir()):
                raise SrNotEmpty(sr)
            self.detach_sr(sr)
            fd = take_lock(path, sr)
            try:
                (path / LOCK).unlink()
                path.rmdir()
            finally:
                os.close(fd)

    def srs(self) -> list[str]:
        if not self._root.is_dir():
            return []
        found = []
        for entry in self._root.iterdir():
            if is_uuid(entry.name) and entry.is_dir():
                found.append(entry.name)
        return sorted(found)

    def space(self, sr: str) -> SrSpace:
        folder = self._folder(sr)
        with folder.lock, folder.failures():
            used = folder.used()
            return SrSpace(
                physical_size=folder.physical_size(used),
                physical_utilisation=used,
                virtual_allocation=sum(node.virtual_size for node in folder.vdis.values()),
            )

    def scan(self, sr: str, expected: frozenset[str] = frozenset()) -> Scan:
        folder = self._folder(sr)
        with folder.lock, folder.failures():
            found = folder.refresh()
            return Scan(
                vdis=tuple(folder.describe(node) for node in found.vdis.values()),
                orphans=tuple(sorted(found.vdis.keys() - expected)),
                missing=tuple(sorted(expected - found.vdis.keys())),
                damaged=tuple(sorted(found.damaged.items())),
                foreign=tuple(found.foreign),
            )

    # VDIs

    def create(self, sr: str, vdi: str, *, virtual_size: int, format: Format = Format.QCOW2) -> Vdi:
        check_uuid(vdi)
        size = whole_sectors(virtual_size)
        if format is Format.VHD:
            raise Unsupported("VDIs are kept as qcow2 or raw")
        folder = self._folder(sr)
        with folder.lock:
            _check_new(folder, vdi)
            node = Node(vdi, folder.file_of(vdi, format), format, size)
            temporary = folder.temporary(vdi)
            with folder.failures(temporary):
                folder.check_room(_NEW_FILE)
                if format is Format.RAW:
                    RawWriter(temporary, size).finish()
                else:
                    create_qcow2(temporary, size)
                temporary.rename(node.path)
            folder.vdis[vdi] = node
            return folder.describe(node)

    def destroy(self, sr: str, vdi: str) -> None:
        check_uuid(vdi)
        folder = self._folder(sr)
        with folder.lock, folder.failures():
            if (node := folder.vdis.get(vdi)) is None:
                return
            folder.claims.check_unused(vdi)
            node.path.unlink(missing_ok=True)
            del folder.vdis[vdi]
            folder.tidy(node.parent)

    def stat(self, sr: str, vdi: str) -> Vdi:
        check_uuid(vdi)
        folder = self._folder(sr)
        with folder.lock, folder.failures():
            return folder.describe(folder.node(vdi))

    def clone(self, sr: str, vdi: str, new: str) -> Vdi:
        check_uuid(vdi, new)
        folder = self._folder(sr)
        with folder.lock, folder.failures():
            node = folder.node(vdi)
            folder.claims.check_no_writer(vdi)
            _check_new(folder, new)
            if node.format is Format.QCOW2 and len(folder.chain(node)) < _MAX_CHAIN:
                folder.check_room(2 * _NEW_FILE)
                if not folder.pristine(node):
                    return folder.describe(_fork(folder, node, new))
                return folder.describe(_overlay(folder, new, node.virtual_size, node.parent))
        return self.copy(sr, vdi, sr, new)

    def copy(self, sr: str, vdi: str, to_sr: str, new: str, *, progress: Progress = no_progress) -> Vdi:
        check_uuid(vdi, new)
        folder, target = self._folder(sr), self._folder(to_sr)
        user = f"copy to {new}"
        with folder.lock:
            node = folder.node(vdi)
            folder.claims.take(vdi, user, read_only=True)
        try:
            with target.lock:
                _check_new(target, new)
                target.claims.take(new, "copy", read_only=False)  # two copies to one uuid must not meet
            try:
                return _copy(folder, node, target, new, progress)
            finally:
                with target.lock:
                    target.claims.drop(new, "copy")
        finally:
            with folder.lock:
                folder.claims.drop(vdi, user)

    def resize(self, sr: str, vdi: str, virtual_size: int) -> Vdi:
        check_uuid(vdi)
        size = whole_sectors(virtual_size)
        folder = self._folder(sr)
        with folder.lock, folder.failures():
            node = folder.node(vdi)
            folder.claims.check_unused(vdi)
            if size < node.virtual_size:
                raise CannotShrink(vdi, node.virtual_size, size)
            if size > node.virtual_size:
                _grow(folder, node, size)
            return folder.describe(node)

    def activate(self, sr: str, vdi: str, user: str, *, read_only: bool) -> Opened:
        check_uuid(vdi)
        folder = self._folder(sr)
        with folder.lock:
            node = folder.node(vdi)
            folder.claims.take(vdi, user, read_only=read_only)
            return Opened(path=node.path, format=node.format, read_only=read_only)

    def deactivate(self, sr: str, vdi: str, user: str) -> None:
        check_uuid(sr, vdi)
        with self._lock:
            folder = self._attached.get(sr)
        if folder is not None:
            with folder.lock:
                folder.claims.drop(vdi, user)

    def users(self, sr: str, vdi: str) -> tuple[str, ...]:
        check_uuid(vdi)
        folder = self._folder(sr)
        with folder.lock:
            folder.node(vdi)
            return folder.claims.users(vdi)

    def introduce(self, sr: str, vdi: str) -> Vdi:
        check_uuid(vdi)
        folder = self._folder(sr)
        with folder.lock, folder.failures():
            if vdi not in folder.vdis:
                found = look(folder.path)
                for format in (Format.QCOW2, Format.RAW):
                    if reason := found.damaged.get(folder.file_of(vdi, format).name):
                        raise ImageRejected(reason)
                if vdi not in found.vdis:
                    raise VdiMissing(sr, vdi)
                folder.vdis, folder.bases = found.vdis, found.bases
            return folder.describe(folder.node(vdi))

    def forget(self, sr: str, vdi: str) -> None:
        check_uuid(vdi)
        folder = self._folder(sr)
        with folder.lock:
            folder.claims.check_unused(vdi)

    # bodies

    def import_vdi(self, sr: str, vdi: str, *, format: Format, length: int | None = None) -> ImportWriter:
        check_uuid(vdi)
        return FileImport(self._folder(sr), vdi, format, length)

    def export_vdi(self, sr: str, vdi: str, *, format: Format) -> ExportReader:
        check_uuid(vdi)
        return FileExport(self._folder(sr), vdi, format)

    def close(self) -> None:
        with self._lock:
            while self._attached:
                self._attached.popitem()[1].release()


def _check_new(folder: Folder, vdi: str) -> None:
    taken = vdi in folder.vdis or folder.claims.users(vdi)
    if taken or any(folder.file_of(vdi, format).exists() for format in Format):
        raise VdiExists(folder.sr, vdi)


def _overlay(folder: Folder, new: str, size: int, base: str) -> Node:
    """A new VDI above a base; with no base it is an empty one."""
    node = Node(new, folder.file_of(new, Format.QCOW2), Format.QCOW2, size, base)
    temporary = folder.temporary(new)
    with folder.failures(temporary):
        create_qcow2(temporary, size, folder.base_file(base).name if base else "")
        temporary.rename(node.path)
    folder.vdis[new] = node
    return node


def _fork(folder: Folder, node: Node, new: str) -> Node:
    """Make the node's file a base under the node and a new VDI."""
    base = Node(str(uuid4()), Path(), Format.QCOW2, node.virtual_size, node.parent)
    base.path = folder.base_file(base.uuid)
    above = folder.temporary(node.uuid)
    with folder.failures(above):
        create_qcow2(above, node.virtual_size, base.path.name)
        base.path.hardlink_to(node.path)
        try:
            above.rename(node.path)
        except OSError:
            base.path.unlink()
            raise
    folder.bases[base.uuid] = base
    node.parent = base.uuid
    try:
        return _overlay(folder, new, node.virtual_size, base.uuid)
    except BaseException:
        folder.tidy(base.uuid)  # the base's only child adds nothing: it is put back
        raise


def _copy(folder: Folder, node: Node, target: Folder, new: str, progress: Progress) -> Vdi:
    temporary = target.temporary(new)
    size = node.virtual_size
    copy = Node(new, target.file_of(new, node.format), node.format, size)
    with ExitStack() as opened, folder.failures(), target.failures(temporary):
        budget = Budget(target)
        opened.callback(budget.close)
        budget.take(_NEW_FILE)
        source = folder.open(node.uuid)
        opened.callback(source.close)
        writer = RawWriter(temporary, size) if node.format is Format.RAW else Qcow2Writer(temporary, size)
        opened.callback(writer.close)
        for offset, data in source.blocks(0, size):
            progress(offset / size)
            budget.take(len(data))
            writer.write(offset, data)
        writer.finish()
        progress(1.0)
        with target.lock:
            temporary.rename(copy.path)
            target.vdis[new] = copy
            return target.describe(copy)


def _grow(folder: Folder, node: Node, size: int) -> None:
    if node.format is Format.RAW:
        with node.path.open("rb+") as file:
            file.truncate(size)
    elif folder.pristine(node):
        temporary = folder.temporary(node.uuid)
        with folder.failures(temporary):
            create_qcow2(temporary, size, folder.base_file(node.parent).name if node.parent else "")
            temporary.rename(node.path)
    else:
        grow_qcow2(folder, node.path, size)
    node.virtual_size = size
