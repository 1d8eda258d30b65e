"""What every image reader gives: the extents that hold data, and the data. And the two simplest readers.

Rules: extents ascend and do not overlap; what lies outside them reads as zeros; extents may hold zeros too.
A reader changes nothing and is used by one thread at a time. `BrokenImage` means that the image's tables lie.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from typing import Protocol

CHUNK = 1 << 20  # the most that one block holds, in bytes
CLUSTER = 64 << 10  # the granularity in which all images here are written
ZEROS = bytes(CLUSTER)


class BrokenImage(Exception):
    """The image contradicts itself or ends early; the text says how."""


class Source(Protocol):
    """An image that is being read."""

    @property
    def size(self) -> int:
        """The virtual size in bytes."""

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(offset, length) of what holds data between start and end. Raises BrokenImage, OSError."""

    def blocks(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """(offset, data) of the same, in pieces of at most CHUNK bytes. Raises BrokenImage, OSError."""

    def close(self) -> None:
        """Let go of the files; no error a second time."""


def read(source: Source, start: int, length: int) -> bytes:
    """A range with its zeros; what lies beyond the source's end is zeros too."""
    data = bytearray(length)
    for offset, block in source.blocks(start, min(start + length, source.size)):
        if len(block) == length:
            return block
        data[offset - start : offset - start + len(block)] = block
    return bytes(data)


def pread_all(fd: int, length: int, offset: int) -> bytes:
    """Read until `length` bytes or the end of the file."""
    data = os.pread(fd, length, offset)
    while len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
        data += more
    return data


class RawSource:
    """A raw file, sparse or not. `window` limits it to its first bytes (a fixed VHD has a footer behind)."""

    def __init__(self, path: str | os.PathLike[str], window: int | None = None) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        length = os.fstat(self._fd).st_size
        self.size = length if window is None else window
        if self.size > length:
            self.close()
            raise BrokenImage(f"{length} bytes where {window} must be")

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        end = min(end, self.size)
        while start < end:
            try:
                data = os.lseek(self._fd, start, os.SEEK_DATA)
            except OSError as why:
                if why.errno == errno.ENXIO:  # only a hole is left
                    return
                raise
            if data >= end:
                return
            hole = min(os.lseek(self._fd, data, os.SEEK_HOLE), end)
            yield data, hole - data
            start = hole

    def blocks(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        for offset, length in self.extents(start, end):
            for at in range(offset, offset + length, CHUNK):
                yield at, pread_all(self._fd, min(CHUNK, offset + length - at), at)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class MemorySource:
    """Clusters of an image in memory: cluster number -> CLUSTER bytes, those of zeros left out."""

    def __init__(self, size: int, clusters: Mapping[int, bytes]) -> None:
        self.size = size
        self._clusters = clusters

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        for number in sorted(self._clusters):
            low, high = max(number * CLUSTER, start), min((number + 1) * CLUSTER, end, self.size)
            if low < high:
                yield low, high - low

    def blocks(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        for offset, length in self.extents(start, end):
            within = offset % CLUSTER
            yield offset, self._clusters[offset // CLUSTER][within : within + length]

    def close(self) -> None:
        pass
