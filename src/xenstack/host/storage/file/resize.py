"""Growing a qcow2 VDI that holds data: QEMU's own tool moves its tables."""

import errno
import os
from pathlib import Path

from xenstack.host.storage.file.folder import Folder
from xenstack.host.storage.port import IoFailed, SrFull
from xenstack.run import CommandFailed, run


def grow_qcow2(folder: Folder, path: Path, size: int) -> None:
    """Raises SrFull, IoFailed. After a failure the image has its old size."""
    try:
        run("qemu-img", "resize", "-q", "-f", "qcow2", path, str(size), timeout_s=120)
    except CommandFailed as why:
        if os.strerror(errno.ENOSPC) in why.output:
            raise SrFull(folder.sr, 0, 0) from why
        raise IoFailed(str(why)) from why
