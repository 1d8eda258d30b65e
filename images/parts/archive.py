"""The initramfs: a cpio archive ("newc") written here, so that the same tree gives the same bytes on every machine.

Owner and group are the numbers of the files on disk, times are 0, order is by name.
"""

import gzip
import os
import stat
from pathlib import Path
from typing import BinaryIO, cast


def write(tree: Path, target: Path) -> None:
    """Write the whole tree as a gzipped newc archive. Raises OSError."""
    with target.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as compressed:
        out = cast(BinaryIO, compressed)
        for number, path in enumerate(sorted(tree.rglob("*")), start=1):
            _entry(out, number, str(path.relative_to(tree)), path)
        _header(out, 0, "TRAILER!!!", 0, 1, (0, 0), 0)


def _entry(out: BinaryIO, number: int, name: str, path: Path) -> None:
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        body = os.fsencode(path.readlink())
    elif stat.S_ISREG(info.st_mode):
        body = path.read_bytes()
    elif stat.S_ISDIR(info.st_mode):
        body = b""
    else:
        raise OSError(f"{path}: only files, folders and links can be in the image")
    _header(out, number, name, info.st_mode, 1, (info.st_uid, info.st_gid), len(body))
    out.write(body + b"\0" * (-len(body) % 4))


def _header(out: BinaryIO, number: int, name: str, mode: int, links: int, owner: tuple[int, int], size: int) -> None:
    encoded = os.fsencode(name) + b"\0"
    numbers = (number, mode, *owner, links, 0, size, 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % n for n in numbers) + encoded
    out.write(head + b"\0" * (-len(head) % 4))
