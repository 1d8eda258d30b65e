"""Pause and unpause (the guest stays in memory), suspend and resume (its memory goes to the SR)."""

from typing import Any

from nova import exception

from xenstack.nova.faults import translated
from xenstack.nova.host import Host
from xenstack.nova.insist import insist
from xenstack.xenapi import errors


def pause(host: Host, instance: Any) -> None:
    """Stop the guest's CPUs."""
    _change(host, instance, "Paused", "VM.pause")


def unpause(host: Host, instance: Any) -> None:
    """Let the guest's CPUs go on."""
    _change(host, instance, "Running", "VM.unpause")


def suspend(host: Host, instance: Any) -> None:
    """Write the guest's memory to the SR and stop it. Raises InstanceSuspendFailure."""
    try:
        _change(host, instance, "Suspended", "VM.suspend")
    except exception.NovaException as why:
        if isinstance(why, exception.InstanceNotFound):
            raise
        raise exception.InstanceSuspendFailure(reason=str(why)) from why


def resume(host: Host, instance: Any) -> None:
    """Go on where `suspend` stopped. Raises InstanceResumeFailure."""
    with host.watcher.expecting(instance.uuid, "Paused"):
        try:
            _change(host, instance, "Running", "VM.resume_on", host.ref, False, False)
        except exception.NovaException as why:
            if isinstance(why, exception.InstanceNotFound):
                raise
            raise exception.InstanceResumeFailure(reason=str(why)) from why


def resume_at_boot(host: Host, instance: Any) -> None:
    """Bring an instance back that ran before the host was restarted; one that runs is left alone."""
    with translated(instance):
        _, record = host.vm(instance)
    if record["power_state"] == "Suspended":
        resume(host, instance)
    elif record["power_state"] == "Halted":
        _change(host, instance, "Running", "VM.start_on", host.ref, False, False)


def _change(host: Host, instance: Any, to: str, method: str, *arguments: Any) -> None:
    with translated(instance), host.watcher.expecting(instance.uuid, to):
        vm, _ = host.vm(instance)
        try:
            insist(host, "vm", method, vm, *arguments)
        except errors.VmBadPowerState as why:
            if why.actual.lower() != to.lower():
                raise
        host.await_state(vm, to)
