"""session: ending sessions and changing the password. Logging in is the dispatcher's: there is no session yet."""

from xenstack.host.calls.call import Context, call
from xenstack.xenapi.errors import ChangePasswordRejected


@call("session.logout")
def logout(context: Context) -> None:
    context.sessions.close(context.session)


@call("session.local_logout")
def local_logout(context: Context) -> None:
    context.sessions.close(context.session)


@call("session.change_password")
def change_password(context: Context, old_pwd: str, new_pwd: str) -> None:
    """The old password is not checked, as with xapi: who has a session is root already."""
    if not new_pwd or "\n" in new_pwd:
        raise ChangePasswordRejected("the new password is empty or has several lines")
    context.sessions.change_password(new_pwd)


@call("session.get_all_subject_identifiers")
def get_all_subject_identifiers(context: Context) -> list[str]:
    """There are no external users here."""
    return []


@call("session.logout_subject_identifier")
def logout_subject_identifier(context: Context, subject_identifier: str) -> None:
    """There are no external users here, so none has a session."""
