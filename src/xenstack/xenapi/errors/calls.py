"""Errors of messages, arguments and records."""

from xenstack.xenapi.errors.tree import XenAPIError


class InternalError(XenAPIError):
    """Something that the API does not promise went wrong: a bug, or xapi's word for bad input."""

    code = "INTERNAL_ERROR"
    message: str
    more: tuple[str, ...] = ()


class MessageMethodUnknown(XenAPIError):
    code = "MESSAGE_METHOD_UNKNOWN"
    method: str


class MessageParameterCountMismatch(XenAPIError):
    """Counts are without the session."""

    code = "MESSAGE_PARAMETER_COUNT_MISMATCH"
    method: str
    expected: str
    received: str


class MessageDeprecated(XenAPIError):
    code = "MESSAGE_DEPRECATED"


class MessageRemoved(XenAPIError):
    code = "MESSAGE_REMOVED"


class NotImplementedByHost(XenAPIError):
    code = "NOT_IMPLEMENTED"
    method: str


class PermissionDenied(XenAPIError):
    code = "PERMISSION_DENIED"
    message: str


class RbacPermissionDenied(XenAPIError):
    code = "RBAC_PERMISSION_DENIED"
    permission: str
    message: str


class ValueNotSupported(XenAPIError):
    code = "VALUE_NOT_SUPPORTED"
    field: str
    value: str
    reason: str


class InvalidValue(XenAPIError):
    code = "INVALID_VALUE"
    field: str
    value: str


class FieldTypeError(XenAPIError):
    code = "FIELD_TYPE_ERROR"
    field: str


class MapDuplicateKey(XenAPIError):
    code = "MAP_DUPLICATE_KEY"
    type: str
    param_name: str
    ref: str
    key: str


class HandleInvalid(XenAPIError):
    code = "HANDLE_INVALID"
    cls: str
    ref: str


class UuidInvalid(XenAPIError):
    code = "UUID_INVALID"
    cls: str
    uuid: str


class DbUniquenessConstraintViolation(XenAPIError):
    code = "DB_UNIQUENESS_CONSTRAINT_VIOLATION"
    table: str
    field: str
    value: str
