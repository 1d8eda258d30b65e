"""Which operation an SR allows. Pure; xapi's answers, as recorded."""

from collections.abc import Mapping
from typing import Any

from xenstack.xenapi.errors import SrHasNoPbds, SrHasPbd, SrNotEmpty, XenAPIError

Record = Mapping[str, Any]

ATTACHED = (
    "vdi_introduce", "unplug", "plug", "pbd_create", "update", "pbd_destroy", "vdi_resize", "vdi_clone", "scan",
    "vdi_snapshot", "vdi_create", "vdi_destroy",
)  # fmt: skip
DETACHED = (*ATTACHED[:7], "forget", *ATTACHED[7:])


def allowed(attached: bool) -> list[str]:
    """SR.allowed_operations: `forget` only when no PBD is plugged."""
    return list(ATTACHED if attached else DETACHED)


def check_destroy(ref: str, sr: Record, attached: bool) -> XenAPIError | None:
    """Why the SR cannot be destroyed: it is plugged, has no PBD at all, or holds VDIs."""
    if attached:
        return SrHasPbd(ref)
    if not sr["PBDs"]:
        return SrHasNoPbds(ref)
    if sr["VDIs"]:
        return SrNotEmpty()
    return None


def check_forget(ref: str, attached: bool) -> XenAPIError | None:
    """Why the SR cannot be forgotten: a PBD is plugged."""
    return SrHasPbd(ref) if attached else None
