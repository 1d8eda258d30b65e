"""The guest's consoles: what it wrote to its serial port, and where its screen is reached."""

import base64
import binascii
import urllib.parse
import zlib
from typing import Any

from nova import exception
from nova.console import type as consoles

from xenstack.nova.faults import HostFailed, translated
from xenstack.nova.host import Host
from xenstack.xenapi import errors

_LOG_LIMIT = 1 << 20  # the plugin sends at most 100 KiB; more than this is not from it


def log(host: Host, instance: Any) -> bytes:
    """The last 100 KiB of the guest's serial console, also of a guest that has stopped since this service started.

    The XenAPI has no message for it: the host's plugin `console` reads the file that xenconsoled, or our host, keeps.
    """
    with translated(instance):
        vm, _ = host.vm(instance)
        domid = host.records.last_domid(vm)
        if domid < 0:
            return b""
        try:
            text = host.call("host.call_plugin", host.ref, "console", "get_console_log", {"dom_id": str(domid)})
        except (errors.XenapiMissingPlugin, errors.XenapiPluginFailure) as why:
            raise HostFailed(failure=f"the console plugin failed: {why}") from why
    try:
        unpacked = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), _LOG_LIMIT)
    except (binascii.Error, zlib.error) as why:
        raise HostFailed(failure=f"the console plugin's answer cannot be read: {why}") from why
    return unpacked


def vnc(host: Host, instance: Any) -> Any:
    """Where nova-novncproxy reaches the guest's screen: it sends CONNECT with this path to the host's own port.

    Raises ConsoleTypeUnavailable: the guest does not run, or has no screen.
    """
    with translated(instance):
        vm, _ = host.vm(instance)
        for ref, console in host.records.all("console"):
            if console["VM"] == vm and console["protocol"] == "rfb":
                address, port = endpoint(host.settings)
                path = f"/console?{urllib.parse.urlencode({'ref': ref, 'session_id': host.session.fresh_ref()})}"
                return consoles.ConsoleVNC(host=address, port=port, internal_access_path=path)
    raise exception.ConsoleTypeUnavailable(console_type="vnc")


def endpoint(settings: Any) -> tuple[str, int]:
    """(address, port) of the host's consoles as the proxy sees them."""
    if not settings.console_address:
        return urllib.parse.urlsplit(settings.connection_url).hostname or "localhost", 80
    parts = urllib.parse.urlsplit(f"//{settings.console_address}")
    return parts.hostname or "localhost", parts.port or 80
