"""task: records that clients make and change for their own purposes, and cancelling those of calls."""

from typing import Any

from xenstack.host.calls.call import Context, call
from xenstack.host.tasks.task import ENDED, Task, now
from xenstack.xenapi.errors import MapDuplicateKey, OperationNotAllowed


@call("task.create")
def create(context: Context, label: str, description: str) -> str:
    """A task for something outside a call (an HTTP import); it is pending until `set_status`."""
    task = Task.recorded(context.store, label, host=context.host_ref, description=description)
    context.store.set("task", task.ref, allowed_operations=[])
    return task.ref


@call("task.destroy")
def destroy(context: Context, self: str) -> None:
    """Remove the record of a task that has ended; one that is pending is marked, and removed when it ends."""
    store = context.store
    with store.transaction():
        if store.get("task", self, "status") in ENDED:
            store.delete("task", self)
            return
        under_way = store.get("task", self, "current_operations")
        if "task" in under_way:
            raise MapDuplicateKey("task", "current_operations", self, "task")
        store.set("task", self, current_operations={**under_way, "task": "destroy"})
    if context.queue.knows(self) and not context.queue.destroy_at_end(self):
        with store.transaction():  # it ended in between
            if store.exists("task", self):
                store.delete("task", self)


@call("task.cancel")
def cancel(context: Context, task: str) -> None:
    """Ask for an end. Nothing happens when it has ended; a task that a client made shows the wish, for that client."""
    with context.store.transaction():
        if context.store.get("task", task, "status") in ENDED:
            return
        under_way = context.store.get("task", task, "current_operations")
        context.store.set("task", task, current_operations={**under_way, context.task.ref: "cancel"})
    context.queue.cancel(task)


@call("task.set_status")
def set_status(context: Context, self: str, value: str) -> None:
    _own(context, self)
    ended = {"finished": now()} if value in ENDED else {}
    context.store.set("task", self, status=value, **ended)


@call("task.set_progress")
def set_progress(context: Context, self: str, value: float) -> None:
    _own(context, self)
    context.store.set("task", self, progress=value)


@call("task.set_result")
def set_result(context: Context, self: str, value: str) -> None:
    _own(context, self)
    context.store.set("task", self, result=value)


@call("task.set_error_info")
def set_error_info(context: Context, self: str, value: list[str]) -> None:
    _own(context, self)
    context.store.set("task", self, error_info=value)


@call("task.set_other_config")
def set_other_config(context: Context, self: str, value: dict[str, str]) -> None:
    context.store.set("task", self, other_config=value)


@call("task.add_to_other_config")
def add_to_other_config(context: Context, self: str, key: str, value: str) -> None:
    with context.store.transaction():
        held: dict[str, Any] = context.store.get("task", self, "other_config")
        if key in held:
            raise MapDuplicateKey("task", "other_config", self, key)
        context.store.set("task", self, other_config={**held, key: value})


@call("task.remove_from_other_config")
def remove_from_other_config(context: Context, self: str, key: str) -> None:
    with context.store.transaction():
        held: dict[str, Any] = context.store.get("task", self, "other_config")
        held.pop(key, None)
        context.store.set("task", self, other_config=held)


def _own(context: Context, task: str) -> None:
    """A call's task is the host's: a client that writes its result would deceive the others."""
    context.store.view("task", task)
    if context.queue.knows(task):
        raise OperationNotAllowed("the task of a call under way cannot be changed")
