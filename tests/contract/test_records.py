"""Implicit messages, queries and events: what follows from the data model."""

import threading
import time

import pytest
import XenAPI
from tests.contract.client import NULL, Client


def test_every_class_with_records_can_be_listed(client: Client) -> None:
    """Xen Orchestra's client asks for exactly this."""
    methods = client.jsonrpc("system.listMethods", session=False)["result"]
    names = [m.split(".") for m in methods]
    classes = sorted({name[0] for name in names if name[0] != "Async" and name[1] == "get_all_records"})
    assert {"VM", "VBD", "VDI", "VIF", "SR", "PBD", "PIF", "network", "host", "pool", "task", "console"} <= set(classes)
    for cls in classes:
        answer = client.jsonrpc(f"{cls}.get_all_records")
        removed = answer.get("error", {}).get("message") in ("MESSAGE_REMOVED", "MESSAGE_DEPRECATED")
        assert removed or isinstance(answer.get("result"), dict), (cls, answer)


def test_a_record_has_what_its_getters_say(client: Client) -> None:
    vm = client.vm()
    record = client.jsonrpc("VM.get_record", vm)["result"]
    for name, value in record.items():
        assert client.jsonrpc(f"VM.get_{name}", vm)["result"] == value


def test_what_create_fills_in(client: Client) -> None:
    record = client.api.VM.get_record(client.vm())
    assert record["power_state"] == "Halted"
    assert record["domid"] == "-1"
    assert record["generation_id"] == "0:0"
    assert record["hardware_platform_version"] == "2"
    assert record["has_vendor_device"] is True
    assert record["domain_type"] == "hvm"
    assert "mac_seed" in record["other_config"]
    assert client.api.VM_metrics.get_record(record["metrics"])["VCPUs_number"] == "0"


def test_a_missing_field_is_named(client: Client) -> None:
    with pytest.raises(XenAPI.Failure) as failure:
        client.api.VM.create({"name_label": "contract-x"})
    assert failure.value.details[0] == "INTERNAL_ERROR"
    assert "FieldNotFound" in failure.value.details[1]


def test_maps_sets_and_names(client: Client) -> None:
    vm = client.vm(name_label="contract-names")
    assert client.api.VM.get_by_name_label("contract-names") == [vm]
    client.api.VM.add_to_other_config(vm, "a", "1")
    with pytest.raises(XenAPI.Failure) as failure:
        client.api.VM.add_to_other_config(vm, "a", "2")
    assert failure.value.details == ["MAP_DUPLICATE_KEY", "VM", "other_config", vm, "a"]
    client.api.VM.remove_from_other_config(vm, "a")
    client.api.VM.remove_from_other_config(vm, "a")
    client.api.VM.add_tags(vm, "t")
    client.api.VM.add_tags(vm, "t")
    assert client.api.VM.get_tags(vm) == ["t"]


def test_queries(client: Client) -> None:
    vm = client.vm(name_label="contract-query")
    where = client.api.VM.get_all_records_where
    assert list(where('field "name__label" = "contract-query"')) == [vm]
    assert vm in where('field "is_a_template" = "false" and field "power_state" = "Halted"')
    assert vm not in where('not field "name__label" = "contract-query"')
    with pytest.raises(XenAPI.Failure):
        where("field = =")


def test_read_only_fields_have_no_setter(client: Client) -> None:
    vm = client.vm()
    assert client.jsonrpc("VM.set_uuid", vm, "x")["error"]["message"] == "MESSAGE_METHOD_UNKNOWN"
    assert client.jsonrpc("VM.set_power_state", vm, "Running")["error"]["message"] == "MESSAGE_METHOD_UNKNOWN"


def test_events_tell_of_a_change_and_of_nothing_else(client: Client) -> None:
    vm = client.vm()
    token = client.events([f"vm/{vm}"])["token"]
    client.api.VM.set_name_description(vm, "changed")
    batch = client.events([f"VM/{vm}"], token)
    assert [(e["class"], e["operation"], e["ref"]) for e in batch["events"]] == [("vm", "mod", vm)]
    assert batch["events"][0]["snapshot"]["name_description"] == "changed"
    client.api.VM.set_name_description(vm, "changed")
    assert client.events([f"vm/{vm}"], batch["token"], 0.3)["events"] == []


def test_events_of_a_life(client: Client) -> None:
    token = client.events(["vm"])["token"]
    vm = client.vm()
    added = client.events(["vm"], token)
    assert ("add", vm) in [(e["operation"], e["ref"]) for e in added["events"]]
    client.api.VM.destroy(vm)
    gone = client.events(["vm"], added["token"])
    assert next(e for e in gone["events"] if e["ref"] == vm)["operation"] == "del"
    assert "vm" in gone["valid_ref_counts"]


def test_a_waiting_client_is_woken_at_once(client: Client) -> None:
    vm = client.vm()
    token = client.events([f"vm/{vm}"])["token"]
    other = Client(client.server)
    woken: list[float] = []

    def wait() -> None:
        assert other.events([f"vm/{vm}"], token, 20.0)["events"]
        woken.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    changed = time.monotonic()
    client.api.VM.set_name_description(vm, "now")
    thread.join(20)
    assert woken[0] - changed < 1.0
    other.api.session.logout()


def test_a_bad_token_is_refused(client: Client) -> None:
    with pytest.raises(XenAPI.Failure) as failure:
        client.events(["vm"], "bad", 1.0)
    assert failure.value.details == ["EVENT_FROM_TOKEN_PARSE_FAILURE", "bad"]


def test_the_machine_is_described(client: Client) -> None:
    host = client.api.host.get_all()[0]
    record = client.api.host.get_record(host)
    assert record["enabled"] is True
    assert record["software_version"]["product_version"]
    assert int(client.api.host_metrics.get_memory_total(record["metrics"])) > 0
    assert int(client.api.host.compute_free_memory(host)) > 0
    assert record["control_domain"] != NULL
    assert client.api.VM.get_is_control_domain(record["control_domain"]) is True
    assert client.api.pool.get_master(client.api.pool.get_all()[0]) in client.api.host.get_all()
    assert client.api.host.get_servertime(host).value.endswith("Z")
