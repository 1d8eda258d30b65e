"""One operation at a time on one object, as the object's record says: the lock is `current_operations` itself.

`claim` checks the rules and writes the operation into current_operations in one transaction; who comes second gets
OTHER_OPERATION_IN_PROGRESS (or whatever the rules find first). Clients see what is under way, and recovery, which
clears current_operations, needs no other lock file.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xenstack.host.database.store import Store
from xenstack.host.operations import allowed
from xenstack.host.operations.machine import Machine
from xenstack.xenapi.errors import XenAPIError

Refusal = Callable[[Store, str, str], XenAPIError | None]

_REFUSALS: dict[str, Refusal] = {
    "VM": allowed.refusal_of_vm,
    "VBD": allowed.refusal_of_vbd,
    "VIF": allowed.refusal_of_vif,
    "VDI": allowed.refusal_of_vdi,
}
_REFRESH: dict[str, Callable[[Store, str], None]] = {
    "VM": allowed.vm,
    "VBD": allowed.vbd,
    "VIF": allowed.vif,
    "VDI": allowed.vdi,
    "SR": allowed.sr,
}
CLASSES = ("VM", "VBD", "VIF", "VDI", "SR", "network", "host", "pool", "task")
"""The classes whose records have current_operations that a dead daemon may have left behind."""


def check(store: Store, cls: str, ref: str, operation: str) -> None:
    """Raise why the object refuses the operation now; HandleInvalid when there is no such object."""
    refusal = _REFUSALS[cls](store, operation, ref)
    if refusal is not None:
        raise refusal


@contextmanager
def claim(machine: Machine, cls: str, ref: str, operation: str) -> Iterator[None]:
    """Have the object to oneself for an operation. The object may be gone at the end."""
    store, task = machine.store, machine.task.ref
    with store.transaction():
        check(store, cls, ref, operation)
        store.set(cls, ref, current_operations={**store.get(cls, ref, "current_operations"), task: operation})
        _REFRESH[cls](store, ref)
    try:
        yield
    finally:
        with store.transaction():
            if store.exists(cls, ref):
                left = dict(store.get(cls, ref, "current_operations"))
                left.pop(task, None)
                store.set(cls, ref, current_operations=left)
                _REFRESH[cls](store, ref)


def clear(store: Store) -> None:
    """Nothing is under way: for the start of the daemon, when no task of the last one lives."""
    for cls in CLASSES:
        for ref in store.refs(cls):
            if store.get(cls, ref, "current_operations"):
                store.set(cls, ref, current_operations={})
