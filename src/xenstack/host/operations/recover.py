"""What the daemon does before it listens: finish or undo what the last one was doing, then read the world again.

Order matters. Storage forgets its users when the daemon stops, so the disks of running domains are claimed first;
then the journal is settled; then every record is compared with the hypervisor, the switch and storage, and what no
running guest needs (taps, console logs, users) is removed. Running guests are never touched. A domain without a
record is left alone and reported: no record is no reason to kill a guest.
"""

import logging
from dataclasses import dataclass, field

from xenstack.host.hypervisor.port import Domain
from xenstack.host.network.port import NetworkError, parse_tap_name
from xenstack.host.operations import allowed, busy, copy_vm, disk, plug, repository, spec, suspend, truth
from xenstack.host.operations.machine import NULL, Machine
from xenstack.host.storage.port import StorageError
from xenstack.host.tasks.plan import settle

log = logging.getLogger(__name__)

PLANS = (copy_vm, disk, plug, repository, suspend)
"""Modules that declare plans: the journal may name any of them, so all must be known before it is read."""


@dataclass
class Report:
    """What recovery found. `stuck` is what it could not mend; everything else it did."""

    running: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)


def recover(machine: Machine) -> Report:
    """Make everything true again. To be called once, before the first call is served."""
    report = Report()
    machine.storage.recover()
    attach_srs(machine, report)
    domains = machine.hypervisor.domains()
    for domain in domains:
        _claim_disks(machine, domain, report)
    busy.clear(machine.store)
    report.stuck += settle(machine, machine.journal)
    for vm in machine.store.refs("VM"):
        _settle(machine, vm, report)
    domains = machine.hypervisor.domains()
    known = {machine.store.get("VM", vm, "uuid") for vm in machine.store.refs("VM")}
    report.running = [d.uuid for d in domains if d.uuid in known]
    report.unknown = [d.uuid for d in domains if d.uuid not in known]
    _sweep_taps(machine, domains, report)
    _sweep_logs(machine, domains, report)
    _scan(machine, report)
    _refresh(machine)
    for uuid in report.unknown:
        log.error("domain %s has no VM record; it is left running", uuid)
    for what in report.stuck:
        log.error("not recovered: %s", what)
    return report


def attach_srs(machine: Machine, report: Report) -> None:
    """Attach every SR whose PBD is plugged; one that cannot be attached counts as unplugged from now on."""
    store = machine.store
    for pbd in store.refs("PBD"):
        record = store.view("PBD", pbd)
        if not record["currently_attached"] or record["host"] != machine.host_ref:
            continue
        try:
            machine.storage.attach_sr(
                store.get("SR", record["SR"], "uuid"), size_limit=repository.size_limit(record["device_config"])
            )
        except StorageError as why:
            store.set("PBD", pbd, currently_attached=False)
            report.stuck.append(f"SR {store.get('SR', record['SR'], 'uuid')}: {type(why).__name__} {why}")


def _claim_disks(machine: Machine, domain: Domain, report: Report) -> None:
    try:
        truth.in_use(machine, domain)
    except StorageError as why:
        report.stuck.append(f"disks of domain {domain.uuid}: {type(why).__name__} {why}")


def _settle(machine: Machine, vm: str, report: Report) -> None:
    try:
        truth.settle_vm(machine, vm)
    except Exception as why:
        # one VM that cannot be read must not keep the daemon from serving the others
        log.exception("VM %s", vm)
        report.stuck.append(f"VM {machine.store.get('VM', vm, 'uuid')}: {why}")


def _sweep_taps(machine: Machine, domains: list[Domain], report: Report) -> None:
    used = {vif.tap for domain in domains for vif in domain.vifs}
    try:
        for port in machine.network.ports():
            if port.tap not in used and parse_tap_name(port.tap) is not None:
                machine.network.unplug(port.tap)
                report.swept.append(port.tap)
    except NetworkError as why:
        report.stuck.append(f"taps: {type(why).__name__} {why}")


def _sweep_logs(machine: Machine, domains: list[Domain], report: Report) -> None:
    kept = {domain.domid for domain in domains}
    kept |= {last for vm in machine.store.refs("VM") if (last := spec.last_domid(machine.store.view("VM", vm)))}
    for path in machine.config.console_logs.glob("console.*"):
        domid = path.name.removeprefix("console.")
        if domid.isdigit() and int(domid) not in kept:
            path.unlink(missing_ok=True)
            report.swept.append(path.name)


def _scan(machine: Machine, report: Report) -> None:
    """Mark the VDIs whose file is gone, and take the sizes of the others."""
    store = machine.store
    for sr in store.refs("SR"):
        if not allowed.attached(store, sr):
            continue
        vdis = {store.get("VDI", v, "uuid"): v for v in store.get("SR", sr, "VDIs")}
        try:
            scan = machine.storage.scan(store.get("SR", sr, "uuid"), frozenset(vdis))
        except StorageError as why:
            report.stuck.append(f"SR {store.get('SR', sr, 'uuid')}: {type(why).__name__} {why}")
            continue
        for uuid in scan.missing:
            store.set("VDI", vdis[uuid], missing=True)
            report.missing.append(uuid)
        for vdi in scan.vdis:
            if vdi.uuid in vdis:
                store.set(
                    "VDI", vdis[vdi.uuid], missing=False,
                    virtual_size=vdi.virtual_size, physical_utilisation=vdi.physical_utilisation,
                )  # fmt: skip


def _refresh(machine: Machine) -> None:
    store = machine.store
    with store.transaction():
        for vbd in store.refs("VBD"):
            if not store.exists("VM", store.get("VBD", vbd, "VM")):
                store.delete("VBD", vbd)
        for console in store.refs("console"):
            owner = store.get("console", console, "VM")
            if not store.exists("VM", owner) or store.get("VM", owner, "domid") < 0:
                store.delete("console", console)
        for vm in store.refs("VM"):
            allowed.vm(store, vm)
        for sr in store.refs("SR"):
            allowed.sr(store, sr)
        for vdi in store.refs("VDI"):
            if store.get("VDI", vdi, "SR") != NULL:
                allowed.vdi(store, vdi)
