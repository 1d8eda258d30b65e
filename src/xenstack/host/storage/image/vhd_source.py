"""Reading a fixed or dynamic VHD without QEMU. The block table is hostile: every place is checked against the file.

A dynamic disk's sector bitmaps are not looked at: sectors that were never written hold zeros in the block (what QEMU
and XenServer's tools rely on too). Format: Microsoft's Virtual Hard Disk Image Format Specification 1.0.
"""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from sys import byteorder

from xenstack.host.storage.image.source import CHUNK, BrokenImage, RawSource, Source, pread_all
from xenstack.host.storage.inspect import VhdFooter, VhdTable, vhd_footer, vhd_table
from xenstack.host.storage.port import SECTOR, ImageRejected

UNUSED = 0xFFFFFFFF  # table entry of a block that is not there


class _DynamicSource:
    def __init__(self, path: Path, footer: VhdFooter) -> None:
        self.size = footer.size
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._length = os.fstat(self._fd).st_size
            self._header: VhdTable = vhd_table(pread_all(self._fd, 1024, footer.data_offset), footer.size)
            data = pread_all(self._fd, self._header.entries * 4, self._header.table_offset)
            if len(data) < self._header.entries * 4:
                raise BrokenImage("the image ends within its block table")
        except BaseException:
            self.close()
            raise
        self._table = array("I", data)
        if byteorder == "little":
            self._table.byteswap()
        bits = self._header.block_size // SECTOR
        self._bitmap = -(-bits // (8 * SECTOR)) * SECTOR

    def _places(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(guest offset, length, offset in the file) of the blocks that are there."""
        size = self._header.block_size
        end = min(end, self.size)
        for number in range(start // size, -(-end // size)):
            if self._table[number] == UNUSED:
                continue
            low, high = max(number * size, start), min((number + 1) * size, end)
            place = self._table[number] * SECTOR + self._bitmap + low - number * size
            if place + high - low > self._length:
                raise BrokenImage(f"the image ends within block {number}")
            yield low, high - low, place

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        for offset, length, _ in self._places(start, end):
            yield offset, length

    def blocks(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        for offset, length, place in self._places(start, end):
            for done in range(0, length, CHUNK):
                yield offset + done, pread_all(self._fd, min(CHUNK, length - done), place + done)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_vhd(path: Path) -> Source:
    """A source for a VHD file of either kind. Raises ImageRejected, BrokenImage, OSError."""
    length = path.stat().st_size
    if length < SECTOR:
        raise ImageRejected("too short for a VHD")
    with path.open("rb") as file:
        first = file.read(SECTOR)
        file.seek(length - SECTOR)
        last = file.read(SECTOR)
    if not last.startswith(b"conectix") and first.startswith(b"conectix"):
        raise BrokenImage("the image ends without a footer")
    footer = vhd_footer(last)
    return _DynamicSource(path, footer) if footer.dynamic else RawSource(path, footer.size)
