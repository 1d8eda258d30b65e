"""VM.destroy: the memory image of a suspended VM, the console log, and every record. Its disks stay: they have owners
of their own (a client that wants them gone destroys the VDIs, as on xapi)."""

from xenstack.host.operations import copy_vm, spec, stop
from xenstack.host.operations.machine import Machine


def destroy(machine: Machine, vm: str) -> None:
    """Delete a VM that is halted or suspended. The caller has claimed it."""
    if machine.store.get("VM", vm, "power_state") == "Suspended":
        stop.stop(machine, vm)
    last = spec.last_domid(machine.store.view("VM", vm))
    copy_vm.forget(machine, vm)
    if last is not None:
        spec.console_log(machine, last).unlink(missing_ok=True)
