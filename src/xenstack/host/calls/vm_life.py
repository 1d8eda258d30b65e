"""VM: start, stop, pause, suspend, reboot. Each claims the VM, runs one operation, and leaves the records true."""

from collections.abc import Iterator
from contextlib import contextmanager

from xenstack.host.calls.call import Context, call
from xenstack.host.operations import busy, reboot, residence, start, stop, suspend, translate, truth
from xenstack.xenapi.errors import DomainExists, HandleInvalid, HostDisabled, HostNotLive, XenAPIError


def check_host(context: Context, host: str) -> None:
    """A host that a client names: it is there, and this one. Raises HandleInvalid, HostNotLive."""
    if not context.store.exists("host", host):
        raise HandleInvalid("host", host)
    if host != context.host_ref:
        raise HostNotLive()


@contextmanager
def claimed(context: Context, vm: str, operation: str) -> Iterator[None]:
    """The VM for one operation; when that fails behind its point of no return, the record is made true at once."""
    with busy.claim(context, "VM", vm, operation):
        try:
            yield
        except BaseException:
            if context.store.exists("VM", vm):
                truth.settle_vm(context, vm)
            raise


def _check_enabled(context: Context) -> None:
    if not context.store.get("host", context.host_ref, "enabled"):
        raise HostDisabled(context.host_ref)


@call("VM.start")
def start_(context: Context, vm: str, start_paused: bool, force: bool) -> None:
    """`force` would override a host's advice; there is none to override."""
    with claimed(context, vm, "start"):
        _check_enabled(context)
        start.start(context, vm, paused=start_paused, anywhere=True)


@call("VM.start_on")
def start_on(context: Context, vm: str, host: str, start_paused: bool, force: bool) -> None:
    check_host(context, host)
    with claimed(context, vm, "start_on"):
        _check_enabled(context)
        start.start(context, vm, paused=start_paused, anywhere=False)


@call("VM.pause")
def pause(context: Context, vm: str) -> None:
    with claimed(context, vm, "pause"), translate.spoken(context.store, "VM.pause", vm):
        context.hypervisor.pause(context.store.get("VM", vm, "uuid"))
        residence.paused(context.store, vm, "Paused")


@call("VM.unpause")
def unpause(context: Context, vm: str) -> None:
    with claimed(context, vm, "unpause"), translate.spoken(context.store, "VM.unpause", vm):
        context.hypervisor.unpause(context.store.get("VM", vm, "uuid"))
        residence.paused(context.store, vm, "Running")


@call("VM.hard_shutdown")
def hard_shutdown(context: Context, vm: str) -> None:
    with claimed(context, vm, "hard_shutdown"):
        stop.stop(context, vm)


@call("VM.clean_shutdown")
def clean_shutdown(context: Context, vm: str) -> None:
    with claimed(context, vm, "clean_shutdown"):
        stop.stop_politely(context, vm)


@call("VM.shutdown")
def shutdown(context: Context, vm: str) -> None:
    """Politely when the guest can hear it; at once when it cannot, or does not follow."""
    with claimed(context, vm, "shutdown"):
        if context.store.get("VM", vm, "power_state") == "Running":
            try:
                stop.stop_politely(context, vm)
                return
            except XenAPIError as why:
                if why.code == "TASK_CANCELLED":
                    raise
        stop.stop(context, vm)


@call("VM.hard_reboot")
def hard_reboot(context: Context, vm: str) -> None:
    with claimed(context, vm, "hard_reboot"):
        reboot.reboot(context, vm)


@call("VM.clean_reboot")
def clean_reboot(context: Context, vm: str) -> None:
    with claimed(context, vm, "clean_reboot"):
        reboot.reboot_politely(context, vm)


@call("VM.suspend")
def suspend_(context: Context, vm: str) -> None:
    with claimed(context, vm, "suspend"):
        suspend.suspend(context, vm)


@call("VM.resume")
def resume(context: Context, vm: str, start_paused: bool, force: bool) -> None:
    with claimed(context, vm, "resume"):
        _check_enabled(context)
        suspend.resume(context, vm, paused=start_paused)


@call("VM.resume_on")
def resume_on(context: Context, vm: str, host: str, start_paused: bool, force: bool) -> None:
    check_host(context, host)
    with claimed(context, vm, "resume_on"):
        _check_enabled(context)
        suspend.resume(context, vm, paused=start_paused)


@call("VM.power_state_reset")
def power_state_reset(context: Context, vm: str) -> None:
    """Halted, whatever the record said: a last resort when record and host disagree. Refused while a domain exists:
    that is what hard_shutdown is for."""
    with claimed(context, vm, "power_state_reset"):
        domain = context.hypervisor.domain(context.store.get("VM", vm, "uuid"))
        if domain is not None:
            raise DomainExists(vm, str(domain.domid))
        stop.stop(context, vm)
