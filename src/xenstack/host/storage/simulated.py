"""Storage in memory: thousands of VDIs, the port's rules, and real bytes for what is imported.

Content never changes in place: an import replaces a VDI's content as a whole, so that clones share it for nothing.
Paths that `activate` gives do not exist. `memory_limit` bounds the bytes that all VDIs really hold: an SR's default
size is larger than a test machine.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Self
from uuid import uuid4

from xenstack.host.storage.arguments import check_limit, check_uuid, whole_sectors
from xenstack.host.storage.body import Body
from xenstack.host.storage.claims import Claims
from xenstack.host.storage.image.qcow2_source import Qcow2Source
from xenstack.host.storage.image.source import CLUSTER, ZEROS, BrokenImage, MemorySource, RawSource, Source, read
from xenstack.host.storage.image.stream import stream
from xenstack.host.storage.image.vhd_source import open_vhd
from xenstack.host.storage.inspect import COMPRESSION, EXTENDED_L2, HEAD
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
    SrFull,
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

_META = 16 << 10  # what an empty VDI takes, as in the file SR
_DEFAULT_SIZE = 1 << 40

Clusters = Mapping[int, bytes]


@dataclass(slots=True)
class _Vdi:
    uuid: str
    format: Format
    virtual_size: int
    clusters: Clusters = field(default_factory=dict)
    shared: bool = False  # the content belongs to a hidden base

    def describe(self) -> Vdi:
        own = 0 if self.shared else len(self.clusters) * CLUSTER
        return Vdi(uuid=self.uuid, format=self.format, virtual_size=self.virtual_size, physical_utilisation=_META + own)


@dataclass(slots=True)
class _Sr:
    uuid: str
    attached: bool = False
    size: int = _DEFAULT_SIZE
    vdis: dict[str, _Vdi] = field(default_factory=dict)
    claims: Claims = field(default_factory=Claims)
    writing: dict[str, int] = field(default_factory=dict)  # bytes that running imports hold

    def used(self) -> int:
        contents = {id(vdi.clusters): len(vdi.clusters) for vdi in self.vdis.values()}
        return len(self.vdis) * _META + sum(contents.values()) * CLUSTER + sum(self.writing.values())

    def vdi(self, vdi: str) -> _Vdi:
        try:
            return self.vdis[vdi]
        except KeyError:
            raise VdiMissing(self.uuid, vdi) from None

    def check_new(self, vdi: str) -> None:
        if vdi in self.vdis:
            raise VdiExists(self.uuid, vdi)

    def check_space(self, needed: int) -> None:
        free = max(self.size - self.used(), 0)
        if free < needed:
            raise SrFull(self.uuid, needed, free)


class SimulatedStorage:
    """Implements the port `Storage` in memory. See the port for every method's meaning."""

    def __init__(self, *, memory_limit: int = 1 << 30) -> None:
        self.lock = RLock()
        self._memory_limit = memory_limit
        self._srs: dict[str, _Sr] = {}

    def _sr(self, sr: str) -> _Sr:
        check_uuid(sr)
        found = self._srs.get(sr)
        if found is None or not found.attached:
            raise SrNotAttached(sr)
        return found

    def check_memory(self, sr: str, needed: int) -> None:
        """Raises SrFull when this process would hold too much. Called with the lock held."""
        used = sum(one.used() for one in self._srs.values())
        if used + needed > self._memory_limit:
            raise SrFull(sr, needed, max(self._memory_limit - used, 0))

    # SRs

    def recover(self) -> Recovered:
        return Recovered(temporaries=(), bases=())

    def create_sr(self, sr: str) -> None:
        check_uuid(sr)
        with self.lock:
            if sr in self._srs:
                raise SrExists(sr)
            self._srs[sr] = _Sr(sr)

    def attach_sr(self, sr: str, *, size_limit: int | None = None) -> None:
        check_uuid(sr)
        check_limit(size_limit)
        with self.lock:
            if sr not in self._srs:
                raise SrMissing(sr)
            self._srs[sr].attached = True
            self._srs[sr].size = min(size_limit or _DEFAULT_SIZE, _DEFAULT_SIZE)

    def detach_sr(self, sr: str) -> None:
        check_uuid(sr)
        with self.lock:
            if found := self._srs.get(sr):
                if used := found.claims.used():
                    raise SrInUse(sr, f"VDIs in use: {', '.join(used)}")
                found.attached = False

    def destroy_sr(self, sr: str) -> None:
        check_uuid(sr)
        with self.lock:
            if sr in self._srs and self._srs[sr].vdis:
                raise SrNotEmpty(sr)
            self._srs.pop(sr, None)

    def srs(self) -> list[str]:
        with self.lock:
            return sorted(self._srs)

    def space(self, sr: str) -> SrSpace:
        with self.lock:
            found = self._sr(sr)
            return SrSpace(
                physical_size=found.size,
                physical_utilisation=found.used(),
                virtual_allocation=sum(vdi.virtual_size for vdi in found.vdis.values()),
            )

    def scan(self, sr: str, expected: frozenset[str] = frozenset()) -> Scan:
        with self.lock:
            vdis = self._sr(sr).vdis
            return Scan(
                vdis=tuple(vdis[uuid].describe() for uuid in sorted(vdis)),
                orphans=tuple(sorted(vdis.keys() - expected)),
                missing=tuple(sorted(expected - vdis.keys())),
                damaged=(),
                foreign=(),
            )

    # VDIs

    def create(self, sr: str, vdi: str, *, virtual_size: int, format: Format = Format.QCOW2) -> Vdi:
        check_uuid(vdi)
        size = whole_sectors(virtual_size)
        if format is Format.VHD:
            raise Unsupported("VDIs are kept as qcow2 or raw")
        with self.lock:
            found = self._sr(sr)
            found.check_new(vdi)
            found.check_space(_META)
            found.vdis[vdi] = _Vdi(vdi, format, size)
            return found.vdis[vdi].describe()

    def destroy(self, sr: str, vdi: str) -> None:
        check_uuid(vdi)
        with self.lock:
            found = self._sr(sr)
            if vdi in found.vdis:
                found.claims.check_unused(vdi)
                self._replace(found, found.vdis.pop(vdi).clusters)

    @staticmethod
    def _replace(sr: _Sr, clusters: Clusters) -> None:
        """A VDI gave this content up: when one VDI is left with it, it is that VDI's own again."""
        left = [vdi for vdi in sr.vdis.values() if vdi.clusters is clusters]
        if len(left) == 1:
            left[0].shared = False

    def stat(self, sr: str, vdi: str) -> Vdi:
        check_uuid(vdi)
        with self.lock:
            return self._sr(sr).vdi(vdi).describe()

    def clone(self, sr: str, vdi: str, new: str) -> Vdi:
        check_uuid(vdi, new)
        with self.lock:
            found = self._sr(sr)
            source = found.vdi(vdi)
            found.claims.check_no_writer(vdi)
            found.check_new(new)
            if source.format is Format.RAW:
                return self.copy(sr, vdi, sr, new)
            found.check_space(2 * _META)
            source.shared = bool(source.clusters)
            found.vdis[new] = replace(source, uuid=new)
            return found.vdis[new].describe()

    def copy(self, sr: str, vdi: str, to_sr: str, new: str, *, progress: Progress = no_progress) -> Vdi:
        check_uuid(vdi, new)
        with self.lock:
            source, target = self._sr(sr).vdi(vdi), self._sr(to_sr)
            self._sr(sr).claims.check_no_writer(vdi)
            target.check_new(new)
            needed = _META + len(source.clusters) * CLUSTER
            target.check_space(needed)
            self.check_memory(to_sr, needed)
            progress(0.0)
            progress(1.0)
            target.vdis[new] = replace(source, uuid=new, clusters=dict(source.clusters), shared=False)
            return target.vdis[new].describe()

    def resize(self, sr: str, vdi: str, virtual_size: int) -> Vdi:
        check_uuid(vdi)
        size = whole_sectors(virtual_size)
        with self.lock:
            found = self._sr(sr)
            node = found.vdi(vdi)
            found.claims.check_unused(vdi)
            if size < node.virtual_size:
                raise CannotShrink(vdi, node.virtual_size, size)
            node.virtual_size = size
            return node.describe()

    def activate(self, sr: str, vdi: str, user: str, *, read_only: bool) -> Opened:
        check_uuid(vdi)
        with self.lock:
            found = self._sr(sr)
            node = found.vdi(vdi)
            found.claims.take(vdi, user, read_only=read_only)
            path = Path("/nonexistent") / sr / f"{vdi}.{node.format.value}"
            return Opened(path=path, format=node.format, read_only=read_only)

    def deactivate(self, sr: str, vdi: str, user: str) -> None:
        check_uuid(sr, vdi)
        with self.lock:
            if sr in self._srs:
                self._srs[sr].claims.drop(vdi, user)

    def users(self, sr: str, vdi: str) -> tuple[str, ...]:
        check_uuid(vdi)
        with self.lock:
            self._sr(sr).vdi(vdi)
            return self._sr(sr).claims.users(vdi)

    def introduce(self, sr: str, vdi: str) -> Vdi:
        return self.stat(sr, vdi)

    def forget(self, sr: str, vdi: str) -> None:
        check_uuid(vdi)
        with self.lock:
            self._sr(sr).claims.check_unused(vdi)

    # bodies

    def import_vdi(self, sr: str, vdi: str, *, format: Format, length: int | None = None) -> ImportWriter:
        check_uuid(vdi)
        with self.lock:
            return _Import(self, self._sr(sr), vdi, format, length)

    def export_vdi(self, sr: str, vdi: str, *, format: Format) -> ExportReader:
        check_uuid(vdi)
        with self.lock:
            return _Export(self, self._sr(sr), vdi, format)

    def close(self) -> None:
        with self.lock:
            for sr in self._srs.values():
                sr.attached = False

    def replace_content(self, sr: _Sr, vdi: str, clusters: Clusters) -> Vdi:
        """An import is complete."""
        with self.lock:
            node = sr.vdis[vdi]
            old, node.clusters, node.shared = node.clusters, clusters, False
            self._replace(sr, old)
            return node.describe()


