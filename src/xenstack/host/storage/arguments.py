"""The rules for what callers may pass to the port; both adapters check here, before they touch anything."""

import re

from xenstack.host.storage.port import MAX_VIRTUAL_SIZE, SECTOR, InvalidArgument

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_uuid(text: str) -> bool:
    """Uuids become file names: lower case, nothing else."""
    return _UUID.fullmatch(text) is not None


def check_uuid(*texts: str) -> None:
    """Raises InvalidArgument for what is no uuid."""
    for text in texts:
        if not is_uuid(text):
            raise InvalidArgument(f"{text[:50]!r} is not a uuid in lower case")


def whole_sectors(virtual_size: int) -> int:
    """A virtual size as VDIs have it, rounded up. Raises InvalidArgument."""
    if not 0 < virtual_size <= MAX_VIRTUAL_SIZE:
        raise InvalidArgument(f"a virtual size of {virtual_size} bytes is not between 1 and {MAX_VIRTUAL_SIZE}")
    return -(-virtual_size // SECTOR) * SECTOR


def check_limit(size_limit: int | None) -> None:
    """Raises InvalidArgument for a limit that is none."""
    if size_limit is not None and size_limit <= 0:
        raise InvalidArgument(f"a size limit of {size_limit} bytes")
