"""The bytes of a new qcow2 image's metadata: header, L1 and L2 tables, refcounts.

Version 3, 64 KiB clusters, 16-bit refcounts that are all 1, no optional feature: what every QEMU since 1.1 reads and
writes in place. Format: QEMU's docs/interop/qcow2.txt.
"""

import struct
from array import array
from collections.abc import Iterable
from sys import byteorder

from xenstack.host.storage.image.source import CLUSTER

_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_COPIED = 1 << 63  # refcount is exactly 1: QEMU may write in place
ENTRIES = CLUSTER // 8  # of an L2 table
_PER_REFCOUNT_BLOCK = CLUSTER // 2
_BACKING_FORMAT = 0xE2792ACA


def clusters_for(length: int) -> int:
    """How many clusters hold `length` bytes."""
    return -(-length // CLUSTER)


def l1_entries(virtual_size: int) -> int:
    """How many L2 tables span a virtual size."""
    return -(-virtual_size // (CLUSTER * ENTRIES))


def table(offsets: Iterable[int]) -> bytes:
    """A table of offsets, 0 = absent, for L1 and L2."""
    words = array("Q", (offset | _COPIED if offset else 0 for offset in offsets))
    if byteorder == "little":
        words.byteswap()
    return words.tobytes()


def refcount_clusters(others: int) -> tuple[int, int]:
    """(table clusters, block clusters) that count `others` clusters and themselves."""
    tables, blocks = 1, 1
    while True:
        need = -(-(others + tables + blocks) // _PER_REFCOUNT_BLOCK)
        need_tables = clusters_for(need * 8)
        if (need_tables, need) == (tables, blocks):
            return tables, blocks
        tables, blocks = need_tables, need


def refcounts(total: int, table_cluster: int, tables: int, blocks: int) -> bytes:
    """The refcount table at `table_cluster` and, right behind it, its blocks, for an image of `total` clusters."""
    first = table_cluster + tables
    words = array("Q", ((first + n) * CLUSTER for n in range(blocks)))
    if byteorder == "little":
        words.byteswap()
    head = words.tobytes().ljust(tables * CLUSTER, b"\0")
    return head + b"\0\1" * total


def header(*, virtual_size: int, l1_cluster: int, table_cluster: int, tables: int, backing: str = "") -> bytes:
    """The first bytes of the image. `backing` is the name of a qcow2 file beside it."""
    name = backing.encode()
    extension = struct.pack(">II8s", _BACKING_FORMAT, 5, b"qcow2") if name else b""
    end = extension + bytes(8)
    packed = _HEADER.pack(
        b"QFI\xfb", 3, _HEADER.size + len(end) if name else 0, len(name), 16, virtual_size, 0,
        l1_entries(virtual_size), l1_cluster * CLUSTER, table_cluster * CLUSTER, tables, 0, 0,
        0, 0, 0, 4, _HEADER.size,
    )  # fmt: skip
    return packed + end + name
