"""Is this image what it should be, and harmless? Our own reading of qcow2 and VHD headers, before anything opens it.

Rules: a format is told, never probed; what is not understood is refused; numbers are bounded before they are used.
Sources: QEMU's docs/interop/qcow2.txt (versions 2 and 3); Microsoft's Virtual Hard Disk Image Format Specification 1.0.
"""

import struct
from dataclasses import dataclass

from xenstack.host.storage.port import MAX_VIRTUAL_SIZE, SECTOR, ImageRejected

HEAD = 64 << 10  # bytes of an image's start that are looked at; header extensions must end within them
MAX_VHD_SIZE = 0xFF000000 * SECTOR  # 2040 GiB, what the format's own tools accept

_QCOW2 = struct.Struct(">4sIQIIQIIQQIIQ")  # the 72 bytes both versions share
_QCOW2_V3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_BACKING_FORMAT, _DATA_FILE, _CRYPTO = 0xE2792ACA, 0x44415441, 0x0537BE77
_MAX_L1_BYTES = 32 << 20  # as QEMU
_MAX_SNAPSHOTS = 65536

DIRTY, CORRUPT, EXTERNAL_DATA, COMPRESSION, EXTENDED_L2 = (1 << bit for bit in range(5))

_FOOTER = struct.Struct(">8sIIQI4sI4sQQIII16sB427s")
_DYNAMIC = struct.Struct(">8sQQIIII16sII512s192s256s")
_FIXED, _DYNAMIC_DISK, _DIFFERENCING = 2, 3, 4
_MIN_BLOCK, _MAX_BLOCK = 4 << 10, 256 << 20
NO_OFFSET = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2Header:
    """A qcow2 header that is sound; whether it is allowed is for the caller (`refuse_strange`)."""

    version: int
    size: int
    cluster_bits: int
    l1_entries: int
    l1_offset: int
    crypt_method: int = 0
    incompatible: int = 0
    zstd: bool = False
    backing_file: str = ""
    backing_format: str = ""
    external_data: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VhdFooter:
    """A VHD footer that is sound. `data_offset` is where a dynamic disk's header is."""

    size: int
    dynamic: bool
    data_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VhdTable:
    """Where a dynamic VHD keeps its blocks."""

    table_offset: int
    entries: int
    block_size: int


def _require(fine: bool, reason: str) -> None:
    if not fine:
        raise ImageRejected(reason)


