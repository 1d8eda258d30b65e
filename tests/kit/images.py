"""Images for tests, made byte by byte: so that tests of our readers do not rest on our writers, nor on QEMU."""

import random
import struct
import zlib
from collections.abc import Iterable
from uuid import uuid4

KIB, MIB = 1 << 10, 1 << 20


def uuid() -> str:
    return str(uuid4())


def noise(length: int, seed: int = 1) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(length)


def pieces(body: bytes, size: int = 100_000) -> Iterable[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


def qcow2(
    data: bytes,
    *,
    version: int = 3,
    size: int | None = None,
    cluster_bits: int = 16,
    compressed: bool = False,
    backing: bytes = b"",
    extensions: bytes = b"",
    incompatible: int = 0,
    crypt: int = 0,
    l1_entries: int | None = None,
) -> bytes:
    """A qcow2 image that holds `data` at its start. Its refcounts are left out: no reader looks at them."""
    cluster = 1 << cluster_bits
    size = len(data) if size is None else size
    entries = cluster // 8
    l1_count = max(1, -(-size // (cluster * entries)))
    l2_count = -(-len(data) // (cluster * entries))
    l1_at = 2 * cluster
    l2_at = l1_at + -(-l1_count * 8 // cluster) * cluster
    at = l2_at + l2_count * cluster
    stored, l2 = bytearray(), [0] * (l2_count * entries)
    for n, start in enumerate(range(0, len(data), cluster)):
        piece = data[start : start + cluster].ljust(cluster, b"\0")
        if compressed:
            deflater = zlib.compressobj(9, zlib.DEFLATED, -12)
            packed = deflater.compress(piece) + deflater.flush()
            first, last = at + len(stored), at + len(stored) + len(packed) - 1
            bits = 62 - (cluster_bits - 8)
            l2[n] = 1 << 62 | (last // 512 - first // 512) << bits | first
            stored += packed
        else:
            l2[n] = at + len(stored) | 1 << 63
            stored += piece
    header_length = 104 if version == 3 else 72
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", version, header_length + len(extensions) if backing else 0, len(backing),
        cluster_bits, size, crypt, l1_count if l1_entries is None else l1_entries, l1_at, cluster, 1, 0, 0,
    )  # fmt: skip
    if version == 3:
        head += struct.pack(">QQQII", incompatible, 0, 0, 4, 104)
    head += extensions + backing + (b"" if backing else bytes(8))
    l1 = struct.pack(f">{l1_count}Q", *(l2_at + n * cluster if n < l2_count else 0 for n in range(l1_count)))
    tables = l1.ljust(l2_at - l1_at, b"\0") + struct.pack(f">{len(l2)}Q", *l2)
    return head.ljust(2 * cluster, b"\0") + tables + bytes(stored)


def extension(kind: int, data: bytes) -> bytes:
    """A qcow2 header extension."""
    return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)


def sealed(data: bytes, at: int) -> bytes:
    """VHD's checksum put in its place."""
    data = data[:at] + bytes(4) + data[at + 4 :]
    return data[:at] + struct.pack(">I", ~sum(data) & 0xFFFFFFFF) + data[at + 4 :]


def vhd_footer(size: int, kind: int, data_offset: int) -> bytes:
    return sealed(
        struct.pack(
            ">8sIIQI4sI4sQQIII16sB427s", b"conectix", 2, 0x10000, data_offset, 0, b"test", 0, b"Wi2k", size, size, 0,
            kind, 0, uuid4().bytes, 0, b"",
        ),
        64,
    )  # fmt: skip


def fixed_vhd(data: bytes) -> bytes:
    return data + vhd_footer(len(data), 2, (1 << 64) - 1)


def dynamic_vhd(data: bytes, *, size: int | None = None, kind: int = 3, block: int = 2 * MIB) -> bytes:
    """A dynamic VHD that holds `data` at its start."""
    size = len(data) if size is None else size
    entries = -(-size // block)
    table_length = -(-entries * 4 // 512) * 512
    bitmap = -(-(block // 512) // 4096) * 512
    header = sealed(
        struct.pack(
            ">8sQQIIII16sII512s192s256s", b"cxsparse", (1 << 64) - 1, 1536, 0x10000, entries, block, 0, b"", 0, 0, b"",
            b"", b"",
        ),
        36,
    )  # fmt: skip
    table, blocks = [0xFFFFFFFF] * (table_length // 4), b""
    for n, start in enumerate(range(0, len(data), block)):
        table[n] = (1536 + table_length + len(blocks)) // 512
        blocks += b"\xff" * bitmap + data[start : start + block].ljust(block, b"\0")
    footer = vhd_footer(size, kind, 512)
    return footer + header + struct.pack(f">{len(table)}I", *table) + blocks + footer
