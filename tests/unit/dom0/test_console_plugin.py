"""The console plugin, run as xapi runs it: a process with one argument."""

import ast
import base64
import os
import socket
import sys
import xmlrpc.client
import zlib
from pathlib import Path
from typing import Any

import pytest

from xenstack.run import run

PLUGIN = Path(__file__).parents[3] / "dom0" / "plugins" / "console"


def call(folder: Path, *params: Any, method: str = "get_console_log") -> dict[str, Any]:
    return answer(folder, xmlrpc.client.dumps(params, method))


def answer(folder: Path, *words: str) -> dict[str, Any]:
    # -I: no site-packages, no PYTHON* variables: nothing but the standard library may be needed
    output = run(sys.executable, "-I", PLUGIN, *words, env={"XENSTACK_CONSOLE_DIR": str(folder)})
    assert output.stderr == ""
    return xmlrpc.client.loads(output.stdout)[0][0]  # type: ignore[index,return-value]


def log_of(reply: dict[str, Any]) -> bytes:
    assert reply["Status"] == "Success", reply
    return zlib.decompress(base64.b64decode(reply["Value"], validate=True))


def failure_of(reply: dict[str, Any]) -> list[str]:
    assert reply["Status"] == "Failure", reply
    return list(reply["ErrorDescription"])


def test_the_log_of_a_domain(tmp_path: Path) -> None:
    (tmp_path / "console.7").write_bytes(b"boot\r\n\x1b[0m\xff\x00login: ")
    assert log_of(call(tmp_path, "OpaqueRef:s", {"dom_id": "7"})) == b"boot\r\n\x1b[0m\xff\x00login: "


def test_only_the_end_of_a_long_log(tmp_path: Path) -> None:
    data = os.urandom(300 * 1024)
    (tmp_path / "console.7").write_bytes(data)
    assert log_of(call(tmp_path, "OpaqueRef:s", {"dom_id": "7"})) == data[-100 * 1024 :]


def test_an_empty_log(tmp_path: Path) -> None:
    (tmp_path / "console.0").touch()
    assert log_of(call(tmp_path, "OpaqueRef:s", {"dom_id": "0"})) == b""


def test_a_domain_without_a_log(tmp_path: Path) -> None:
    failure = failure_of(call(tmp_path, "OpaqueRef:s", {"dom_id": "8"}))
    assert failure[:3] == ["XENAPI_PLUGIN_FAILURE", "get_console_log", "NoConsoleLog"]


@pytest.mark.parametrize("dom_id", ["", "../7", "7/../7", "-1", "07", "7\n", "١", "7 ", "1" * 11, "a"])
def test_bad_domain_ids(tmp_path: Path, dom_id: str) -> None:
    (tmp_path / "console.7").write_bytes(b"secret")
    failure = failure_of(call(tmp_path, "OpaqueRef:s", {"dom_id": dom_id}))
    assert failure == ["XENAPI_PLUGIN_FAILURE", "get_console_log", "InvalidArgument", "dom_id is not a domain id"]


@pytest.mark.parametrize("args", [{}, {"dom_id": 7}, {"dom_id": ["7"]}, {"dom_id": "7", "path": "/etc/shadow"}])
def test_bad_arguments(tmp_path: Path, args: dict[str, Any]) -> None:
    (tmp_path / "console.7").write_bytes(b"secret")
    assert failure_of(call(tmp_path, "OpaqueRef:s", args))[2] == "InvalidArgument"


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "console.1").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "console.2")
    (tmp_path / "console.3").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "console.4"))
        for dom_id in "1234":
            assert failure_of(call(tmp_path, "OpaqueRef:s", {"dom_id": dom_id}))[2] == "NoConsoleLog"


def test_calls_that_are_none(tmp_path: Path) -> None:
    for words in ((), ("",), ("<x",), ("a", "b"), ("x" * 70000,), ("<methodCall/>",)):
        assert failure_of(answer(tmp_path, *words))[:3] == ["XENAPI_PLUGIN_FAILURE", "", "InvalidCall"]
    for params in (("OpaqueRef:s",), ("OpaqueRef:s", "7"), ("OpaqueRef:s", {}, {})):
        assert failure_of(call(tmp_path, *params))[2] == "InvalidCall"
    assert failure_of(call(tmp_path, "s", {}, method="os.system")) == ["UNKNOWN_XENAPI_PLUGIN_FUNCTION", "os.system"]


def test_python_3_6_can_read_it() -> None:
    ast.parse(PLUGIN.read_text(), feature_version=(3, 6))