def qcow2_header(head: bytes) -> Qcow2Header:
    """Read the start of a qcow2 image (HEAD bytes, or all of a shorter one). Raises ImageRejected."""
    _require(len(head) >= _QCOW2.size, "too short for a qcow2 header")
    (magic, version, backing_offset, backing_size, cluster_bits, size, crypt, l1_entries, l1_offset, table_offset,
     _table_clusters, snapshots, _) = _QCOW2.unpack_from(head)  # fmt: skip
    _require(magic == b"QFI\xfb", "not a qcow2 image")
    _require(version in (2, 3), f"qcow2 version {version} is not known")
    _require(9 <= cluster_bits <= 21, f"qcow2 clusters of 2^{cluster_bits} bytes")
    _require(0 < size <= MAX_VIRTUAL_SIZE, f"qcow2 virtual size {size} is not between 1 and {MAX_VIRTUAL_SIZE}")
    _require(snapshots <= _MAX_SNAPSHOTS, f"qcow2 with {snapshots} snapshots")
    incompatible, zstd, length = _qcow2_features(head) if version == 3 else (0, False, _QCOW2.size)
    extended = bool(incompatible & EXTENDED_L2)
    per_l1 = (1 << cluster_bits) * ((1 << cluster_bits) // (16 if extended else 8))
    _require(l1_entries * 8 <= _MAX_L1_BYTES and l1_entries * per_l1 >= size, "qcow2 L1 table does not fit the size")
    for offset in (l1_offset, table_offset):
        _require(offset % (1 << cluster_bits) == 0 and 0 < offset < 1 << 56, "qcow2 table at an impossible place")
    extensions_end = backing_offset or 1 << cluster_bits
    backing_format, data_file, encrypted = _qcow2_extensions(head, length, extensions_end)
    return Qcow2Header(
        version=version,
        size=size,
        cluster_bits=cluster_bits,
        l1_entries=l1_entries,
        l1_offset=l1_offset,
        crypt_method=crypt or int(encrypted),
        incompatible=incompatible,
        zstd=zstd,
        backing_file=_backing_file(head, backing_offset, backing_size),
        backing_format=backing_format,
        external_data=data_file or bool(incompatible & EXTERNAL_DATA),
    )


def _qcow2_features(head: bytes) -> tuple[int, bool, int]:
    """(incompatible features, zstd, header length) of a version 3 header."""
    _require(len(head) >= _QCOW2.size + _QCOW2_V3.size, "too short for a qcow2 version 3 header")
    incompatible, _, _, refcount_order, length = _QCOW2_V3.unpack_from(head, _QCOW2.size)
    known = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION | EXTENDED_L2
    _require(incompatible & ~known == 0, f"qcow2 with unknown incompatible features {incompatible & ~known:#x}")
    _require(refcount_order <= 6, f"qcow2 refcounts of 2^{refcount_order} bits")
    _require(104 <= length <= HEAD and length % 8 == 0 and length <= len(head), f"qcow2 header of {length} bytes")
    compression = head[104] if length > 104 else 0
    _require(compression in (0, 1), f"qcow2 compression type {compression} is not known")
    _require((compression != 0) == bool(incompatible & COMPRESSION), "qcow2 compression type contradicts its features")
    return incompatible, compression == 1, length


def _qcow2_extensions(head: bytes, at: int, end: int) -> tuple[str, bool, bool]:
    """(backing format, has a data file name, has an encryption header) of the extensions between `at` and `end`.

    As QEMU does: also behind a version 2 header, and an end marker is not required.
    """
    backing_format, data_file, encrypted = "", False, False
    cut, end = end > len(head), min(end, len(head))
    while at + _EXTENSION.size <= end:
        kind, length = _EXTENSION.unpack_from(head, at)
        if kind == 0:
            break
        at += _EXTENSION.size
        _require(length <= end - at, "qcow2 header extension reaches beyond the header")
        if kind == _BACKING_FORMAT:
            backing_format = head[at : at + length].decode("ascii", "replace")
        data_file |= kind == _DATA_FILE
        encrypted |= kind == _CRYPTO
        at += -(-length // 8) * 8
    else:
        _require(not cut, "qcow2 header extensions do not end")
    return backing_format, data_file, encrypted


def _backing_file(head: bytes, offset: int, size: int) -> str:
    if offset == 0:
        return ""
    _require(0 < size <= 1023 and offset + size <= len(head), "qcow2 backing file name at an impossible place")
    return head[offset : offset + size].decode("utf-8", "replace")


def refuse_strange(header: Qcow2Header) -> None:
    """What we take from outside stands alone: raises ImageRejected for anything that points elsewhere or is secret."""
    _require(not header.backing_file and not header.backing_format, "qcow2 with a backing file")
    _require(not header.external_data, "qcow2 with an external data file")
    _require(header.crypt_method == 0, "encrypted qcow2")
    _require(not header.incompatible & CORRUPT, "qcow2 marked as corrupt")


def _checksum(data: bytes, at: int) -> int:
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF


def vhd_footer(data: bytes) -> VhdFooter:
    """Read a footer: the last 512 bytes of a VHD, or the copy at the start of a dynamic one. Raises ImageRejected."""
    _require(len(data) == _FOOTER.size and data.startswith(b"conectix"), "not a VHD: no footer where one must be")
    _, _, version, data_offset, _, _, _, _, _, size, _, kind, checksum, _, _, _ = _FOOTER.unpack(data)
    _require(version >> 16 == 1, f"VHD version {version:#x} is not known")
    _require(checksum == _checksum(data, 64), "VHD footer with a wrong checksum")
    _require(kind != _DIFFERENCING, "differencing VHD: it needs a parent")
    _require(kind in (_FIXED, _DYNAMIC_DISK), f"VHD type {kind} is not known")
    _require(0 < size <= MAX_VHD_SIZE and size % SECTOR == 0, f"VHD virtual size {size}")
    if kind == _DYNAMIC_DISK:
        _require(SECTOR <= data_offset < 1 << 48 and data_offset % SECTOR == 0, "VHD header at an impossible place")
    return VhdFooter(size=size, dynamic=kind == _DYNAMIC_DISK, data_offset=data_offset)


def vhd_table(data: bytes, size: int) -> VhdTable:
    """Read the 1024 bytes of a dynamic VHD's header. Raises ImageRejected."""
    _require(len(data) == _DYNAMIC.size and data.startswith(b"cxsparse"), "dynamic VHD without its header")
    _, _, table_offset, version, entries, block_size, checksum, _, _, _, _, _, _ = _DYNAMIC.unpack(data)
    _require(version >> 16 == 1, f"dynamic VHD header version {version:#x} is not known")
    _require(checksum == _checksum(data, 36), "dynamic VHD header with a wrong checksum")
    _require(
        _MIN_BLOCK <= block_size <= _MAX_BLOCK and block_size & (block_size - 1) == 0, f"VHD blocks of {block_size}"
    )
    needed = -(-size // block_size)
    _require(needed <= entries <= needed + 8192, f"VHD with {entries} table entries where {needed} are needed")
    _require(SECTOR <= table_offset < 1 << 48 and table_offset % SECTOR == 0, "VHD table at an impossible place")
    return VhdTable(table_offset=table_offset, entries=needed, block_size=block_size)
