"""Ports of an instance that exists: hot-plug, hot-unplug, and putting right what is missing."""

from typing import Any

from nova import exception
from oslo_log import log as logging

from xenstack.nova import vifs
from xenstack.nova.faults import HostFailed, translated
from xenstack.nova.host import Host
from xenstack.nova.insist import insist
from xenstack.xenapi import errors

LOG = logging.getLogger(__name__)


def attach(host: Host, instance: Any, vif: Any) -> None:
    """Add a port to the instance, at once when it runs. Raises InterfaceAttachFailed; then nothing is left of it."""
    with translated(instance):
        vm, record = host.vm(instance)
        vifs.refuse(host, vif)
        if vifs.find(host, vm, vif["id"]) is not None:
            return
        ref = vifs.create(host, vm, vifs.free_device(host, vm), vif)
        try:
            if record["power_state"] in ("Running", "Paused"):
                insist(host, "vif", "VIF.plug", ref)
        except errors.XenAPIError as why:
            LOG.error("Port %s cannot be plugged: %s", vif["id"], why, instance=instance)
            host.call("VIF.destroy", ref)
            raise exception.InterfaceAttachFailed(instance_uuid=instance.uuid) from why
        host.await_record("vif", ref, there=True)


def detach(host: Host, instance: Any, vif: Any) -> None:
    """Take a port from the instance. No error when it is not there. Raises InterfaceDetachFailed."""
    try:
        with translated(instance):
            vm, _ = host.vm(instance)
            found = vifs.find(host, vm, vif["id"])
            if found is not None:
                remove(host, found[0])
    except HostFailed as why:
        LOG.error("Port %s cannot be unplugged: %s", vif["id"], why, instance=instance)
        raise exception.InterfaceDetachFailed(instance_uuid=instance.uuid) from why


def remove(host: Host, ref: str) -> None:
    """Unplug and destroy a VIF. No error when it is gone."""
    try:
        try:
            insist(host, "vif", "VIF.unplug", ref)
        except (errors.DeviceAlreadyDetached, errors.VmBadPowerState) as why:
            LOG.debug("VIF %s is not plugged: %s", ref, why)
        host.call("VIF.destroy", ref)
    except errors.HandleInvalid:
        return
    host.await_record("vif", ref, there=False)


def plug(host: Host, instance: Any, network_info: Any) -> None:
    """Give the instance the ports it should have and lacks: Nova asks for it at its own start. An instance without a
    VM is left alone: `spawn` makes its VIFs."""
    host.settle()
    if host.records.vm_of(instance.uuid) is None:
        return
    for vif in network_info or ():
        attach(host, instance, vif)


def unplug(host: Host, instance: Any, network_info: Any) -> None:
    """Take these ports from the instance; without a VM there is nothing to take."""
    host.settle()
    if host.records.vm_of(instance.uuid) is None:
        return
    for vif in network_info or ():
        detach(host, instance, vif)
