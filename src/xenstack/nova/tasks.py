"""Long calls with a limit: `Async.` messages, watched through `event.from` on their task alone.

The task is always destroyed. When the time is up it is cancelled first, so that the VM is free again.
"""

import contextlib
import time
from typing import Any

from xenstack.nova.host import Host
from xenstack.xenapi import errors

_CANCEL_S = 10.0
_ENDED = ("success", "failure", "cancelled")


def run(host: Host, method: str, *arguments: Any, timeout_s: float) -> bool:
    """Run a message as a task; False when it did not end within `timeout_s` and was cancelled.

    Raises what the message raised.
    """
    task = str(host.call(f"Async.{method}", *arguments))
    try:
        record = _await(host, task, timeout_s)
        if record is None:
            with contextlib.suppress(errors.XenAPIError):
                host.call("task.cancel", task)
                _await(host, task, _CANCEL_S)
            return False
        if record["status"] == "success":
            return True
        raise errors.XenAPIError.from_wire(list(record["error_info"]))
    finally:
        with contextlib.suppress(errors.XenAPIError):
            host.call("task.destroy", task)


def _await(host: Host, task: str, timeout_s: float) -> Any:
    """The task's record once it has ended, None when it has not within the time."""
    deadline = time.monotonic() + timeout_s
    token = ""
    while (left := deadline - time.monotonic()) > 0:
        batch = host.session.call("event.from", [f"task/{task}"], token, left, timeout_s=left + 30.0)
        token = batch["token"]
        for event in batch["events"]:
            if event["ref"] == task and event.get("snapshot", {}).get("status") in _ENDED:
                return event["snapshot"]
    return None
