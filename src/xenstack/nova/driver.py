"""`compute_driver = xenapi.XenAPIDriver`: Nova's interface, each method one line into a verb.

No state is kept here but the one `Host`. Calls come on many native threads at once; Nova itself keeps two operations
on one instance apart. Methods of Nova's interface that are not defined here raise NotImplementedError in Nova's base
class; those in `capabilities.REFUSED` say why.
"""

import sys
from typing import Any, ClassVar

import nova.conf
from nova.virt import driver as virt
from nova.virt import event as virtevent
from nova.virt import hardware
from oslo_log import log as logging

from xenstack.nova import (
    console,
    destroy,
    images,
    interfaces,
    options,
    power,
    reboot,
    resources,
    spawn,
    suspend,
    vms,
)
from xenstack.nova.capabilities import CAPABILITIES, refusing
from xenstack.nova.expire import Expiry
from xenstack.nova.faults import BadConfiguration
from xenstack.nova.host import Host, connect
from xenstack.nova.records import Change

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

_TRANSITIONS = {
    "Halted": virtevent.EVENT_LIFECYCLE_STOPPED,
    "Paused": virtevent.EVENT_LIFECYCLE_PAUSED,
    "Suspended": virtevent.EVENT_LIFECYCLE_SUSPENDED,
}


