"""Which operation a VDI allows, by the VBDs that use it and what is under way.

Pure: records in, a refusal or None out. xapi's checks, as recorded.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from xenstack.xenapi.errors import (
    OtherOperationInProgress,
    SrHasNoPbds,
    VdiInUse,
    VdiIsSharable,
    XenAPIError,
)

Record = Mapping[str, Any]

LISTED = ("copy", "generate_config", "clone", "resize_online", "forget", "update", "resize", "snapshot", "destroy")
_LIVE = ("snapshot", "resize_online", "clone", "blocked", "update", "generate_config", "mirror")
_NEEDS_SR = ("resize", "generate_config", "update", "resize_online")
_SHARED = ("copy", "clone", "export")  # readers of one VDI may work side by side


def check(
    operation: str, ref: str, vdi: Record, sr_ref: str, sr_attached: bool, vbds: Iterable[Record]
) -> XenAPIError | None:
    """Why this VDI refuses the operation; None when it does not. `vbds` are those that point at it."""
    for task, busy in vdi["current_operations"].items():
        if not (operation in _SHARED and busy in _SHARED):
            return OtherOperationInProgress("VDI", ref, busy, task)
    if not sr_attached and operation in _NEEDS_SR:
        return SrHasNoPbds(sr_ref)
    users = list(vbds)
    if operation not in _LIVE and any(vbd["currently_attached"] for vbd in users):
        return VdiInUse(ref, operation)
    if operation in ("generate_config", "update") and any(vbd["currently_attached"] for vbd in users):
        return VdiInUse(ref, operation)
    for vbd in users:
        for task, busy in vbd["current_operations"].items():
            return OtherOperationInProgress("VDI", ref, busy, task)
    if operation == "snapshot" and vdi["sharable"]:
        return VdiIsSharable(ref)
    return None
