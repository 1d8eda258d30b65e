"""Make an instance: image, disks, VM, VIFs, start paused, wait for Neutron, let it run.

Round trips with a cached image and one port: VDI.clone, set_other_config, set_name_label, resize; VM.create,
VBD.create, VIF.create, VM.start_on, VM.unpause: 9; a config drive adds VDI.create, one PUT and VBD.create: 12.

Disks and VM are made before the ports are asked for: Nova allocates those meanwhile. The VM is started paused so that
no packet of the guest is lost before its port is wired. When anything fails, nothing is left on the host.
"""

from functools import partial
from typing import Any

import nova.conf
from nova import exception
from nova.virt import driver as virt
from oslo_log import log as logging

from xenstack.nova import configdrive, disks, images, vifs, vms
from xenstack.nova.destroy import remove_left
from xenstack.nova.faults import translated
from xenstack.nova.host import Host
from xenstack.nova.stopwatch import Stopwatch
from xenstack.nova.undo import Undo

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)


def spawn(
    host: Host,
    virtapi: Any,
    context: Any,
    instance: Any,
    image_meta: Any,
    *,
    injected_files: Any,
    admin_password: str | None,
    network_info: Any,
    block_device_info: Any,
    power_on: bool,
) -> None:
    """Make the instance; it runs when this returns, or is halted when `power_on` is False."""
    host.settle()
    refuse(host, instance, image_meta, block_device_info)
    expecting = host.watcher.expecting(instance.uuid, "Halted", "Paused", "Running", "")
    clock = Stopwatch(host, instance)
    with translated(instance), expecting, Undo(instance) as undo:
        attached = _make_disks(host, context, instance, image_meta, block_device_info, undo)
        clock.step("disks")
        drive = None
        if configdrive.required(instance):
            drive = configdrive.create(host, instance, injected_files, admin_password, network_info, undo)
            clock.step("config drive")
        undo.add("remove the VM", partial(remove_left, host, instance))
        vm = str(host.call("VM.create", vms.record(host, instance, image_meta)))
        for userdevice, vdi in attached:
            disks.attach(host, vm, vdi, userdevice, bootable=userdevice == disks.ROOT)
        if drive is not None:
            disks.attach_cd(host, vm, drive, disks.CONFIG_DRIVE)
        clock.step("VM")
        ports = list(network_info or ())  # waits for Nova, which makes the ports meanwhile
        clock.step("ports from Neutron")
        for device, vif in enumerate(ports):
            vifs.refuse(host, vif)
            vifs.create(host, vm, device, vif)
        clock.step("VIFs")
        if power_on:
            _start(host, virtapi, instance, vm, ports, clock)
        else:
            host.await_record("vm", vm, there=True)
    clock.done("Spawned")


def refuse(host: Host, instance: Any, image_meta: Any, block_device_info: Any) -> None:
    """Refuse what cannot be built, before anything is made."""
    if host.records.vm_of(instance.uuid) is not None:
        raise exception.InstanceExists(name=instance.name)
    vms.refuse_kind(instance, image_meta)
    if virt.block_device_info_get_mapping(block_device_info):
        raise exception.BuildAbortException(
            instance_uuid=instance.uuid, reason="volumes are not supported by this version of the XenAPI driver"
        )


def _make_disks(
    host: Host, context: Any, instance: Any, image_meta: Any, block_device_info: Any, undo: Undo
) -> list[tuple[str, str]]:
    """Root, swap and ephemeral disks, as (userdevice, VDI). Swap and ephemeral disks are empty: the guest formats."""
    image = images.provide(host, context, instance, image_meta)
    root = disks.clone_root(host, instance, image.vdi, undo)
    size = disks.root_size(instance, image.virtual_size)
    if size != image.virtual_size:
        host.call("VDI.resize", root, size)
    made = [(disks.ROOT, root)]
    swap = virt.block_device_info_get_swap(block_device_info)
    if virt.swap_is_usable(swap):
        vdi = disks.create(host, instance, undo, name="swap", size=int(swap["swap_size"]) * vms.MIB)
        made.append((disks.SWAP, vdi))
    for number, disk in enumerate(virt.block_device_info_get_ephemerals(block_device_info)):
        vdi = disks.create(host, instance, undo, name=f"ephemeral {number}", size=int(disk["size"]) * disks.GIB)
        made.append((str(disks.FIRST_EPHEMERAL + number), vdi))
    return made


def _start(host: Host, virtapi: Any, instance: Any, vm: str, ports: list[Any], clock: Stopwatch) -> None:
    """Start paused, wait until Neutron has wired the ports, unpause."""
    timeout = CONF.vif_plugging_timeout
    events = vifs.awaited(ports) if timeout else []

    def failed(event: str, about: Any) -> None:
        LOG.error("Neutron failed to wire a port: %s", event, instance=about)
        if CONF.vif_plugging_is_fatal:
            raise exception.VirtualInterfaceCreateException()

    try:
        with virtapi.wait_for_instance_event(instance, events, timeout=timeout, error_callback=failed):
            host.call("VM.start_on", vm, host.ref, True, False)
            clock.step("start")
    except exception.InstanceEventTimeout as why:
        LOG.warning("Neutron did not wire the ports within %d seconds", timeout, instance=instance)
        if CONF.vif_plugging_is_fatal:
            raise exception.VirtualInterfaceCreateException() from why
    clock.step("ports wired")
    host.call("VM.unpause", vm)
    host.await_state(vm, "Running")
    clock.step("unpause")
