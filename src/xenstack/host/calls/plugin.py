"""host.call_plugin: run a dom0 plugin as xapi does.

xapi's convention: the plugin is an executable file in the plugin directory; its only argument is an XML-RPC methodCall
fn(session, args); it prints an XML-RPC methodResponse whose value is the {Status, Value | ErrorDescription} struct.
A plugin is trusted as far as its file is; its arguments, time and output are not.
"""

import os
import re
import xmlrpc.client
from pathlib import Path
from typing import Any

from xenstack.host.calls.call import Context, call
from xenstack.host.calls.vm_life import check_host
from xenstack.run import CommandFailed, run_bounded
from xenstack.xenapi.errors import InternalError, XenAPIError, XenapiMissingPlugin, XenapiPluginFailure

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
TIMEOUT_S = 120.0
_OUTPUT = 16 << 20  # bytes of a plugin's answer
_SHOWN = 4000  # characters of output in an error


@call("host.call_plugin")
def call_plugin(context: Context, host: str, plugin: str, fn: str, args: dict[str, str]) -> str:
    """Errors: XENAPI_MISSING_PLUGIN, XENAPI_PLUGIN_FAILURE [status, stdout, stderr], or what the plugin itself says."""
    check_host(context, host)
    file = _file(context.config.plugins, plugin)
    request = xmlrpc.client.dumps((context.session, args), fn)
    env = {
        "XENSTACK_CONSOLE_DIR": str(context.config.console_logs),
        "XENSTACK_STATE_DIR": str(context.config.state),
    }
    try:
        done = run_bounded(file, request, env=env, timeout_s=TIMEOUT_S, output_limit=_OUTPUT)
    except CommandFailed as why:
        raise XenapiPluginFailure("killed" if why.status is None else str(why.status), "", why.output) from why
    if done.status != 0:
        raise XenapiPluginFailure(str(done.status), done.stdout[-_SHOWN:], done.stderr[-_SHOWN:])
    return _answer(done.stdout, done.stderr)


def _file(folder: Path, name: str) -> Path:
    """The plugin's file. A name that could leave the folder names no plugin."""
    file = folder / name
    if not _NAME.fullmatch(name) or not file.is_file() or not os.access(file, os.X_OK):
        raise XenapiMissingPlugin(name)
    return file


def _answer(stdout: str, stderr: str) -> str:
    try:
        values, _ = xmlrpc.client.loads(stdout)
        answer: Any = values[0]
        status = answer["Status"]
    except Exception as why:
        raise XenapiPluginFailure("not XML-RPC", stdout[-_SHOWN:], stderr[-_SHOWN:]) from why
    if status == "Success":
        return str(answer.get("Value", ""))
    details = answer.get("ErrorDescription") or []
    if not details:
        raise InternalError("the plugin failed without a reason")
    raise XenAPIError.from_wire(list(details))
