"""From the host's failures to Nova's exceptions: the one table, used by the verbs.

What Nova tells apart becomes the exception it knows; everything else becomes `HostFailed`, which keeps every word the
host said.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nova import exception

from xenstack.xenapi import errors
from xenstack.xenapi.session import Unreachable


class HostFailed(exception.NovaException):
    """The host refused or failed a call."""

    msg_fmt = "The host answered: %(failure)s"


class HostUnreachable(exception.NovaException):
    """The host does not answer, or not in XenAPI."""

    msg_fmt = "The host does not answer: %(reason)s"


class BadConfiguration(exception.NovaException):
    """The driver cannot start with what nova.conf says; the message is the whole story."""

    msg_fmt = "[xenserver] %(reason)s"


@contextmanager
def translated(instance: Any) -> Iterator[None]:
    """The host's failures leave this block as Nova's exceptions about `instance`."""
    try:
        yield
    except errors.HostNotEnoughFreeMemory as why:
        raise exception.ComputeResourcesUnavailable(reason=f"the host has not the memory: {why}") from why
    except errors.HandleInvalid as why:
        if why.cls.lower() == "vm":
            raise exception.InstanceNotFound(instance_id=instance.uuid) from why
        raise HostFailed(failure=str(why)) from why
    except errors.XenAPIError as why:
        raise HostFailed(failure=str(why)) from why
    except Unreachable as why:
        raise HostUnreachable(reason=str(why)) from why
