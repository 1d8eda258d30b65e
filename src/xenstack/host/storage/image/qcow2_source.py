"""Reading a qcow2 image, or a chain of them, without QEMU.

The tables are hostile: every offset is checked against the file before it is used, and a cluster expands to one
cluster at most. What this reader does not know (zstd, extended L2 entries, encryption) its caller has refused.
Format: QEMU's docs/interop/qcow2.txt.
"""

import os
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from sys import byteorder
from typing import Self

from xenstack.host.storage.image.source import CHUNK, BrokenImage, pread_all
from xenstack.host.storage.inspect import HEAD, Qcow2Header, qcow2_header

_OFFSET = 0x00FFFFFFFFFFFE00  # of L1 and standard L2 entries
_COMPRESSED, _ZERO = 1 << 62, 1
_CACHED_TABLES = 64


class _Kind(Enum):
    ABSENT = auto()  # what the backing image has, or zeros
    ZERO = auto()
    DATA = auto()
    COMPRESSED = auto()


@dataclass(frozen=True, slots=True)
class _Run:
    """Guest bytes that lie together. `at` is the offset in the file, or the descriptor of a compressed cluster."""

    kind: _Kind
    offset: int
    length: int
    at: int = 0


def _big_endian(data: bytes) -> "array[int]":
    words = array("Q", data)
    if byteorder == "little":
        words.byteswap()
    return words


class _Image:
    """One file of a chain."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.header: Qcow2Header = qcow2_header(pread_all(self.fd, HEAD, 0))
            self.cluster = 1 << self.header.cluster_bits
            self._length = os.fstat(self.fd).st_size
            needed = -(-self.header.size // (self.cluster * (self.cluster // 8)))
            table = pread_all(self.fd, needed * 8, self.header.l1_offset)
            if len(table) < needed * 8:
                raise BrokenImage("the image ends before its L1 table")
            self._l1 = _big_endian(table)
            tables = [offset for entry in self._l1 if (offset := entry & _OFFSET)]
            if len(set(tables)) < len(tables):
                # one table for many entries would make a small file cost a large one's time
                raise BrokenImage("an L2 table is used twice")
        except BaseException:
            os.close(self.fd)
            raise
        self._tables: OrderedDict[int, array[int]] = OrderedDict()

    def pristine(self) -> bool:
        """Nothing was ever written to this image itself."""
        return not any(self._l1)

    def _table(self, number: int) -> "array[int] | None":
        offset = self._l1[number] & _OFFSET
        if offset == 0:
            return None
        if (found := self._tables.get(offset)) is not None:
            self._tables.move_to_end(offset)
            return found
        data = pread_all(self.fd, self.cluster, offset) if offset % self.cluster == 0 else b""
        if len(data) < self.cluster:
            raise BrokenImage(f"no L2 table at {offset}")
        self._tables[offset] = table = _big_endian(data)
        if len(self._tables) > _CACHED_TABLES:
            self._tables.popitem(last=False)
        return table

    def _classify(self, entry: int) -> tuple[_Kind, int]:
        if entry & _COMPRESSED:
            return _Kind.COMPRESSED, entry & (_COMPRESSED - 1)
        if entry & _ZERO and self.header.version == 3:
            return _Kind.ZERO, 0
        offset = entry & _OFFSET
        if offset == 0:
            return _Kind.ABSENT, 0
        if offset % self.cluster or offset >= self._length:
            raise BrokenImage(f"no cluster at {offset}: the file has {self._length} bytes")
        return _Kind.DATA, offset

    def runs(self, start: int, end: int) -> Iterator[_Run]:
        """Cover start to end (within the size) with runs."""
        per_table = self.cluster * (self.cluster // 8)
        while start < end:
            stop = min(end, (start // per_table + 1) * per_table)
            table = self._table(start // per_table)
            if table is None:
                yield _Run(_Kind.ABSENT, start, stop - start)
            else:
                yield from self._table_runs(table, start, stop)
            start = stop

    def _table_runs(self, table: "array[int]", start: int, stop: int) -> Iterator[_Run]:
        kind, first, at, length = _Kind.ABSENT, start, 0, 0
        while start < stop:
            within = start % self.cluster
            size = min(self.cluster - within, stop - start)
            found, place = self._classify(table[start // self.cluster % len(table)])
            if found is _Kind.DATA:
                place += within
            joins = length and found is kind is not _Kind.COMPRESSED
            if joins and (kind is not _Kind.DATA or place == at + length):
                length += size
            else:
                if length:
                    yield _Run(kind, first, length, at)
                kind, first, at, length = found, start, place, size
            start += size
        if length:
            yield _Run(kind, first, length, at)

    def data(self, run: _Run) -> Iterator[tuple[int, bytes]]:
        """The bytes of a DATA or COMPRESSED run."""
        if run.kind is _Kind.COMPRESSED:
            within = run.offset % self.cluster
            yield run.offset, self._inflate(run.at)[within : within + run.length]
            return
        for done in range(0, run.length, CHUNK):
            length = min(CHUNK, run.length - done)
            data = pread_all(self.fd, length, run.at + done)
            if len(data) < length:
                # QEMU leaves the file short when its last cluster ends in zeros; a shorter one was cut off
                if run.at + done + length - self._length >= self.cluster:
                    raise BrokenImage("the image ends within its data")
                data = data.ljust(length, b"\0")
            yield run.offset + done, data

    def _inflate(self, descriptor: int) -> bytes:
        bits = 62 - (self.header.cluster_bits - 8)
        offset = descriptor & ((1 << bits) - 1)
        length = ((descriptor >> bits) + 1) * 512 - (offset & 511)
        inflater = zlib.decompressobj(-12 if self.header.cluster_bits <= 12 else -15)
        try:
            data = inflater.decompress(pread_all(self.fd, length, offset), self.cluster)
        except zlib.error as why:
            raise BrokenImage(f"compressed cluster at {offset}: {why}") from why
        if len(data) != self.cluster:
            raise BrokenImage(f"compressed cluster at {offset} holds {len(data)} bytes")
        return data


class Qcow2Source:
    """A qcow2 image above its backing images: `paths` has the topmost one first; all are qcow2."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._images: list[_Image] = []
        try:
            for path in paths:
                self._images.append(_Image(path))
        except BaseException:
            self.close()
            raise
        self.size = self._images[0].header.size

    @classmethod
    def open(cls, path: Path) -> Self:
        """One image that stands alone."""
        return cls((path,))

    def pristine(self) -> bool:
        """Nothing was ever written to the topmost image itself."""
        return self._images[0].pristine()

    def _runs(self, level: int, start: int, end: int) -> Iterator[tuple[_Image, _Run]]:
        image = self._images[level]
        end = min(end, image.header.size)
        if start >= end:
            return
        for run in image.runs(start, end):
            if run.kind is _Kind.ABSENT:
                if level + 1 < len(self._images):
                    yield from self._runs(level + 1, run.offset, run.offset + run.length)
            elif run.kind is not _Kind.ZERO:
                yield image, run

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        for _, run in self._runs(0, start, end):
            yield run.offset, run.length

    def blocks(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        for image, run in self._runs(0, start, end):
            yield from image.data(run)

    def close(self) -> None:
        while self._images:
            os.close(self._images.pop().fd)
