"""The suite's client: the XenAPI library from PyPI, raw JSON-RPC, raw HTTP, and the making and sweeping of objects."""

import http.client
import json
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import XenAPI
from tests.kit.daemon import Daemon

NULL = "OpaqueRef:NULL"
MIB = 1 << 20
PREFIX = "contract-"
VM = {
    "name_label": PREFIX + "vm", "name_description": "", "user_version": "1", "is_a_template": False,
    "affinity": NULL, "memory_static_max": str(128 * MIB), "memory_dynamic_max": str(128 * MIB),
    "memory_dynamic_min": str(128 * MIB), "memory_static_min": str(64 * MIB), "VCPUs_params": {}, "VCPUs_max": "1",
    "VCPUs_at_startup": "1", "actions_after_shutdown": "destroy", "actions_after_reboot": "restart",
    "actions_after_crash": "destroy", "PV_bootloader": "", "PV_kernel": "", "PV_ramdisk": "", "PV_args": "",
    "PV_bootloader_args": "", "PV_legacy_args": "", "HVM_boot_policy": "BIOS order", "HVM_boot_params": {"order": "cd"},
    "platform": {}, "PCI_bus": "", "other_config": {}, "recommendations": "",
}  # fmt: skip


@dataclass
class Server:
    """One XenAPI server. `boot`: fields of a VM that boots there; `daemon`: ours, to look behind it."""

    url: str
    user: str
    password: str
    ours: bool
    qemu: bool
    boot: dict[str, str] = field(default_factory=dict)
    daemon: Daemon | None = None


@dataclass
class Answer:
    """A raw HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A session, and short words for what tests do."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.session = XenAPI.Session(server.url, ignore_ssl=True)
        self.session.xenapi.login_with_password(server.user, server.password, "1.0", "contract")
        self.api = self.session.xenapi
        self.ref = str(self.session._session)
        self._made: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session.xenapi.session.logout()

    # ---- making

    @property
    def sr(self) -> str:
        """An SR for disks."""
        return str(self.api.pool.get_default_SR(self.api.pool.get_all()[0]))

    def vm(self, **fields: Any) -> str:
        """A halted VM that boots."""
        return str(self.api.VM.create({**VM, **self.server.boot, **fields}))

    def vdi(self, size: int = 16 * MIB, **fields: Any) -> str:
        """A disk."""
        return str(
            self.api.VDI.create(
                {
                    "name_label": PREFIX + "vdi",
                    "name_description": "",
                    "SR": self.sr,
                    "virtual_size": str(size),
                    "type": "user",
                    "sharable": False,
                    "read_only": False,
                    "other_config": {},
                    "xenstore_data": {},
                    "sm_config": {},
                    "tags": [],
                    **fields,
                }
            )
        )

    def vbd(self, vm: str, vdi: str, userdevice: str = "0", **fields: Any) -> str:
        """A disk slot."""
        return str(
            self.api.VBD.create(
                {
                    "VM": vm,
                    "VDI": vdi,
                    "userdevice": userdevice,
                    "bootable": False,
                    "mode": "RW",
                    "type": "Disk",
                    "unpluggable": True,
                    "empty": vdi == NULL,
                    "other_config": {},
                    "qos_algorithm_type": "",
                    "qos_algorithm_params": {},
                    **fields,
                }
            )
        )

    def task(self, task: str) -> dict[str, Any]:
        """Wait for a task's end with event.from; returns its record."""
        token = ""
        while True:
            batch = self.events([f"task/{task}"], token, 10.0)
            token = batch["token"]
            record = self.api.task.get_record(task)
            if record["status"] != "pending":
                self.api.task.destroy(task)
                return dict(record)

    def events(self, classes: list[str], token: str = "", timeout: float = 5.0) -> dict[str, Any]:
        """event.from: the library has no other way to say a name with a keyword in it."""
        return dict(getattr(self.api, "event.from")(classes, token, timeout))

    def sweep(self) -> None:
        """Remove every object that this suite made: by name, whoever made it."""
        for vm, record in self.api.VM.get_all_records().items():
            if not record["name_label"].startswith(PREFIX):
                continue
            if record["power_state"] != "Halted":
                self.api.VM.hard_shutdown(vm)
            self.api.VM.destroy(vm)
        for vdi, record in self.api.VDI.get_all_records().items():
            if record["name_label"].startswith(PREFIX):
                self.api.VDI.destroy(vdi)
        for network, record in self.api.network.get_all_records().items():
            if record["name_label"].startswith(PREFIX):
                self.api.network.destroy(network)

    # ---- raw

    def connection(self) -> http.client.HTTPConnection:
        """A fresh connection."""
        parts = urlsplit(self.server.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme], timeout=30)

    def http(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One raw request; a connection that the server closes early is an answer of status 0."""
        link = self.connection()
        try:
            link.request(method, path, body, headers={k.replace("_", "-"): v for k, v in headers.items()})
            answer = link.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        except (ConnectionError, http.client.BadStatusLine):
            return Answer(0, {}, b"")
        finally:
            link.close()

    def put(self, path: str, body: bytes, **query: str) -> Answer:
        """PUT with this session."""
        return self.http("PUT", f"{path}?{urlencode({'session_id': self.ref, **query})}", body)

    def download(self, path: str, **query: str) -> Answer:
        """GET with this session."""
        return self.http("GET", f"{path}?{urlencode({'session_id': self.ref, **query})}")

    def jsonrpc(self, method: str, *params: Any, version: str = "2.0", session: bool = True) -> dict[str, Any]:
        """One JSON-RPC call."""
        arguments = [self.ref, *params] if session else list(params)
        message = {"jsonrpc": version, "method": method, "params": arguments, "id": 7}
        if version == "1.0":
            del message["jsonrpc"]
        answer = self.http("POST", "/jsonrpc", json.dumps(message).encode(), Content_Type="application/json")
        assert answer.headers["content-type"] == "application/json"
        return dict(json.loads(answer.body))
