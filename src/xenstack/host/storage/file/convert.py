"""qemu-img for the few images our own reader does not know: checked header, told format, bounded time and memory."""

import errno
import os
import signal
from pathlib import Path

from xenstack.host.storage.file.folder import Folder
from xenstack.host.storage.port import ImageRejected, SrFull
from xenstack.run import CommandFailed, run

_MEMORY = 2 << 30  # bytes of address space; hostile tables must not take the machine's
_CPU_S = 600


def convert_to_plain(folder: Folder, source: Path, target: Path) -> None:
    """Read a qcow2 file whose header was accepted into a plain qcow2 file. Raises SrFull, ImageRejected, OSError.

    qcow2 and not raw, because its length is what it takes: so a limit on the length keeps the SR's limit.
    """
    free = folder.check_space(1)
    limits = ("prlimit", f"--as={_MEMORY}", f"--cpu={_CPU_S}", f"--fsize={free}", "--core=0")
    # the format and protocol are told, so that neither a body nor a path can choose its parser
    node = f"driver=qcow2,file.driver=file,file.filename={str(source).replace(',', ',,')}"
    try:
        run(*limits, "qemu-img", "convert", "-q", "--image-opts", node, "-O", "qcow2", target, timeout_s=2 * _CPU_S)
    except CommandFailed as why:
        full = any(os.strerror(code) in why.output for code in (errno.ENOSPC, errno.EFBIG))
        if full or why.status == -signal.SIGXFSZ:
            raise SrFull(folder.sr, 0, free) from why
        raise ImageRejected(f"qemu-img cannot read it: {why.output.strip()[-300:]}") from why