@refusing
class XenAPIDriver(virt.ComputeDriver):
    """Nova's driver for one XenAPI host. Until `init_host` has returned there is no host."""

    capabilities: ClassVar[dict[str, bool]] = dict(CAPABILITIES)

    def __init__(self, virtapi: Any, read_only: bool = False) -> None:
        super().__init__(virtapi)
        options.register(CONF)
        self._host: Host | None = None
        self._expiry = Expiry()

    @property
    def host(self) -> Host:
        """The host."""
        if self._host is None:
            raise RuntimeError("init_host has not been called")
        return self._host

    # the service

    def init_host(self, host: str) -> None:
        """Connect; a wrong setting ends the service with one line that names it."""
        try:
            self._connect()
        except BadConfiguration as why:
            LOG.critical("The XenAPI driver cannot start: %s", why)
            sys.exit(1)
        images.sweep(self.host)

    def _connect(self) -> None:
        self._host = connect(CONF.xenserver, self._tell)

    def cleanup_host(self, host: str) -> None:
        """Stop the event threads and log out."""
        if self._host is not None:
            self._host.watcher.stop()
            self._host.session.close()

    def _tell(self, change: Change) -> None:
        if change.after == "Running":
            resumed = change.before in ("Paused", "Suspended")
            transition = virtevent.EVENT_LIFECYCLE_RESUMED if resumed else virtevent.EVENT_LIFECYCLE_STARTED
        else:
            transition = _TRANSITIONS[change.after]
        self.emit_event(virtevent.LifecycleEvent(change.instance, transition))

    # looking: answered from the event cache, without a round trip

    def get_info(self, instance: Any, use_cache: bool = True) -> Any:
        """The instance's power state. The cache is the host's own event stream, so `use_cache` makes no difference:
        a stream that broke is waited for."""
        _, record = self.host.vm(instance)
        return hardware.InstanceInfo(state=vms.POWER[record["power_state"]], internal_id=record["uuid"])

    def get_num_instances(self) -> int:
        """How many instances are on this host."""
        return len(self.list_instance_uuids())

    def instance_exists(self, instance: Any) -> bool:
        """Whether the instance has a VM on this host."""
        self.host.settle()
        return self.host.records.vm_of(instance.uuid) is not None

    def list_instances(self) -> list[str]:
        """The instances' names."""
        self.host.settle()
        return [vm["name_label"] for _, _, vm in self.host.records.instances()]

    def list_instance_uuids(self) -> list[str]:
        """The instances' uuids."""
        self.host.settle()
        return [uuid for uuid, _, _ in self.host.records.instances()]

    # making and removing

    def spawn(
        self,
        context: Any,
        instance: Any,
        image_meta: Any,
        injected_files: Any,
        admin_password: str | None,
        allocations: Any,
        network_info: Any = None,
        block_device_info: Any = None,
        power_on: bool = True,
        accel_info: Any = None,
        **_: Any,
    ) -> None:
        spawn.spawn(
            self.host,
            self.virtapi,
            context,
            instance,
            image_meta,
            injected_files=injected_files,
            admin_password=admin_password,
            network_info=network_info,
            block_device_info=block_device_info,
            power_on=power_on,
        )

    def destroy(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        **_: Any,
    ) -> None:
        destroy.destroy(self.host, instance, destroy_disks=destroy_disks)

    def cleanup(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        **_: Any,
    ) -> None:
        destroy.destroy(self.host, instance, destroy_disks=destroy_disks)

    def cache_image(self, context: Any, image_id: str) -> bool:
        return images.cache(self.host, context, image_id)

    def manage_image_cache(self, context: Any, all_instances: Any) -> None:
        self.host.settle()
        self._expiry.run(self.host, all_instances)

    # power

    def power_on(self, context: Any, instance: Any, network_info: Any, *_: Any, **__: Any) -> None:
        power.power_on(self.host, instance)

    def power_off(self, instance: Any, timeout: int = 0, retry_interval: int = 0) -> None:
        power.power_off(self.host, instance, timeout, retry_interval)

    def reboot(self, context: Any, instance: Any, network_info: Any, reboot_type: str, *_: Any, **__: Any) -> None:
        reboot.soft(self.host, instance) if reboot_type == "SOFT" else reboot.hard(self.host, instance)

    def poll_rebooting_instances(self, timeout: int, instances: Any) -> None:
        """Nothing to do: a soft reboot that takes too long becomes a hard one by itself."""

    def pause(self, instance: Any) -> None:
        suspend.pause(self.host, instance)

    def unpause(self, instance: Any) -> None:
        suspend.unpause(self.host, instance)

    def suspend(self, context: Any, instance: Any) -> None:
        suspend.suspend(self.host, instance)

    def resume(self, context: Any, instance: Any, network_info: Any, *_: Any, **__: Any) -> None:
        suspend.resume(self.host, instance)

    def resume_state_on_host_boot(self, context: Any, instance: Any, network_info: Any, *_: Any, **__: Any) -> None:
        suspend.resume_at_boot(self.host, instance)

    # consoles

    def get_console_output(self, context: Any, instance: Any) -> bytes:
        return console.log(self.host, instance)

    def get_vnc_console(self, context: Any, instance: Any) -> Any:
        return console.vnc(self.host, instance)

    # network

    def plug_vifs(self, instance: Any, network_info: Any) -> None:
        interfaces.plug(self.host, instance, network_info)

    def unplug_vifs(self, instance: Any, network_info: Any) -> None:
        interfaces.unplug(self.host, instance, network_info)

    def attach_interface(self, context: Any, instance: Any, image_meta: Any, vif: Any) -> None:
        interfaces.attach(self.host, instance, vif)

    def detach_interface(self, context: Any, instance: Any, vif: Any) -> None:
        interfaces.detach(self.host, instance, vif)

    # resources

    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        return [self.host.record["hostname"]]

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        self.host.settle()
        return resources.available(self.host)

    def update_provider_tree(self, provider_tree: Any, nodename: str, allocations: Any = None) -> None:
        self.host.settle()
        resources.update_tree(self.host, provider_tree, nodename, self._get_allocation_ratios)

    def get_host_ip_addr(self) -> str:
        return str(self.host.record["address"])

    def get_host_uptime(self) -> str:
        return resources.uptime(self.host)

    def get_volume_connector(self, instance: Any) -> dict[str, Any]:
        """Who the host is to a storage server."""
        record = self.host.record
        return {
            "ip": record["address"],
            "host": record["hostname"],
            "initiator": record.get("iscsi_iqn", ""),
            "multipath": bool(record.get("multipathing", False)),
        }

    def default_root_device_name(self, instance: Any, image_meta: Any, root_bdm: Any) -> str:
        return "/dev/xvda"
