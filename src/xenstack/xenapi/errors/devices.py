"""Errors of disks, storage and networks."""

import dataclasses

from xenstack.xenapi.errors.tree import XenAPIError


class DeviceAlreadyAttached(XenAPIError):
    code = "DEVICE_ALREADY_ATTACHED"
    device: str


class DeviceAlreadyDetached(XenAPIError):
    code = "DEVICE_ALREADY_DETACHED"
    device: str


class DeviceAlreadyExists(XenAPIError):
    """The userdevice is taken."""

    code = "DEVICE_ALREADY_EXISTS"
    device: str


class DeviceNotAttached(XenAPIError):
    code = "DEVICE_NOT_ATTACHED"
    vbd: str


class DeviceDetachRejected(XenAPIError):
    """The guest did not let go of the device."""

    code = "DEVICE_DETACH_REJECTED"
    cls: str
    ref: str
    message: str


class DeviceDetachTimeout(XenAPIError):
    code = "DEVICE_DETACH_TIMEOUT"
    cls: str
    ref: str


class InvalidDevice(XenAPIError):
    code = "INVALID_DEVICE"
    device: str


class VbdIsEmpty(XenAPIError):
    code = "VBD_IS_EMPTY"
    vbd: str


class VbdNotEmpty(XenAPIError):
    code = "VBD_NOT_EMPTY"
    vbd: str


class VbdNotRemovableMedia(XenAPIError):
    code = "VBD_NOT_REMOVABLE_MEDIA"
    vbd: str


class VbdNotUnpluggable(XenAPIError):
    code = "VBD_NOT_UNPLUGGABLE"
    vbd: str


class VbdMissing(XenAPIError):
    code = "VBD_MISSING"


class VbdCdsMustBeReadonly(XenAPIError):
    code = "VBD_CDS_MUST_BE_READONLY"


class VdiInUse(XenAPIError):
    code = "VDI_IN_USE"
    vdi: str
    operation: str


class VdiIsSharable(XenAPIError):
    code = "VDI_IS_SHARABLE"
    vdi: str


class VdiReadonly(XenAPIError):
    code = "VDI_READONLY"
    vdi: str


class VdiTooSmall(XenAPIError):
    """`minimum` in bytes."""

    code = "VDI_TOO_SMALL"
    vdi: str
    minimum: str


class VdiTooLarge(XenAPIError):
    """`maximum` in bytes."""

    code = "VDI_TOO_LARGE"
    vdi: str
    maximum: str


class VdiMissing(XenAPIError):
    code = "VDI_MISSING"
    sr: str
    vdi: str


class VdiNotAvailable(XenAPIError):
    code = "VDI_NOT_AVAILABLE"
    vdi: str


class VdiNotManaged(XenAPIError):
    code = "VDI_NOT_MANAGED"
    vdi: str


class VdiIncompatibleType(XenAPIError):
    code = "VDI_INCOMPATIBLE_TYPE"
    vdi: str
    type: str


class VdiIoError(XenAPIError):
    code = "VDI_IO_ERROR"
    message: str


class VdiCopyFailed(XenAPIError):
    code = "VDI_COPY_FAILED"
    message: str


class LocationNotUnique(XenAPIError):
    code = "LOCATION_NOT_UNIQUE"
    sr: str
    location: str


class SrFull(XenAPIError):
    """Bytes."""

    code = "SR_FULL"
    requested: str
    maximum: str


class SrHasNoPbds(XenAPIError):
    code = "SR_HAS_NO_PBDS"
    sr: str


class SrHasPbd(XenAPIError):
    code = "SR_HAS_PBD"
    sr: str


class SrNotEmpty(XenAPIError):
    code = "SR_NOT_EMPTY"


class SrDeviceInUse(XenAPIError):
    code = "SR_DEVICE_IN_USE"


class SrUuidExists(XenAPIError):
    code = "SR_UUID_EXISTS"
    uuid: str


class SrUnknownDriver(XenAPIError):
    code = "SR_UNKNOWN_DRIVER"
    driver: str


class SrOperationNotSupported(XenAPIError):
    code = "SR_OPERATION_NOT_SUPPORTED"
    sr: str


class SrIndestructible(XenAPIError):
    code = "SR_INDESTRUCTIBLE"
    sr: str


class SrBackendFailure(XenAPIError):
    """A storage driver's own failure. `number` is the driver's; on the wire it is a part of the code."""

    code = "SR_BACKEND_FAILURE"
    status: str
    stdout: str
    stderr: str
    number: int | None = dataclasses.field(default=None, kw_only=True)

    @property
    def parameters(self) -> list[str]:
        return [self.status, self.stdout, self.stderr]

    def wire(self) -> list[str]:
        code = self.code if self.number is None else f"{self.code}_{self.number}"
        return [code, *self.parameters]


class PbdExists(XenAPIError):
    code = "PBD_EXISTS"
    sr: str
    host: str
    pbd: str


class NetworkUnmanaged(XenAPIError):
    code = "NETWORK_UNMANAGED"
    network: str


class NetworkContainsPif(XenAPIError):
    code = "NETWORK_CONTAINS_PIF"
    pifs: str


class NetworkContainsVif(XenAPIError):
    code = "NETWORK_CONTAINS_VIF"
    vifs: str


class CannotDestroySystemNetwork(XenAPIError):
    code = "CANNOT_DESTROY_SYSTEM_NETWORK"
    network: str


class BridgeNotAvailable(XenAPIError):
    code = "BRIDGE_NOT_AVAILABLE"
    bridge: str


class BridgeNameExists(XenAPIError):
    code = "BRIDGE_NAME_EXISTS"
    bridge: str


class MacInvalid(XenAPIError):
    code = "MAC_INVALID"
    mac: str


class VifInUse(XenAPIError):
    code = "VIF_IN_USE"
    network: str
    vif: str


class CannotPlugVif(XenAPIError):
    code = "CANNOT_PLUG_VIF"
    vif: str
