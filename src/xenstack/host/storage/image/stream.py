"""An image as a body of known length, made while it is sent: raw, qcow2 or VHD from any source.

The source's extents are known before its data is read, so the tables can go first and nothing temporary is needed.
The source must not change meanwhile (the port's read-only user sees to it).
"""

import struct
from array import array
from collections.abc import Iterable, Iterator
from sys import byteorder
from uuid import uuid4

from xenstack.host.storage.image import qcow2_layout as layout
from xenstack.host.storage.image.source import CHUNK, CLUSTER, Source, read
from xenstack.host.storage.image.vhd_source import UNUSED
from xenstack.host.storage.inspect import MAX_VHD_SIZE, NO_OFFSET
from xenstack.host.storage.port import SECTOR, Format, Unsupported

_VHD_BLOCK = 2 << 20


def stream(source: Source, format: Format) -> tuple[int, Iterator[bytes]]:
    """(length, chunks) of the whole image. Raises Unsupported; the iterator raises BrokenImage, OSError."""
    match format:
        case Format.RAW:
            return source.size, _raw(source)
        case Format.QCOW2:
            return _qcow2(source)
        case Format.VHD:
            return _vhd(source)


def _zeros(length: int) -> Iterator[bytes]:
    chunk = bytes(min(length, CHUNK))
    while length:
        yield chunk[:length] if length < len(chunk) else chunk
        length -= min(length, len(chunk))


def _raw(source: Source) -> Iterator[bytes]:
    at = 0
    for offset, data in source.blocks(0, source.size):
        yield from _zeros(offset - at)
        yield data
        at = offset + len(data)
    yield from _zeros(source.size - at)


def _units(extents: Iterable[tuple[int, int]], unit: int) -> "array[int]":
    """The numbers of the units (clusters, blocks) that the extents touch."""
    numbers = array("Q")
    following = 0
    for offset, length in extents:
        first, behind = max(offset // unit, following), -(-(offset + length) // unit)
        numbers.extend(range(first, behind))
        following = max(following, behind)
    return numbers


def _neighbours(numbers: "array[int]", most: int) -> Iterator[tuple[int, int]]:
    """(first, count) of units that follow one another, at most `most` together."""
    at = 0
    while at < len(numbers):
        count = 1
        while count < most and at + count < len(numbers) and numbers[at + count] == numbers[at] + count:
            count += 1
        yield numbers[at], count
        at += count


def _qcow2(source: Source) -> tuple[int, Iterator[bytes]]:
    """Header, refcounts, L1, L2 tables, data."""
    clusters = _units(source.extents(0, source.size), CLUSTER)
    indexes = sorted({number // layout.ENTRIES for number in clusters})
    entries = layout.l1_entries(source.size)
    l1_clusters = layout.clusters_for(entries * 8)
    tables, blocks = layout.refcount_clusters(1 + l1_clusters + len(indexes) + len(clusters))
    l1_at = 1 + tables + blocks
    l2_at = l1_at + l1_clusters
    data_at = l2_at + len(indexes)
    total = data_at + len(clusters)

    def chunks() -> Iterator[bytes]:
        head = layout.header(virtual_size=source.size, l1_cluster=l1_at, table_cluster=1, tables=tables)
        yield head.ljust(CLUSTER, b"\0")
        counts = layout.refcounts(total, 1, tables, blocks).ljust((tables + blocks) * CLUSTER, b"\0")
        yield from _pieces(counts)
        l1 = [0] * entries
        for n, index in enumerate(indexes):
            l1[index] = (l2_at + n) * CLUSTER
        yield from _pieces(layout.table(l1).ljust(l1_clusters * CLUSTER, b"\0"))
        place = 0
        for index in indexes:
            l2 = [0] * layout.ENTRIES
            while place < len(clusters) and clusters[place] // layout.ENTRIES == index:
                l2[clusters[place] % layout.ENTRIES] = (data_at + place) * CLUSTER
                place += 1
            yield layout.table(l2)
        for first, count in _neighbours(clusters, CHUNK // CLUSTER):
            yield read(source, first * CLUSTER, count * CLUSTER)

    return total * CLUSTER, chunks()


def _pieces(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), CHUNK):
        yield data[at : at + CHUNK]


def _vhd(source: Source) -> tuple[int, Iterator[bytes]]:
    """A dynamic VHD: footer copy, header, block table, blocks, footer."""
    size = -(-source.size // SECTOR) * SECTOR
    if size > MAX_VHD_SIZE:
        raise Unsupported(f"a VHD cannot have {size} bytes")
    numbers = _units(source.extents(0, source.size), _VHD_BLOCK)
    entries = -(-size // _VHD_BLOCK)
    table_bytes = -(-entries * 4 // SECTOR) * SECTOR
    data_at = 512 + 1024 + table_bytes
    bitmap = b"\xff" * SECTOR  # 4096 sectors of a 2 MiB block: all valid
    step = SECTOR + _VHD_BLOCK

    def chunks() -> Iterator[bytes]:
        footer = _footer(size)
        yield footer
        yield _dynamic_header(entries)
        table = array("I", [UNUSED]) * (table_bytes // 4)
        for place, number in enumerate(numbers):
            table[number] = (data_at + place * step) // SECTOR
        if byteorder == "little":
            table.byteswap()
        yield from _pieces(table.tobytes())
        for number in numbers:
            yield bitmap
            for at in range(number * _VHD_BLOCK, (number + 1) * _VHD_BLOCK, CHUNK):
                yield read(source, at, CHUNK)
        yield footer

    return data_at + len(numbers) * step + SECTOR, chunks()


def _geometry(size: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors per track: the algorithm of the specification's appendix."""
    sectors = min(size // SECTOR, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        per_track, heads = 255, 16
        return min(sectors // per_track // heads, 65535), heads, per_track
    per_track = 17
    heads = max((sectors // per_track + 1023) // 1024, 4)
    if sectors // per_track >= heads * 1024 or heads > 16:
        per_track, heads = 31, 16
    if sectors // per_track >= heads * 1024:
        per_track, heads = 63, 16
    return sectors // per_track // heads, heads, per_track


def _sealed(data: bytes, at: int) -> bytes:
    """Put the checksum (ones' complement of the sum of all other bytes) into its four bytes, which are zero."""
    return data[:at] + struct.pack(">I", ~sum(data) & 0xFFFFFFFF) + data[at + 4 :]


def _footer(size: int) -> bytes:
    cylinders, heads, per_track = _geometry(size)
    data = struct.pack(
        # creator "qem2": readers take the size from the size field, not from the geometry, which rounds
        ">8sIIQI4sI4sQQHBBII16sB427s",
        b"conectix", 2, 0x10000, 512, 0, b"qem2", 0x50003, b"Wi2k", size, size,
        cylinders, heads, per_track, 3, 0, uuid4().bytes, 0, b"",
    )  # fmt: skip
    return _sealed(data, 64)


def _dynamic_header(entries: int) -> bytes:
    data = struct.pack(
        ">8sQQIIII16sII512s192s256s",
        b"cxsparse", NO_OFFSET, 1536, 0x10000, entries, _VHD_BLOCK, 0, b"", 0, 0, b"", b"", b"",
    )  # fmt: skip
    return _sealed(data, 36)
