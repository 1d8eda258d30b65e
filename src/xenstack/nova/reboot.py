"""Soft and hard reboot. Both end with a running guest, whatever state it was in."""

from typing import Any

from oslo_log import log as logging

from xenstack.nova import power, tasks
from xenstack.nova.destroy import stop
from xenstack.nova.faults import translated
from xenstack.nova.host import Host
from xenstack.nova.insist import insist
from xenstack.xenapi import errors

LOG = logging.getLogger(__name__)


def soft(host: Host, instance: Any) -> None:
    """Ask the guest to reboot; a guest that does not, or that does not run, is rebooted hard."""
    with translated(instance), host.watcher.expecting(instance.uuid, "Halted", "Running", "Paused"):
        vm, record = host.vm(instance)
        if record["power_state"] == "Running":
            try:
                if tasks.run(host, "VM.clean_reboot", vm, timeout_s=float(host.settings.soft_reboot_timeout)):
                    host.await_state(vm, "Running")
                    return
                LOG.info("The guest did not reboot in time, rebooting it hard", instance=instance)
            except errors.XenAPIError as why:
                LOG.info("The guest cannot be asked to reboot, rebooting it hard: %s", why, instance=instance)
        _hard(host, vm)


def hard(host: Host, instance: Any) -> None:
    """Reset the guest, or start it when it does not run."""
    with translated(instance), host.watcher.expecting(instance.uuid, "Halted", "Running", "Paused"):
        vm, _ = host.vm(instance)
        _hard(host, vm)


def _hard(host: Host, vm: str) -> None:
    state = (host.records.get("vm", vm) or {"power_state": "Halted"})["power_state"]
    if state == "Suspended":
        stop(host, vm)  # its memory is dropped: a reboot does not resume
        host.await_state(vm, "Halted")
        state = "Halted"
    if state == "Halted":
        power.start(host, vm, state)
        return
    try:
        insist(host, "vm", "VM.hard_reboot", vm)
        host.await_state(vm, "Running")
    except errors.VmBadPowerState as why:
        if why.actual.lower() != "halted":
            raise
        power.start(host, vm, "Halted")  # it stopped between our look and our call