class _Import:
    """The body is kept in a temporary file without a name, then cut into clusters."""

    def __init__(self, storage: SimulatedStorage, sr: _Sr, vdi: str, format: Format, length: int | None) -> None:
        node = sr.vdi(vdi)
        self._body = Body(vdi, format, node.virtual_size, length)
        sr.check_space(CLUSTER)
        sr.claims.check_unused(vdi)
        sr.claims.take(vdi, "import", read_only=False)
        self._storage, self._sr, self._vdi = storage, sr, vdi
        self._clusters: dict[int, bytes] = {}
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 — closed by abort
        self._open = True

    def _hold(self, number: int) -> None:
        """Take space for one more cluster or piece of a body."""
        with self._storage.lock:
            self._sr.check_space(number)
            self._storage.check_memory(self._sr.uuid, number)
            self._sr.writing[self._vdi] = self._sr.writing.get(self._vdi, 0) + number

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        assert self._open, "write after finish or abort"
        data = bytes(chunk)
        at = self._body.received
        self._body.take(data)
        if self._body.format is Format.RAW and not any(data):
            return  # a hole
        self._hold(len(data))
        self._spool.seek(at)
        self._spool.write(data)

    def finish(self) -> Vdi:
        assert self._open, "finish after finish or abort"
        try:
            self._body.end()
            self._spool.flush()
            self._cut()
            return self._storage.replace_content(self._sr, self._vdi, self._clusters)
        finally:
            self.abort()

    def _cut(self) -> None:
        with self._storage.lock:
            self._sr.writing.pop(self._vdi, None)
        try:
            source = self._source()
            try:
                self._body.check_size(source.size)
                for first, behind in _clusters_of(source):
                    for number in range(first, behind):
                        data = read(source, number * CLUSTER, CLUSTER)
                        if data != ZEROS:
                            self._hold(CLUSTER)
                            self._clusters[number] = data
            finally:
                source.close()
        except BrokenImage as why:
            raise ImageRejected(str(why)) from why

    def _source(self) -> Source:
        path = Path(f"/proc/self/fd/{self._spool.fileno()}")
        match self._body.format:
            case Format.RAW:
                self._spool.truncate(self._body.received)
                return RawSource(path)
            case Format.VHD:
                return open_vhd(path)
            case Format.QCOW2:
                self._spool.seek(0)
                if self._body.qcow2(self._spool.read(HEAD)).incompatible & (COMPRESSION | EXTENDED_L2):
                    raise ImageRejected("qcow2 with zstd or extended L2 entries: not in the simulation")
                return Qcow2Source.open(path)

    def abort(self) -> None:
        if not self._open:
            return
        self._open = False
        self._spool.close()
        with self._storage.lock:
            self._sr.writing.pop(self._vdi, None)
            self._sr.claims.drop(self._vdi, "import")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


def _clusters_of(source: Source) -> Iterator[tuple[int, int]]:
    """(first, behind) numbers of the clusters that hold data, each once."""
    following = 0
    for offset, length in source.extents(0, source.size):
        first, behind = max(offset // CLUSTER, following), -(-(offset + length) // CLUSTER)
        if first < behind:
            yield first, behind
            following = behind


class _Export:
    def __init__(self, storage: SimulatedStorage, sr: _Sr, vdi: str, format: Format) -> None:
        self._storage, self._sr, self._vdi = storage, sr, vdi
        self._user = f"export {uuid4()}"
        node = sr.vdi(vdi)
        sr.claims.check_no_writer(vdi)
        self._length, self._chunks = stream(MemorySource(node.virtual_size, node.clusters), format)
        sr.claims.take(vdi, self._user, read_only=True)

    @property
    def length(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        with self._storage.lock:
            self._sr.claims.drop(self._vdi, self._user)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
