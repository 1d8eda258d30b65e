"""Logging in and out, and what a call needs."""

import pytest
import XenAPI
from tests.contract.client import Client, Server


def code(failure: pytest.ExceptionInfo[XenAPI.Failure]) -> list[str]:
    return list(failure.value.details)


@pytest.mark.parametrize("arguments", [2, 3, 4])
def test_login_with_two_to_four_arguments(server: Server, arguments: int) -> None:
    session = XenAPI.Session(server.url, ignore_ssl=True)
    session.login_with_password(*[server.user, server.password, "2.23", "contract"][:arguments])
    assert session.xenapi.pool.get_all()
    session.logout()


def test_a_wrong_password_is_refused(server: Server) -> None:
    session = XenAPI.Session(server.url, ignore_ssl=True)
    with pytest.raises(XenAPI.Failure) as failure:
        session.login_with_password(server.user, server.password + "x", "1.0", "contract")
    assert code(failure)[0] == "SESSION_AUTHENTICATION_FAILED"


def test_a_made_up_session_is_refused(client: Client) -> None:
    made_up = "OpaqueRef:11111111-2222-3333-4444-555555555555"
    answer = client.jsonrpc("VM.get_all", made_up, session=False)
    assert answer["error"]["message"] == "SESSION_INVALID"
    assert answer["error"]["data"] == [made_up]


def test_a_session_ends_with_its_logout(server: Server) -> None:
    client = Client(server)
    client.api.session.logout()
    assert client.jsonrpc("VM.get_all")["error"]["message"] == "SESSION_INVALID"


def test_a_session_knows_its_host_and_user(client: Client) -> None:
    record = client.api.session.get_record(client.ref)
    assert record["this_host"] in client.api.host.get_all()
    assert record["uuid"] == client.api.session.get_uuid(client.ref)
    assert record["this_user"].startswith("OpaqueRef:")
