"""The ports' errors in XenAPI's words: one table, used around every port call that a caller waits for.

What is not in a table is our bug: INTERNAL_ERROR, and a traceback in the log.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from xenstack.host.database.store import Store
from xenstack.host.hypervisor import port as hypervisor
from xenstack.host.network import port as network
from xenstack.host.operations.machine import NULL
from xenstack.host.storage import port as storage
from xenstack.xenapi.errors import (
    BridgeNotAvailable,
    DeviceAlreadyAttached,
    DeviceDetachRejected,
    HostNotEnoughFreeMemory,
    InternalError,
    InvalidValue,
    OperationNotAllowed,
    SrDeviceInUse,
    SrFull,
    SrHasNoPbds,
    SrNotEmpty,
    SrUuidExists,
    VdiInUse,
    VdiIoError,
    VdiMissing,
    VdiTooSmall,
    VmBadPowerState,
    XenAPIError,
)

log = logging.getLogger(__name__)


@contextmanager
def spoken(store: Store, operation: str, ref: str = NULL) -> Iterator[None]:
    """Translate port errors inside the block. `ref` is the VM, VBD or VIF that the operation is about."""
    try:
        yield
    except hypervisor.HypervisorError as why:
        raise _of_hypervisor(why, operation, ref) from why
    except network.NetworkError as why:
        raise _of_network(why) from why
    except storage.StorageError as why:
        raise of_storage(store, why, operation) from why


def _of_hypervisor(why: hypervisor.HypervisorError, operation: str, ref: str) -> XenAPIError:
    table: dict[type, Callable[[Any], XenAPIError]] = {
        hypervisor.DomainMissing: lambda e: VmBadPowerState(ref, "running", "halted"),
        hypervisor.DomainExists: lambda e: VmBadPowerState(ref, "halted", "running"),
        hypervisor.BadDomainState: lambda e: VmBadPowerState(ref, e.expected, e.actual),
        hypervisor.DeviceExists: lambda e: DeviceAlreadyAttached(ref),
        hypervisor.DetachRejected: lambda e: DeviceDetachRejected(
            operation.partition(".")[0], ref, "the guest did not let go of the device in time"
        ),
        hypervisor.NotEnoughMemory: lambda e: HostNotEnoughFreeMemory(str(e.needed), str(e.available)),
        hypervisor.FileUnusable: lambda e: VdiIoError(f"{e.path.rsplit('/', 1)[-1]}: {e.reason}"),
        hypervisor.InvalidSpec: lambda e: InvalidValue(operation, e.reason),
        hypervisor.Unsupported: lambda e: OperationNotAllowed(e.reason),
        hypervisor.Unavailable: lambda e: InternalError(f"the hypervisor does not answer: {e.reason}"),
        hypervisor.TimedOut: lambda e: InternalError(f"the hypervisor took too long to {e.verb}"),
    }
    return _in(table, why)


def _of_network(why: network.NetworkError) -> XenAPIError:
    table: dict[type, Callable[[Any], XenAPIError]] = {
        network.BridgeMissing: lambda e: BridgeNotAvailable(e.bridge),
        network.InvalidPort: lambda e: InvalidValue("network", e.reason),
        network.BridgeInUse: lambda e: OperationNotAllowed(f"the bridge {e.bridge} is in use"),
        network.SwitchUnavailable: lambda e: InternalError(f"the virtual switch does not answer: {e.reason}"),
    }
    return _in(table, why)


def of_storage(store: Store, why: storage.StorageError, operation: str) -> XenAPIError:
    """One storage error; the HTTP edge uses it for imports and exports, too."""

    def vdi(uuid: str) -> str:
        return _ref(store, "VDI", uuid)

    table: dict[type, Callable[[Any], XenAPIError]] = {
        storage.SrFull: lambda e: SrFull(str(e.needed), str(e.available)),
        storage.VdiInUse: lambda e: VdiInUse(vdi(e.vdi), operation),
        storage.VdiMissing: lambda e: VdiMissing(_ref(store, "SR", e.sr), vdi(e.vdi)),
        storage.CannotShrink: lambda e: VdiTooSmall(vdi(e.vdi), str(e.virtual_size)),
        storage.ImageTooLarge: lambda e: VdiTooSmall(vdi(e.vdi), str(e.image_size)),
        storage.SrNotAttached: lambda e: SrHasNoPbds(_ref(store, "SR", e.sr)),
        storage.SrNotEmpty: lambda e: SrNotEmpty(),
        storage.SrInUse: lambda e: SrDeviceInUse(),
        storage.SrExists: lambda e: SrUuidExists(e.sr),
        storage.Unsupported: lambda e: OperationNotAllowed(e.reason),
        storage.InvalidArgument: lambda e: InvalidValue(operation, e.reason),
        storage.ImageRejected: lambda e: VdiIoError(e.reason),
        storage.IoFailed: lambda e: VdiIoError(e.reason),
        storage.BodyTruncated: lambda e: VdiIoError(f"the body ended after {e.received} of {e.declared} bytes"),
    }
    return _in(table, why)


def _in(table: Mapping[type, Callable[[Any], XenAPIError]], why: Exception) -> XenAPIError:
    translated = table.get(type(why))
    if translated is None:
        log.error("no XenAPI error is known for this", exc_info=why)
        return InternalError(f"{type(why).__name__}: {why}")
    return translated(why)


def _ref(store: Store, cls: str, uuid: str) -> str:
    found = store.where(cls, uuid=uuid)
    return found[0] if found else uuid
