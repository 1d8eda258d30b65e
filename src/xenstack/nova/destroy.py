"""Remove an instance from the host: its VM, and the VDIs that carry its uuid.

Idempotent: what is gone is gone, whatever half of an instance there was. VM.destroy takes VBDs, VIFs and consoles with
it; a hard shutdown of a suspended VM drops its memory image.
"""

from typing import Any

from oslo_log import log as logging

from xenstack.nova import disks, vms
from xenstack.nova.faults import translated
from xenstack.nova.host import Host
from xenstack.nova.insist import insist
from xenstack.xenapi import errors

LOG = logging.getLogger(__name__)


def destroy(host: Host, instance: Any, *, destroy_disks: bool) -> None:
    """Remove the VM and, unless the disks shall stay, the instance's VDIs. No error when there is nothing."""
    with translated(instance), host.watcher.expecting(instance.uuid, "Halted", ""):
        host.settle()
        found = host.records.vm_of(instance.uuid)
        if found is None:
            host.catch_up()  # a build may have failed a moment ago
            found = host.records.vm_of(instance.uuid)
        if found is None:
            LOG.info("There is no VM of this instance on the host", instance=instance)
        else:
            remove_vm(host, found[0], found[1]["power_state"])
        if destroy_disks:
            vdis = disks.owned(host, instance)
            disks.destroy_all(host, vdis)
            for vdi in vdis:
                host.await_record("vdi", vdi, there=False)
        if found is not None:
            host.await_record("vm", found[0], there=False)


def remove_left(host: Host, instance: Any) -> None:
    """Remove the instance's VM, looking on the host itself: the undo of a spawn that failed."""
    for vm in vms.find_left(host, instance):
        remove_vm(host, vm, "")
        host.await_record("vm", vm, there=False)


def remove_vm(host: Host, vm: str, state: str) -> None:
    """Stop a VM at once and destroy its record. No error when it is gone."""
    try:
        if state != "Halted":
            stop(host, vm)
        insist(host, "vm", "VM.destroy", vm)
    except errors.HandleInvalid:
        return


def stop(host: Host, vm: str) -> None:
    """Power a VM off at once. No error when it is off."""
    try:
        insist(host, "vm", "VM.hard_shutdown", vm)
    except errors.VmBadPowerState as why:
        if why.actual.lower() != "halted":
            raise
