"""qemu-img for the few images our own reader does not know: checked header, told format, bounded time and memory."""

import errno
import os
from pathlib import Path

from xenstack.host.storage.file.folder import Folder
from xenstack.host.storage.port import ImageRejected
from xenstack.run import CommandFailed, run

_MEMORY = 2 << 30  # bytes of address space; hostile tables must not take the machine's
_CPU_S = 600


def convert_to_raw(folder: Folder, source: Path, target: Path) -> None:
    """Read a qcow2 file whose header was accepted into a sparse raw file. Raises SrFull, ImageRejected."""
    limits = ("prlimit", f"--as={_MEMORY}", f"--cpu={_CPU_S}", "--core=0")
    # -U is not given: nobody else may have the file; the format is told, so that a body cannot choose its parser
    node = f"driver=qcow2,file.driver=file,file.filename={str(source).replace(',', ',,')}"
    try:
        run(*limits, "qemu-img", "convert", "-q", "--image-opts", node, "-O", "raw", target, timeout_s=2 * _CPU_S)
    except CommandFailed as why:
        if os.strerror(errno.ENOSPC) in why.output:
            raise folder.translated(OSError(errno.ENOSPC, "")) from why
        raise ImageRejected(f"qemu-img cannot read it: {why.output.strip()[-300:]}") from why
