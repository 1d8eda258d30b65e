"""What happens to a call before its handler: names, arguments, protocols, bodies."""

import json
import xmlrpc.client

import pytest
import XenAPI
from tests.contract.client import Client

XML = {"Content_Type": "text/xml"}
JSON = {"Content_Type": "application/json"}


def failure(client: Client, name: str, *arguments: object) -> list[str]:
    answer = client.jsonrpc(name, *arguments)
    return [answer["error"]["message"], *answer["error"]["data"]]


def test_an_unknown_method(client: Client) -> None:
    assert failure(client, "VM.fly", "OpaqueRef:NULL") == ["MESSAGE_METHOD_UNKNOWN", "VM.fly"]
    assert failure(client, "Nothing.get_all") == ["MESSAGE_METHOD_UNKNOWN", "Nothing.get_all"]


def test_a_wrong_number_of_arguments(client: Client) -> None:
    assert failure(client, "VM.start", "OpaqueRef:NULL") == ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.start", "3", "1"]
    assert failure(client, "VM.get_record") == ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.get_record", "1", "0"]


def test_arguments_of_a_wrong_type(client: Client) -> None:
    assert failure(client, "VM.set_memory", "OpaqueRef:NULL", "much")[0] == "INTERNAL_ERROR"
    assert failure(client, "VM.start", "OpaqueRef:NULL", "yes", False)[0] in ("INTERNAL_ERROR", "FIELD_TYPE_ERROR")


def test_integers_are_strings_numbers_and_hexadecimal(client: Client) -> None:
    vm = client.vm()
    for given in ("3", 3, "0x3"):
        client.api.VM.set_user_version(vm, given)
        assert client.api.VM.get_user_version(vm) == "3"
        client.api.VM.set_user_version(vm, "1")


def test_an_unknown_reference(client: Client) -> None:
    assert failure(client, "VM.get_record", "OpaqueRef:nothing") == ["HANDLE_INVALID", "VM", "OpaqueRef:nothing"]
    assert failure(client, "VM.get_by_uuid", "nothing") == ["UUID_INVALID", "VM", "nothing"]


def test_list_methods_is_a_bare_array_and_needs_no_session(client: Client) -> None:
    body = xmlrpc.client.dumps((), "system.listMethods").encode()
    answer = client.http("POST", "/", body, **XML)
    methods = xmlrpc.client.loads(answer.body)[0][0]
    assert {"VM.start", "VM.get_all_records", "session.login_with_password"} <= set(methods)


@pytest.mark.parametrize("path", ["/", "/RPC2"])
def test_xmlrpc_at_both_paths(client: Client, path: str) -> None:
    answer = client.http("POST", path, xmlrpc.client.dumps((client.ref,), "pool.get_all").encode(), **XML)
    value = xmlrpc.client.loads(answer.body)[0][0]
    assert answer.status == 200
    assert value["Status"] == "Success"
    assert len(value["Value"]) == 1


def test_jsonrpc_both_versions(client: Client) -> None:
    pools = client.jsonrpc("pool.get_all")
    assert pools["jsonrpc"] == "2.0"
    assert pools["id"] == 7
    assert client.jsonrpc("pool.get_all", version="1.0")["result"] == pools["result"]
    one = client.jsonrpc("VM.get_record", "OpaqueRef:nothing", version="1.0")
    assert one["error"] == ["HANDLE_INVALID", "VM", "OpaqueRef:nothing"]
    two = client.jsonrpc("VM.get_record", "OpaqueRef:nothing")
    assert two["error"]["code"] == 1


def test_json_integers_are_numbers_and_xml_integers_strings(client: Client) -> None:
    vm = client.vm()
    assert client.jsonrpc("VM.get_memory_static_max", vm)["result"] == 128 << 20
    assert client.api.VM.get_memory_static_max(vm) == str(128 << 20)


MALFORMED = [
    ("/", XML, b"<methodCall><methodName>VM.get_all</methodName>"),
    ("/", XML, b"not xml at all"),
    ("/", XML, b""),
    ("/", XML, b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><methodCall>&b;</methodCall>'),
    ("/", XML, b"<methodCall><methodName>VM.get_all</methodName><params><param><value><int>x</int></value></param>"),
    ("/jsonrpc", JSON, b"{"),
    ("/jsonrpc", JSON, b"[]"),
    ("/jsonrpc", JSON, b'{"jsonrpc":"2.0","method":"VM.get_all","params":[]}'),
    ("/jsonrpc", JSON, b'{"jsonrpc":"2.0","method":7,"params":[],"id":1}'),
    ("/jsonrpc", JSON, b"[" * 100_000),
]  # fmt: skip


@pytest.mark.parametrize(("path", "kind", "body"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_body_is_an_error_and_harms_nobody(
    client: Client, path: str, kind: dict[str, str], body: bytes
) -> None:
    assert client.http("POST", path, body, **kind).status in (400, 500)
    assert client.api.pool.get_all()


def test_an_oversized_body_is_refused_before_it_is_read(client: Client) -> None:
    answer = client.http("POST", "/", b"x" * 1000, Content_Type="text/xml", Content_Length=str(1 << 40))
    assert answer.status in (0, 400, 413, 500)
    assert client.api.pool.get_all()


def test_a_deep_value_is_refused(client: Client) -> None:
    deep = "<value><array><data>" * 3000 + "</data></array></value>" * 3000
    body = f"<methodCall><methodName>VM.get_all</methodName><params><param>{deep}</param></params></methodCall>"
    assert client.http("POST", "/", body.encode(), **XML).status in (200, 400, 500)
    assert client.api.pool.get_all()


def test_an_unknown_path(client: Client) -> None:
    assert client.http("GET", "/no/such/path").status in (403, 404)
    assert client.http("POST", "/no/such/path", b"x").status in (0, 403, 404, 500)


def test_unimplemented_is_said_so(client: Client) -> None:
    if not client.server.ours:
        pytest.skip("another server implements more")
    with pytest.raises(XenAPI.Failure) as refused:
        client.api.VM.migrate_send(client.vm(), {}, True, {}, {}, {})
    assert refused.value.details[0] == "NOT_IMPLEMENTED"


def test_an_asynchronous_call_answers_with_a_task(client: Client) -> None:
    vm = client.vm(name_label="contract-async")
    task = client.task(client.jsonrpc("Async.VM.clone", vm, "contract-copy")["result"])
    assert task["status"] == "success"
    assert task["result"].startswith("<value>OpaqueRef:")
    copy = task["result"].removeprefix("<value>").removesuffix("</value>")
    assert client.api.VM.get_name_label(copy) == "contract-copy"


def test_an_asynchronous_failure_is_in_its_task(client: Client) -> None:
    vm = client.vm()
    task = client.task(client.jsonrpc("Async.VM.pause", vm)["result"])
    assert task["status"] == "failure"
    assert task["error_info"] == ["VM_BAD_POWER_STATE", vm, "running", "halted"]
    assert json.dumps(task["progress"]) in ("1.0", "1")
