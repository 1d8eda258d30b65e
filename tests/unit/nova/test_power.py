"""Power, reboot, pause, suspend and consoles of an instance that exists, and the news Nova gets."""

import base64
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from nova import exception
from nova.compute import power_state
from nova.virt import event as virtevent
from tests.kit.daemon import Daemon
from tests.unit.nova.cloud import make_instance, make_port
from tests.unit.nova.conftest import Compute

from xenstack.xenapi.errors import HandleInvalid


def state(compute: Compute, instance: Any) -> int:
    """What Nova sees, which must be what the host says."""
    seen = compute.driver.get_info(instance).state
    names = {power_state.RUNNING: "Running", power_state.PAUSED: "Paused", power_state.SHUTDOWN: "Halted"}
    assert compute.vm(instance)["power_state"] == names.get(seen, "Suspended")
    return int(seen)


def within(seconds: float, seen: Callable[[], object]) -> None:
    """Fail unless `seen()` comes true in time."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def test_power_off_and_on(compute: Compute) -> None:
    instance = compute.running()
    compute.driver.power_off(instance)
    assert state(compute, instance) == power_state.SHUTDOWN
    compute.driver.power_off(instance)
    compute.driver.power_on(None, instance, None)
    assert state(compute, instance) == power_state.RUNNING
    compute.driver.power_on(None, instance, None)
    assert state(compute, instance) == power_state.RUNNING


def test_a_guest_is_asked_before_it_is_powered_off(compute: Compute) -> None:
    instance = compute.running()
    compute.driver.power_off(instance, timeout=30, retry_interval=10)
    assert state(compute, instance) == power_state.SHUTDOWN


@pytest.mark.parametrize("kind", ["SOFT", "HARD"])
def test_reboot(compute: Compute, kind: str) -> None:
    instance = compute.running()
    compute.driver.reboot(None, instance, None, kind)
    assert state(compute, instance) == power_state.RUNNING


@pytest.mark.parametrize("kind", ["SOFT", "HARD"])
@pytest.mark.parametrize("verb", ["off", "pause", "suspend"])
def test_a_reboot_starts_what_does_not_run(compute: Compute, kind: str, verb: str) -> None:
    instance = compute.running()
    {
        "off": lambda: compute.driver.power_off(instance),
        "pause": lambda: compute.driver.pause(instance),
        "suspend": lambda: compute.driver.suspend(None, instance),
    }[verb]()
    compute.driver.reboot(None, instance, None, kind)
    assert state(compute, instance) == power_state.RUNNING


def test_pause_and_unpause(compute: Compute) -> None:
    instance = compute.running()
    compute.driver.pause(instance)
    assert state(compute, instance) == power_state.PAUSED
    compute.driver.unpause(instance)
    assert state(compute, instance) == power_state.RUNNING


def test_suspend_and_resume_leave_no_memory_image(compute: Compute) -> None:
    instance = compute.running()
    before = compute.everything()
    compute.driver.suspend(None, instance)
    assert state(compute, instance) == power_state.SUSPENDED
    compute.driver.resume(None, instance, None)
    assert state(compute, instance) == power_state.RUNNING
    assert compute.everything() == before


def test_instances_come_back_after_the_host_was_restarted(compute: Compute) -> None:
    halted, suspended, running = compute.running(), compute.running(), compute.running()
    compute.wire.call("VM.hard_shutdown", compute.vm(halted)["ref"])
    compute.wire.call("VM.suspend", compute.vm(suspended)["ref"])
    domid = compute.vm(running)["domid"]
    for instance in (halted, suspended, running):
        compute.driver.host.records.wait(
            lambda i=instance: compute.driver.get_info(i).internal_id and True, 5
        )  # the records follow
        compute.driver.host.await_state(compute.vm(instance)["ref"], compute.vm(instance)["power_state"])
        compute.driver.resume_state_on_host_boot(None, instance, None, None)
        assert state(compute, instance) == power_state.RUNNING
    assert compute.vm(running)["domid"] == domid


def test_nova_hears_within_a_second_that_a_guest_stopped(compute: Compute) -> None:
    instance = compute.running()
    compute.told.clear()
    began = time.monotonic()
    compute.wire.call("VM.clean_shutdown", compute.vm(instance)["ref"])
    within(5, lambda: compute.told)
    assert [(event.uuid, event.transition) for event in compute.told] == [
        (instance.uuid, virtevent.EVENT_LIFECYCLE_STOPPED)
    ]
    assert time.monotonic() - began < 1
    assert compute.driver.get_info(instance).state == power_state.SHUTDOWN


def test_nova_is_told_what_others_do_and_not_what_it_did_itself(compute: Compute) -> None:
    instance = compute.running()
    vm = compute.vm(instance)["ref"]
    assert compute.told == []
    compute.driver.pause(instance)
    compute.driver.unpause(instance)
    compute.driver.power_off(instance)
    compute.driver.power_on(None, instance, None)
    assert compute.told == []
    for verb, arguments, transition in (
        ("VM.pause", (), virtevent.EVENT_LIFECYCLE_PAUSED),
        ("VM.unpause", (), virtevent.EVENT_LIFECYCLE_RESUMED),
        ("VM.suspend", (), virtevent.EVENT_LIFECYCLE_SUSPENDED),
        ("VM.resume", (False, False), virtevent.EVENT_LIFECYCLE_RESUMED),
    ):
        compute.told.clear()
        compute.wire.call(verb, vm, *arguments)
        within(5, lambda: compute.told)
        assert compute.told[-1].transition == transition


def test_the_console_log_is_unpacked(compute: Compute, host: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = compute.running()
    domid = compute.vm(instance)["domid"]
    seen: list[Any] = []
    call = compute.driver.host.session.call

    def plugin(method: str, *arguments: Any, **more: Any) -> Any:
        if method != "host.call_plugin":
            return call(method, *arguments, **more)
        seen.append(arguments)
        return base64.b64encode(zlib.compress(b"login: ")).decode()

    monkeypatch.setattr(compute.driver.host.session, "call", plugin)
    assert compute.driver.get_console_output(None, instance) == b"login: "
    assert seen == [(compute.driver.host.ref, "console", "get_console_log", {"dom_id": domid})]


def test_the_screen_is_reached_with_a_session_that_works(compute: Compute) -> None:
    instance = compute.running()
    console = compute.driver.get_vnc_console(None, instance)
    assert (console.host, console.port) == ("127.0.0.1", 80)
    path, _, query = console.internal_access_path.partition("?")
    assert path == "/console"
    asked = dict(pair.split("=") for pair in query.split("&"))
    ref = asked["ref"].replace("%3A", ":")
    record = compute.wire.call("console.get_record", ref)
    assert (record["VM"], record["protocol"]) == (compute.vm(instance)["ref"], "rfb")
    compute.driver.power_off(instance)
    with pytest.raises(exception.ConsoleTypeUnavailable):
        compute.driver.get_vnc_console(None, instance)


def test_an_interface_comes_and_goes(compute: Compute) -> None:
    instance = compute.running()
    port = make_port()
    compute.driver.attach_interface(None, instance, None, port)
    vifs = [compute.wire.call("VIF.get_record", ref) for ref in compute.vm(instance)["VIFs"]]
    (vif,) = (vif for vif in vifs if vif["other_config"]["nicira-iface-id"] == port["id"])
    assert vif["currently_attached"]
    assert vif["device"] == "1"
    compute.driver.detach_interface(None, instance, port)
    compute.driver.detach_interface(None, instance, port)
    assert len(compute.vm(instance)["VIFs"]) == 1


@pytest.mark.parametrize(
    "verb",
    [
        lambda d, i: d.power_off(i),
        lambda d, i: d.power_on(None, i, None),
        lambda d, i: d.reboot(None, i, None, "HARD"),
        lambda d, i: d.pause(i),
        lambda d, i: d.suspend(None, i),
        lambda d, i: d.resume(None, i, None),
        lambda d, i: d.get_info(i),
        lambda d, i: d.get_vnc_console(None, i),
    ],
)
def test_an_instance_that_is_not_there_is_told_so(compute: Compute, verb: Any) -> None:
    with pytest.raises(exception.InstanceNotFound):
        verb(compute.driver, make_instance("none"))


def test_the_driver_outlives_the_daemon(compute: Compute, host: Daemon) -> None:
    instance = compute.running()
    host.kill()
    host.start()
    assert compute.driver.instance_exists(instance)
    compute.driver.destroy(None, instance, None)
    assert not compute.driver.instance_exists(instance)


def test_a_stopped_service_leaves_no_session_and_no_thread(compute: Compute) -> None:
    ref = compute.driver.host.session.ref
    names = {"xenapi-events", "xenapi-lifecycle"}
    mine = [thread for thread in threading.enumerate() if thread.name in names]
    compute.driver.cleanup_host("domu-1")
    within(5, lambda: not any(thread.is_alive() for thread in mine))
    with pytest.raises(HandleInvalid):
        compute.wire.call("session.get_record", ref)
