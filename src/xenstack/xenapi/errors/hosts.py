"""Errors of sessions, tasks, events and hosts."""

from xenstack.xenapi.errors.tree import XenAPIError


class SessionInvalid(XenAPIError):
    code = "SESSION_INVALID"
    session: str


class SessionAuthenticationFailed(XenAPIError):
    code = "SESSION_AUTHENTICATION_FAILED"
    user: str
    message: str


class ChangePasswordRejected(XenAPIError):
    code = "CHANGE_PASSWORD_REJECTED"
    message: str


class SessionNotRegistered(XenAPIError):
    code = "SESSION_NOT_REGISTERED"
    session: str


class EventsLost(XenAPIError):
    code = "EVENTS_LOST"


class EventSubscriptionParseFailure(XenAPIError):
    code = "EVENT_SUBSCRIPTION_PARSE_FAILURE"
    subscription: str


class EventFromTokenParseFailure(XenAPIError):
    code = "EVENT_FROM_TOKEN_PARSE_FAILURE"
    token: str


class TaskCancelled(XenAPIError):
    code = "TASK_CANCELLED"
    task: str


class TooManyPendingTasks(XenAPIError):
    code = "TOO_MANY_PENDING_TASKS"


class TooBusy(XenAPIError):
    code = "TOO_BUSY"


class OtherOperationInProgress(XenAPIError):
    """`operation_type` is what goes on, `operation_ref` the task that does it."""

    code = "OTHER_OPERATION_IN_PROGRESS"
    cls: str
    ref: str
    operation_type: str
    operation_ref: str


class OperationNotAllowed(XenAPIError):
    code = "OPERATION_NOT_ALLOWED"
    reason: str


class OperationBlocked(XenAPIError):
    code = "OPERATION_BLOCKED"
    ref: str
    blocked_by: str


class HostIsSlave(XenAPIError):
    """The address is the coordinator's: the client goes there."""

    code = "HOST_IS_SLAVE"
    address: str


class HostOffline(XenAPIError):
    code = "HOST_OFFLINE"
    host: str


class HostNotLive(XenAPIError):
    code = "HOST_NOT_LIVE"


class HostDisabled(XenAPIError):
    code = "HOST_DISABLED"
    host: str


class HostNotDisabled(XenAPIError):
    code = "HOST_NOT_DISABLED"


class HostStillBooting(XenAPIError):
    code = "HOST_STILL_BOOTING"


class HostNotEnoughFreeMemory(XenAPIError):
    """Bytes."""

    code = "HOST_NOT_ENOUGH_FREE_MEMORY"
    needed: str
    available: str


class NoHostsAvailable(XenAPIError):
    code = "NO_HOSTS_AVAILABLE"


class XenapiMissingPlugin(XenAPIError):
    code = "XENAPI_MISSING_PLUGIN"
    name: str


class XenapiPluginFailure(XenAPIError):
    """`status` and the end of what the plugin printed."""

    code = "XENAPI_PLUGIN_FAILURE"
    status: str
    stdout: str
    stderr: str
