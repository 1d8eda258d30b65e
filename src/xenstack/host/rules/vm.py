"""Which operation a VM allows in which state: one table, from which refusals and allowed_operations both come.

Pure: a VM is its record (wire field name -> value). The table and the order of the checks are those of a real
xapi 26, as recorded; two of its checks are left out because here the hypervisor does what there the guest's agent
does: VM_MISSING_PV_DRIVERS and VM_LACKS_FEATURE for shutdown, reboot and suspend.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from xenstack.xenapi.errors import (
    NotSystemDomain,
    OperationBlocked,
    OperationNotAllowed,
    OtherOperationInProgress,
    ProvisionOnlyAllowedOnTemplate,
    RevertOnlyAllowedOnSnapshot,
    VmBadPowerState,
    VmIsSnapshot,
    VmIsTemplate,
    VmLacksFeature,
    VmSnapshotWithQuiesceNotSupported,
    XenAPIError,
)

Record = Mapping[str, Any]

_H, _P, _S, _R = "Halted", "Paused", "Suspended", "Running"
_ANY = (_H, _P, _S, _R)

STATES: Mapping[str, tuple[str, ...]] = {
    "snapshot": _ANY,
    "clone": (_H,),
    "copy": (_H,),
    "create_template": (_H, _S),
    "revert": _ANY,
    "checkpoint": (_P, _S, _R),
    "snapshot_with_quiesce": (_R,),
    "provision": (_H,),
    "start": (_H,),
    "start_on": (_H,),
    "pause": (_R,),
    "unpause": (_P,),
    "clean_shutdown": (_R,),
    "clean_reboot": (_R,),
    "hard_shutdown": (_P, _S, _R),
    "power_state_reset": _ANY,
    "hard_reboot": (_P, _R),
    "suspend": (_R,),
    "csvm": (_S,),
    "resume": (_S,),
    "resume_on": (_S,),
    "pool_migrate": (_R,),
    "migrate_send": (_H, _S, _R),
    "get_boot_record": (_P, _S, _R),
    "send_sysrq": (_R,),
    "send_trigger": (_R,),
    "query_services": _ANY,
    "shutdown": (_P, _S, _R),
    "call_plugin": (_R,),
    "changing_memory_live": (_R,),
    "awaiting_memory_live": (_R,),
    "changing_dynamic_range": (_H, _R),
    "changing_static_range": (_H,),
    "changing_memory_limits": (_H,),
    "changing_shadow_memory": (_H,),
    "changing_shadow_memory_live": (_R,),
    "changing_VCPUs": (_H,),
    "changing_VCPUs_live": (_R,),
    "changing_NVRAM": (_H,),
    "assert_operation_valid": _ANY,
    "data_source_op": (_R,),
    "update_allowed_operations": _ANY,
    "make_into_template": (_H,),
    "import": (),
    "export": (_H, _S),
    "metadata_export": _ANY,
    "reverting": _ANY,
    "destroy": (_H, _S),
    "create_vtpm": (_H,),
    "sysprep": (_R,),
}
"""Operation -> the power states in which it may begin, in the order in which xapi names them."""

LISTED: tuple[str, ...] = (
    "sysprep", "create_vtpm", "destroy", "metadata_export", "export", "changing_VCPUs_live", "make_into_template",
    "changing_NVRAM", "changing_shadow_memory", "changing_static_range", "changing_dynamic_range", "migrate_send",
    "pool_migrate", "provision", "resume_on", "resume", "suspend", "hard_reboot", "hard_shutdown", "clean_reboot",
    "clean_shutdown", "unpause", "pause", "start_on", "start", "revert", "checkpoint", "copy", "clone", "snapshot",
)  # fmt: skip
"""What allowed_operations tells of, in xapi's order."""

_ON_TEMPLATE = {
    "changing_dynamic_range", "changing_static_range", "changing_memory_limits", "changing_shadow_memory",
    "changing_VCPUs", "changing_NVRAM", "clone", "copy", "export", "metadata_export", "migrate_send", "provision",
    "destroy",
    "assert_operation_valid", "update_allowed_operations", "power_state_reset", "reverting", "create_template",
}  # fmt: skip
_ON_SNAPSHOT = {
    "revert", "clone", "copy", "export", "destroy", "hard_shutdown", "metadata_export", "create_template",
    "assert_operation_valid", "update_allowed_operations", "power_state_reset", "reverting",
}  # fmt: skip
_ON_CONTROL_DOMAIN = {"data_source_op", "changing_memory_live", "awaiting_memory_live", "metadata_export",
                      "changing_dynamic_range", "changing_memory_limits", "changing_static_range", "start",
                      "changing_VCPUs", "changing_VCPUs_live"}  # fmt: skip

_TOGETHER: tuple[frozenset[str], ...] = (
    frozenset({"clone", "copy", "export"}),
    frozenset({"snapshot", "checkpoint"}),
    frozenset({"get_boot_record"}),
)
_DURING: frozenset[tuple[str, str]] = frozenset(
    {
        # the impatient operator: a guest that does not follow a request may be stopped at once
        ("clean_shutdown", "hard_shutdown"),
        ("clean_reboot", "hard_shutdown"),
        ("clean_shutdown", "hard_reboot"),
        ("clean_reboot", "hard_reboot"),
        ("reverting", "hard_shutdown"),
    }
)
"""(what is under way, what may begin beside it)"""


def check(operation: str, ref: str, vm: Record) -> XenAPIError | None:
    """Why this VM refuses the operation now; None when it does not."""
    state = vm["power_state"]
    if operation in vm["blocked_operations"]:
        return OperationBlocked(ref, vm["blocked_operations"][operation])
    if state not in STATES[operation]:
        return VmBadPowerState(ref, ", ".join(STATES[operation]).lower(), state.lower())
    current = list(vm["current_operations"].values())
    if current and not _together(operation, current):
        return OtherOperationInProgress("VM", ref, current[0], next(iter(vm["current_operations"])))
    return _special(operation, ref, vm)


def _together(operation: str, current: Sequence[str]) -> bool:
    if any(operation in group and group.issuperset(current) for group in _TOGETHER):
        return True
    return all((busy, operation) in _DURING for busy in current)


def _special(operation: str, ref: str, vm: Record) -> XenAPIError | None:
    """Templates, snapshots, the control domain, and operations with a condition of their own."""
    default_template = vm["is_default_template"] or vm["other_config"].get("default_template") == "true"
    if vm["is_a_snapshot"]:
        if operation not in _ON_SNAPSHOT:
            return VmIsSnapshot(ref, operation)
    elif vm["is_a_template"] and (operation not in _ON_TEMPLATE or (operation == "destroy" and default_template)):
        return VmIsTemplate(ref, operation)
    if operation == "provision" and not vm["is_a_template"]:
        return ProvisionOnlyAllowedOnTemplate()
    if operation == "revert" and not vm["is_a_snapshot"]:
        return RevertOnlyAllowedOnSnapshot()
    if vm["is_control_domain"] and operation not in _ON_CONTROL_DOMAIN:
        return OperationNotAllowed("Operations on domain 0 are not allowed")
    if operation == "checkpoint" and vm["power_state"] == _P:
        return VmLacksFeature(ref)
    if operation == "snapshot_with_quiesce":
        return VmSnapshotWithQuiesceNotSupported(ref)
    if operation == "query_services":
        return NotSystemDomain(ref)
    return None


def allowed(ref: str, vm: Record) -> list[str]:
    """VM.allowed_operations for this record."""
    return [operation for operation in LISTED if check(operation, ref, vm) is None]
