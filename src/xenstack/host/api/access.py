"""Who may use the HTTP handlers beside the calls: a session in the query or a cookie, or root's password by Basic."""

import asyncio
import base64
import binascii

from xenstack.host.api.server import Refused, Request
from xenstack.host.api.sessions import Sessions
from xenstack.xenapi.errors import SessionAuthenticationFailed, SessionInvalid


async def check(request: Request, sessions: Sessions, realm: str) -> str:
    """The session ("" with Basic, or for root on the unix socket). Errors: Refused (401; 500 for an unknown session,
    as xapi answers)."""
    ref = request.query.get("session_id") or request.cookie_session
    if ref:
        try:
            sessions.check(ref)
        except SessionInvalid as why:
            raise Refused(500, "internal server error", f"SESSION_INVALID: [ {why.session[:100]} ]") from None
        return ref
    scheme, _, blob = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(blob, validate=True).decode("utf-8").partition(":")
            await asyncio.to_thread(sessions.authenticate, user, password)
        except (binascii.Error, UnicodeDecodeError, SessionAuthenticationFailed):
            pass
        else:
            return ""
    elif request.caller.trusted:
        return ""
    raise Refused(401, "unauthorised", headers=[("WWW-Authenticate", f'Basic realm="{realm}"')])
