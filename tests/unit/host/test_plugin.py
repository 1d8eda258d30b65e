"""host.call_plugin runs what lies in the plugin directory, and nothing else, for as long and as much as is good."""

import time
from pathlib import Path

import pytest
from tests.kit.machine import Machine

from xenstack.host.calls import plugin
from xenstack.xenapi.errors import UnknownFailure, XenAPIError, XenapiMissingPlugin, XenapiPluginFailure

ECHO = """#!/usr/bin/python3
import os, sys, xmlrpc.client
params, fn = xmlrpc.client.loads(sys.argv[1])
answer = {"Status": "Success", "Value": "%s %s %s" % (fn, params[0], sorted(params[1].items()))}
if fn == "fail":
    answer = {"Status": "Failure", "ErrorDescription": ["MY_FAILURE", "why"]}
if fn == "environment":
    answer["Value"] = os.environ["XENSTACK_CONSOLE_DIR"]
print(xmlrpc.client.dumps((answer,), methodresponse=True))
"""


@pytest.fixture
def host(machine: Machine) -> Machine:
    machine.config.plugins.mkdir()
    write(machine, "echo", ECHO)
    return machine


def write(machine: Machine, name: str, text: str, mode: int = 0o755) -> Path:
    file = machine.config.plugins / name
    file.write_text(text)
    file.chmod(mode)
    return file


def run(machine: Machine, name: str, fn: str = "main", **args: str) -> object:
    return machine.call("host.call_plugin", machine.store.refs("host")[0], name, fn, args)


def test_a_plugin_gets_function_session_and_arguments(host: Machine) -> None:
    assert run(host, "echo", "hello", a="1") == "hello OpaqueRef:test [('a', '1')]"


def test_a_plugin_learns_where_consoles_are(host: Machine) -> None:
    assert run(host, "echo", "environment") == str(host.config.console_logs)


def test_what_a_plugin_says_is_its_own_error(host: Machine) -> None:
    with pytest.raises(XenAPIError) as failure:
        run(host, "echo", "fail")
    assert failure.value.wire() == ["MY_FAILURE", "why"]
    assert isinstance(failure.value, UnknownFailure)


@pytest.mark.parametrize("name", ["nothing", "../echo", "/bin/true", "", ".", "..", "a\0b", "sub/echo"])
def test_a_name_leads_nowhere_else(host: Machine, name: str) -> None:
    with pytest.raises(XenapiMissingPlugin):
        run(host, name)


def test_a_file_that_is_not_executable_is_no_plugin(host: Machine) -> None:
    write(host, "notes", ECHO, mode=0o644)
    with pytest.raises(XenapiMissingPlugin):
        run(host, "notes")


def test_a_plugin_that_fails(host: Machine) -> None:
    write(host, "bad", "#!/bin/sh\necho out; echo err >&2; exit 3\n")
    with pytest.raises(XenapiPluginFailure) as failure:
        run(host, "bad")
    assert failure.value.wire() == ["XENAPI_PLUGIN_FAILURE", "3", "out\n", "err\n"]


def test_a_plugin_that_talks_nonsense(host: Machine) -> None:
    write(host, "mad", "#!/bin/sh\necho hello\n")
    with pytest.raises(XenapiPluginFailure):
        run(host, "mad")


def test_a_plugin_that_never_ends(host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "TIMEOUT_S", 0.3)
    pid = host.folder / "pid"
    write(host, "slow", f"#!/bin/sh\nsleep 60 &\necho $! > {pid}\nwait\n")
    before = time.monotonic()
    with pytest.raises(XenapiPluginFailure):
        run(host, "slow")
    assert time.monotonic() - before < 10
    child = Path("/proc") / pid.read_text().strip() / "stat"
    assert not child.exists() or child.read_text().split()[2] == "Z", "its child lives on"


def test_a_plugin_that_never_stops_talking(host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "_OUTPUT", 10_000)
    write(host, "loud", "#!/bin/sh\nyes\n")
    with pytest.raises(XenapiPluginFailure, match="printed more than"):
        run(host, "loud")
