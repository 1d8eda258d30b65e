"""Errors of VMs."""

from xenstack.xenapi.errors.tree import XenAPIError


class VmBadPowerState(XenAPIError):
    """States in lower case; `expected` may be several, joined by commas."""

    code = "VM_BAD_POWER_STATE"
    vm: str
    expected: str
    actual: str


class VmIsTemplate(XenAPIError):
    code = "VM_IS_TEMPLATE"
    vm: str
    operation: str


class VmIsSnapshot(XenAPIError):
    code = "VM_IS_SNAPSHOT"
    vm: str
    operation: str


class VmLacksFeature(XenAPIError):
    code = "VM_LACKS_FEATURE"
    vm: str


class VmMissingPvDrivers(XenAPIError):
    code = "VM_MISSING_PV_DRIVERS"
    vm: str


class VmHvmRequired(XenAPIError):
    code = "VM_HVM_REQUIRED"
    vm: str


class VmNoVcpus(XenAPIError):
    code = "VM_NO_VCPUS"
    vm: str


class VmTooManyVcpus(XenAPIError):
    code = "VM_TOO_MANY_VCPUS"
    vm: str
    host: str


class VmShutdownTimeout(XenAPIError):
    code = "VM_SHUTDOWN_TIMEOUT"
    vm: str
    timeout: str


class VmFailedShutdownAcknowledgment(XenAPIError):
    code = "VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT"
    vm: str


class VmHasNoSuspendVdi(XenAPIError):
    code = "VM_HAS_NO_SUSPEND_VDI"
    vm: str


class VmNoSuspendSr(XenAPIError):
    code = "VM_NO_SUSPEND_SR"
    vm: str


class VmRequiresSr(XenAPIError):
    code = "VM_REQUIRES_SR"
    vm: str
    sr: str


class VmRequiresNetwork(XenAPIError):
    code = "VM_REQUIRES_NETWORK"
    vm: str
    network: str


class VmCrashed(XenAPIError):
    code = "VM_CRASHED"
    vm: str


class VmHalted(XenAPIError):
    code = "VM_HALTED"
    vm: str


class VmRebooted(XenAPIError):
    code = "VM_REBOOTED"
    vm: str


class VmBiosStringsAlreadySet(XenAPIError):
    code = "VM_BIOS_STRINGS_ALREADY_SET"


class VmSnapshotWithQuiesceNotSupported(XenAPIError):
    code = "VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED"
    vm: str


class NotSystemDomain(XenAPIError):
    code = "NOT_SYSTEM_DOMAIN"
    vm: str


class DomainExists(XenAPIError):
    code = "DOMAIN_EXISTS"
    vm: str
    domid: str


class ProvisionOnlyAllowedOnTemplate(XenAPIError):
    code = "PROVISION_ONLY_ALLOWED_ON_TEMPLATE"


class RevertOnlyAllowedOnSnapshot(XenAPIError):
    code = "REVERT_ONLY_ALLOWED_ON_SNAPSHOT"


class MemoryConstraintViolation(XenAPIError):
    code = "MEMORY_CONSTRAINT_VIOLATION"
    constraint: str


class MemoryConstraintViolationOrder(XenAPIError):
    code = "MEMORY_CONSTRAINT_VIOLATION_ORDER"


class BootloaderFailed(XenAPIError):
    code = "BOOTLOADER_FAILED"
    vm: str
    message: str


class UnknownBootloader(XenAPIError):
    code = "UNKNOWN_BOOTLOADER"
    vm: str
    bootloader: str


class LicenceRestriction(XenAPIError):
    code = "LICENCE_RESTRICTION"
    feature: str
