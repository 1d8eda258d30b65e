"""XenAPI itself: how long one message takes, against a daemon with everything simulated, over loopback.

The client is the driver's own session (XML-RPC), one kept-alive connection unless said otherwise; its parser's time is
part of every number. xapi's numbers were measured once with another client of the same kind on a busy machine with two
cores, xapi 26.17.0 with a simulated hypervisor: they give the order of magnitude and no more.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.table import Row
from tests.kit.daemon import Daemon, daemon

from xenstack.xenapi.session import Session

SECTION = "XenAPI messages, simulated host"
NULL = "OpaqueRef:NULL"
XAPI_MS = {
    "login": 78.3,
    "get_record": 1.39,
    "get_field": 0.46,
    "set_field": 0.64,
    "vm": 3.58,
    "vdi": 286.0,
    "cycle": 65.8,
    "event": 3.8,
    "records": 390.0,
}


def rows() -> list[Row]:
    """Start a daemon in a temporary folder and measure it. Raises XenAPIError, Unreachable, RuntimeError."""
    with tempfile.TemporaryDirectory(prefix="xenstack-bench-") as folder, daemon(Path(folder)) as host:
        return [*_messages(host), *_clients(host), *_many(host)]


def _row(key: str, what: str, milliseconds: float) -> Row:
    note = f"xapi: {XAPI_MS[key]:g} ms" if key in XAPI_MS else ""
    return Row(key=f"wire.{key}", section=SECTION, what=what, value=milliseconds, unit="ms", note=note)


def median_ms(do: Callable[[], object], times: int, seconds: float = 5.0) -> float:
    """The median of `times` runs after one that does not count, or of as many as fit into `seconds`."""
    do()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < times and (time.perf_counter() < end or len(taken) < 3):
        start = time.perf_counter()
        do()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1000


def _messages(host: Daemon) -> Iterator[Row]:
    def login() -> None:
        with host.session() as session:
            assert session.ref

    yield _row("login", "log in and out", median_ms(login, 50))
    with host.session() as wire, _vm(wire) as vm:
        yield _row("get_record", "VM.get_record", median_ms(lambda: wire.call("VM.get_record", vm), 500))
        yield _row("get_field", "VM.get_power_state", median_ms(lambda: wire.call("VM.get_power_state", vm), 500))
        values = iter(range(10**6))
        setting = lambda: wire.call("VM.set_name_description", vm, f"v{next(values)}")  # noqa: E731
        yield _row("set_field", "VM.set_name_description", median_ms(setting, 300))

        def make() -> None:
            wire.call("VM.destroy", wire.call("VM.create", _vm_record("bench-made")))

        yield _row("vm", "VM.create and VM.destroy", median_ms(make, 100))
        sr = wire.call("pool.get_default_SR", wire.call("pool.get_all")[0])
        yield _row("vdi", "VDI.create and VDI.destroy", median_ms(lambda: _vdi(wire, sr), 50))

        def cycle() -> None:
            wire.call("VM.start", vm, False, False)
            wire.call("VM.hard_shutdown", vm)

        yield _row("cycle", "VM.start and VM.hard_shutdown", median_ms(cycle, 50))
        yield _row("event", "event.from: a change to its arrival", _event_ms(host, wire, vm))


def _vdi(wire: Session, sr: str) -> None:
    record = {
        "name_label": "bench",
        "name_description": "",
        "SR": sr,
        "virtual_size": 1 << 24,
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
        "xenstore_data": {},
        "sm_config": {},
        "tags": [],
    }
    wire.call("VDI.destroy", wire.call("VDI.create", record))


def _event_ms(host: Daemon, wire: Session, vm: str) -> float:
    """From the call that changes a VM to the waiter that has the change in its hands."""
    arrived: dict[str, float] = {}
    seen = threading.Event()
    ready = threading.Event()

    def listen() -> None:
        with host.session() as waiter:
            for batch in waiter.events([f"VM/{vm}"], timeout_s=10.0):
                for event in batch.events:
                    arrived[event.get("snapshot", {}).get("name_description", "")] = time.perf_counter()
                ready.set()
                seen.set()
                if "end" in arrived:
                    return

    listener = threading.Thread(target=listen)
    listener.start()
    ready.wait(30)
    taken = []
    for n in range(60):
        name = f"event {n}" if n < 59 else "end"
        seen.clear()
        time.sleep(0.03)
        start = time.perf_counter()
        wire.call("VM.set_name_description", vm, name)
        while name not in arrived and seen.wait(5):
            seen.clear()
        taken.append(arrived[name] - start)
    listener.join(30)
    return statistics.median(taken) * 1000


def _clients(host: Daemon, clients: int = 8, seconds: float = 4.0) -> Iterator[Row]:
    """How many VM.get_record a second eight clients at once get; they run in this process, which costs them too."""
    counts: list[int] = []
    with host.session() as wire, _vm(wire) as vm:

        def work() -> None:
            with host.session() as mine:
                assert mine.ref
                done, end = 0, time.perf_counter() + seconds
                while time.perf_counter() < end:
                    mine.call("VM.get_record", vm)
                    done += 1
                counts.append(done)

        threads = [threading.Thread(target=work) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    yield Row(
        key="wire.clients",
        section=SECTION,
        what=f"VM.get_record from {clients} clients at once",
        value=sum(counts) / seconds,
        unit="/s",
        better="more",
        note="xapi: 847 /s",
    )


def _many(host: Daemon, vms: int = 500) -> Iterator[Row]:
    def memory() -> float:
        assert host.process is not None
        words = Path(f"/proc/{host.process.pid}/status").read_text().split()
        return int(words[words.index("VmRSS:") + 1]) / 1024

    with host.session() as wire:
        before = memory()
        made = [wire.call("VM.create", _vm_record(f"bench-{n}")) for n in range(vms)]
        after = memory()
        everything = median_ms(lambda: wire.call("VM.get_all_records"), 10)
        for vm in made:
            wire.call("VM.destroy", vm)
    yield _row("records", f"VM.get_all_records of {vms} VMs", everything)
    for key, what, value in (("rss", "memory at start", before), ("rss_many", f"memory with {vms} VMs", after)):
        yield Row(key=f"wire.{key}", section=SECTION, what=f"the daemon's {what}", value=value, unit="MiB RSS")


@contextmanager
def _vm(wire: Session) -> Iterator[str]:
    vm = wire.call("VM.create", _vm_record("bench-vm"))
    try:
        yield vm
    finally:
        wire.call("VM.destroy", vm)


def _vm_record(name: str) -> dict[str, Any]:
    memory = 128 << 20
    return {
        "name_label": name,
        "name_description": "",
        "user_version": 1,
        "is_a_template": False,
        "affinity": NULL,
        **{f"memory_{kind}": memory for kind in ("static_max", "dynamic_max", "dynamic_min", "static_min")},
        "VCPUs_params": {},
        "VCPUs_max": 1,
        "VCPUs_at_startup": 1,
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "restart",
        **{f"PV_{part}": "" for part in ("bootloader", "kernel", "ramdisk", "args", "bootloader_args", "legacy_args")},
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {"order": "cd"},
        "HVM_shadow_multiplier": 1.0,
        "platform": {},
        "PCI_bus": "",
        "other_config": {},
        "recommendations": "",
    }
