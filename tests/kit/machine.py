"""One host in the test's own process, on simulated ports unless others are given: what operations work on.

`Machine` is a real Context with real records and journal; only the hypervisor, the switch and the disks are simulated.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from xenstack.host.calls.call import CALLS, Context, load_all
from xenstack.host.config import Config
from xenstack.host.database.store import Store
from xenstack.host.hypervisor.simulated import SimulatedHypervisor
from xenstack.host.network.simulated import SimulatedNetwork
from xenstack.host.operations import recover, repository
from xenstack.host.storage.simulated import SimulatedStorage
from xenstack.host.tasks.journal import Journal
from xenstack.host.tasks.task import Task

MIB = 1 << 20
VM = {
    "name_label": "guest", "name_description": "", "user_version": 1, "is_a_template": False,
    "affinity": "OpaqueRef:NULL", "memory_static_max": 128 * MIB, "memory_dynamic_max": 128 * MIB,
    "memory_dynamic_min": 128 * MIB, "memory_static_min": 64 * MIB, "VCPUs_params": {}, "VCPUs_max": 1,
    "VCPUs_at_startup": 1, "actions_after_shutdown": "destroy", "actions_after_reboot": "restart",
    "actions_after_crash": "restart", "PV_bootloader": "", "PV_kernel": "", "PV_ramdisk": "", "PV_args": "",
    "PV_bootloader_args": "", "PV_legacy_args": "", "HVM_boot_policy": "BIOS order",
    "HVM_boot_params": {"order": "cd"}, "platform": {}, "PCI_bus": "", "other_config": {}, "recommendations": "",
}  # fmt: skip
"""What a client must give to VM.create, at least."""


@dataclass
class Machine:
    """The host, and short words for what tests do with it. `call("VM.start", vm, False, False)` runs a handler."""

    folder: Path
    hypervisor: Any = None
    storage: Any = None
    store: Store = field(init=False)
    network: SimulatedNetwork = field(init=False)
    journal: Journal = field(init=False)
    sr: str = ""

    def __post_init__(self) -> None:
        load_all()
        self.config = Config(state=self.folder)
        self.folder.mkdir(exist_ok=True)
        self.hypervisor = self.hypervisor or SimulatedHypervisor(self.folder)
        self.network = SimulatedNetwork(self.folder)
        self.storage = self.storage or SimulatedStorage()
        self.open()
        with self.store.transaction():
            host = self.store.create("host", {"enabled": True, "address": "127.0.0.1"})
            self.store.create("pool", {"master": host})
            self.net = self.store.create("network", {"bridge": "br-int", "MTU": 1500})
        self.sr = repository.create_first(self.context(), 0)

    def open(self) -> None:
        """Open the database as a daemon does that starts."""
        self.store = Store(self.config.database)
        self.journal = Journal(self.config.database)

    def die(self) -> None:
        """Forget everything that a killed daemon forgets; guests, ports and disks stay."""
        self.store.close()
        self.journal.close()
        self.open()

    def recover(self) -> recover.Report:
        """What a daemon does before it listens."""
        return recover.recover(self.context())

    def context(self, task: Task | None = None) -> Context:
        """A fresh call's context."""
        given: dict[str, Any] = {
            "store": self.store,
            "hypervisor": self.hypervisor,
            "storage": self.storage,
            "network": self.network,
            "journal": self.journal,
            "config": self.config,
            "host_ref": self.store.refs("host")[0],
            "pool_ref": self.store.refs("pool")[0],
            "session": "OpaqueRef:test",
            "task": task or Task.hidden(self.store),
        }
        edge = {each.name: None for each in fields(Context)}  # sessions and queues: operations have no use for them
        return Context(**{**edge, **given})

    def call(self, name: str, *arguments: Any, task: Task | None = None) -> Any:
        """Run a message's handler."""
        return CALLS[name](self.context(task), *arguments)

    def vm(self, *, disks: int = 1, vifs: int = 1, drive: bool = False, **fields: Any) -> str:
        """A halted VM with disks, interfaces and, if wanted, an empty CD drive."""
        vm = self.call("VM.create", {**VM, **fields})
        for number in range(disks):
            self.disk(vm, str(number), self.vdi())
        if drive:
            self.call("VBD.create", self.slot(vm, "3", "OpaqueRef:NULL", type="CD", mode="RO", empty=True))
        for number in range(vifs):
            self.vif(vm, str(number))
        return str(vm)

    def vdi(self, size: int = 16 * MIB, **fields: Any) -> str:
        """A new disk."""
        values = {"name_label": "disk", "SR": self.sr, "virtual_size": size, "type": "user", "sharable": False,
                  "read_only": False, "other_config": {}, **fields}  # fmt: skip
        return str(self.call("VDI.create", values))

    def slot(self, vm: str, userdevice: str, vdi: str, **fields: Any) -> dict[str, Any]:
        """VBD.create's record."""
        return {"VM": vm, "VDI": vdi, "userdevice": userdevice, "bootable": False, "mode": "RW", "type": "Disk",
                "empty": False, "unpluggable": True, "other_config": {}, "qos_algorithm_type": "",
                "qos_algorithm_params": {}, **fields}  # fmt: skip

    def disk(self, vm: str, userdevice: str, vdi: str, **fields: Any) -> str:
        """A VBD."""
        return str(self.call("VBD.create", self.slot(vm, userdevice, vdi, **fields)))

    def vif(self, vm: str, device: str, **fields: Any) -> str:
        """A VIF on br-int."""
        values = {"VM": vm, "network": self.net, "device": device, "MAC": "", "MTU": 1500, "other_config": {},
                  "qos_algorithm_type": "", "qos_algorithm_params": {}, **fields}  # fmt: skip
        return str(self.call("VIF.create", values))

    def get(self, cls: str, ref: str, name: str) -> Any:
        """One field."""
        return self.store.get(cls, ref, name)

    def snapshot(self) -> dict[str, Any]:
        """All there is, as plain data: what must be the same before and after something that undid itself.

        Sizes and times are left out; so are the numbers that are never used twice.
        """
        records = {}
        for cls in self.store.model.classes:
            if cls in ("task", "session", "VM_metrics"):
                continue
            for ref, record in self.store.views(cls):
                records[cls, ref] = {
                    k: v
                    for k, v in record.items()
                    if k not in ("physical_utilisation", "virtual_allocation", "last_booted_record", "memory_free")
                }
        return {
            "records": records,
            "domains": sorted(d.uuid for d in self.hypervisor.domains()),
            "taps": sorted(p.tap for p in self.network.ports()),
            "disks": self.disks(),
            "logs": sorted(p.name for p in self.config.console_logs.glob("*")),
            "journal": [e.plan for e in self.journal.entries()],
        }

    def disks(self) -> dict[str, tuple[str, ...]]:
        """Every VDI that storage has, and who uses it."""
        sr = self.get("SR", self.sr, "uuid")
        return {v.uuid: self.storage.users(sr, v.uuid) for v in self.storage.scan(sr).vdis}
