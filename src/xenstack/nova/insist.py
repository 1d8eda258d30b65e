"""Calls on an object that another operation has: wait until it has ended, then try again.

XenAPI refuses the second operation on an object (OTHER_OPERATION_IN_PROGRESS) instead of queueing it.
"""

import time
from typing import Any

from oslo_log import log as logging

from xenstack.nova.host import Host
from xenstack.xenapi import errors

LOG = logging.getLogger(__name__)

_PATIENCE_S = 60.0
_LOOK_S = 0.5  # an operation may end, and its event come, before we begin to wait for it


def insist(host: Host, cls: str, method: str, ref: str, *arguments: Any) -> Any:
    """Make a call on `ref`, an object of class `cls` (as in records.CLASSES). After a minute the refusal is raised."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return host.call(method, ref, *arguments)
        except errors.OtherOperationInProgress as why:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            LOG.debug("%s waits for %s on %s %s", method, why.operation_type, cls, ref)

        host.records.wait(lambda: _idle(host, cls, ref), min(left, _LOOK_S))


def _idle(host: Host, cls: str, ref: str) -> bool:
    record = host.records.get(cls, ref)
    return record is None or not record.get("current_operations")
