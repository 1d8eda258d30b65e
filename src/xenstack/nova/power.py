"""Power on and off."""

import time
from typing import Any

from oslo_log import log as logging

from xenstack.nova import tasks
from xenstack.nova.destroy import stop
from xenstack.nova.faults import translated
from xenstack.nova.host import Host
from xenstack.nova.insist import insist
from xenstack.xenapi import errors

LOG = logging.getLogger(__name__)


def power_on(host: Host, instance: Any) -> None:
    """Bring the VM to Running from whatever state it is in; a suspended one goes on where it was."""
    with translated(instance), host.watcher.expecting(instance.uuid, "Running", "Paused"):
        vm, record = host.vm(instance)
        start(host, vm, record["power_state"])


def start(host: Host, vm: str, state: str) -> None:
    """Run a VM that is in `state`."""
    if state == "Halted":
        insist(host, "vm", "VM.start_on", vm, host.ref, False, False)
    elif state == "Suspended":
        insist(host, "vm", "VM.resume_on", vm, host.ref, False, False)
    elif state == "Paused":
        insist(host, "vm", "VM.unpause", vm)
    host.await_state(vm, "Running")


def power_off(host: Host, instance: Any, timeout_s: int, retry_interval_s: int) -> None:
    """Ask the guest to power off, again every `retry_interval_s`, and after `timeout_s` do it for it.

    0 means at once. A guest that is still booting misses the first request: hence the repetition.
    """
    with translated(instance), host.watcher.expecting(instance.uuid, "Halted"):
        vm, record = host.vm(instance)
        asked = record["power_state"] == "Running" and timeout_s > 0
        obeyed = asked and _ask(host, instance, vm, timeout_s, retry_interval_s)
        if not obeyed and record["power_state"] != "Halted":
            stop(host, vm)
        host.await_state(vm, "Halted")


def _ask(host: Host, instance: Any, vm: str, timeout_s: float, retry_interval_s: float) -> bool:
    """Whether the guest powered off on request."""
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        limit = min(left, retry_interval_s) if retry_interval_s > 0 else left
        try:
            if tasks.run(host, "VM.clean_shutdown", vm, timeout_s=limit):
                return True
        except errors.XenAPIError as why:  # also VM_BAD_POWER_STATE: it stopped by itself meanwhile
            LOG.info("The guest cannot be asked to power off: %s", why, instance=instance)
            return False
    LOG.info("The guest did not power off within %d seconds", timeout_s, instance=instance)
    return False
