"""What a server is made of, and whether anything of it is still there: asserted as absence, looked for everywhere.

While the server lives its `marks` are gathered: every uuid, reference, address and device name that it has on its host
and in Neutron. After its end no record of the toolstack, domain, process, device, row of a switch's database, file name
or file of Neutron's may carry one of them.

`unexplained` asks the other way round: is there anything on a host that no server in Nova accounts for?
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cloud.tenant import Server

from xenstack.cloud import xenapi_call
from xenstack.cloud.api import ADMIN, connected
from xenstack.cloud.box import Box
from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import NETWORK, dom0, domu

_CLASSES = ("VM", "VDI", "VBD", "VIF", "console", "VM_metrics", "VM_guest_metrics", "task", "message")
_PLACES = ("/run", "/tmp", "/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt")
_TAP = re.compile(r"(?:vif|tap)\d+[.-]\d+")
NULL = "OpaqueRef:NULL"


@dataclass(frozen=True)
class Marks:
    """A server's names for everything it has. `words` are unlike any other text; `files` are exact file names."""

    host: int
    words: frozenset[str]
    files: frozenset[str]
    vdis: frozenset[str]  # uuids of its disks


def marks(cloud: Deployment, server: Server) -> Marks:
    """What the server has now, read from its host while it is there."""
    words, files, disks = {server.id, server.vm_name, server.port, server.mac}, set[str](), set[str]()
    with xenapi_call.session(cloud, server.host) as call:
        ref, vm = vm_of(call, server)
        words |= {ref, vm["uuid"]}
        for vbd in vm["VBDs"]:
            record = call("VBD.get_record", vbd)
            words |= {vbd, record["uuid"]}
            if record["VDI"] != NULL:
                disks.add(call("VDI.get_uuid", record["VDI"]))
                words.add(record["VDI"])
        for vif in vm["VIFs"]:
            record = call("VIF.get_record", vif)
            words |= {vif, record["uuid"]}
        words |= set(vm["consoles"])
        files.add(f"console.{vm['domid']}")
    for line in rows(cloud.boxes[dom0(server.host)], "Interface", "name,external_ids"):
        if server.port in str(line):
            words.add(f'"{line["name"]}"')
            files.add(line["name"])
    assert disks, f"{server.vm_name} has no disk"
    return Marks(server.host, frozenset(words | disks), frozenset(files), frozenset(disks))


def vm_of(call: xenapi_call.Call, server: Server) -> tuple[str, dict[str, Any]]:
    """Reference and record of the server's VM."""
    found = {r: v for r, v in xenapi_call.guests(call).items() if v["other_config"].get("nova_uuid") == server.id}
    assert len(found) == 1, f"{server.name} has {len(found)} VMs on {dom0(server.host)}"
    return next(iter(found.items()))


def rows(box: Box, table: str, columns: str) -> list[dict[str, Any]]:
    """A table of the box's own switch; maps and sets stay in OVSDB's JSON words."""
    found = json.loads(box.run("ovs-vsctl", "--format=json", f"--columns={columns}", "list", table).stdout)
    return [dict(zip(found["headings"], row, strict=True)) for row in found["data"]]


def left_of(cloud: Deployment, marks: Marks) -> str | None:
    """Everything that still carries one of the marks, None when there is nothing."""
    found = [*_on_host(cloud, marks), *_in_network(cloud, marks)]
    return "; ".join(found) or None


def _on_host(cloud: Deployment, marks: Marks) -> list[str]:
    box = cloud.boxes[dom0(marks.host)]
    texts = _texts_of_box(box)
    texts["domain"] = box.run("virsh", "-c", "qemu:///system", "list", "--all", "--uuid", "--name").stdout.splitlines()
    with xenapi_call.session(cloud, marks.host) as call:
        for cls in _CLASSES:
            every = call(f"{cls}.get_all_records")
            texts[cls] = [f"{ref} {record}" for ref, record in every.items()]
    data = cloud.layout.data(dom0(marks.host))
    compute = cloud.layout.data(domu(marks.host))
    names = _names(data) + _names(compute) + [n for place in _PLACES for n in _names(box.path(place))]
    names += _names(cloud.boxes[domu(marks.host)].path("/tmp"))
    found = _search(marks, texts)
    found += [f"file {n}" for n in names if Path(n).name in marks.files or any(w in n for w in marks.words)]
    return [f"on {box.name}: {what}" for what in found]


def _in_network(cloud: Deployment, marks: Marks) -> list[str]:
    box = cloud.boxes[NETWORK]
    found = _search(marks, _texts_of_box(box))
    for file in box.path("/run/neutron").rglob("*"):
        # not "leases": Neutron writes it once, for dnsmasq's start, and removes it with the network
        if file.is_file() and file.name in ("host", "addn_hosts", "opts"):
            text = file.read_text(errors="replace")
            found += [f"{file.parent.name}/{file.name} names {word}" for word in marks.words if word in text]
    return [f"on {box.name}: {what}" for what in found]


def _texts_of_box(box: Box) -> dict[str, list[str]]:
    """Processes, devices and the switch's rows, line by line."""
    ports = [str(row) for table in ("Interface", "Port", "Bridge") for row in rows(box, table, "name,external_ids")]
    return {
        "process": box.run("ps", "-eo", "pid,args").stdout.splitlines(),
        "device": sorted(f'"{name}"' for name in box.interfaces()),
        "switch row": ports,
    }


def _search(marks: Marks, texts: dict[str, list[str]]) -> list[str]:
    return [
        f"{kind} {line[:160]}" for kind, lines in texts.items() for line in lines if any(w in line for w in marks.words)
    ]


def _names(folder: Path) -> list[str]:
    """Every path below a folder; what vanishes meanwhile is not there."""
    return [str(p) for p in folder.rglob("*")] if folder.is_dir() else []


def unexplained(cloud: Deployment, number: int) -> str | None:
    """What host N has that neither a server of Nova nor a cached image accounts for, None when there is nothing."""
    with connected(cloud, ADMIN) as api:
        servers = {s.id for s in api.compute.servers(all_projects=True)}
    box = cloud.boxes[dom0(number)]
    with xenapi_call.session(cloud, number) as call:
        vms, vdis = xenapi_call.guests(call), call("VDI.get_all_records")
        vifs = call("VIF.get_all_records")
    strange = [
        f"VM {vm['name_label']}" for vm in vms.values() if vm["other_config"].get("nova_uuid", "") not in servers
    ]
    strange += [f"VDI {v['name_label']} ({v['uuid']})" for v in vdis.values() if not _explained(v)]
    alive = {vm["uuid"]: vm["domid"] for vm in vms.values() if vm["domid"] != "-1"}
    domains = box.run("virsh", "-c", "qemu:///system", "list", "--all", "--uuid").stdout.split()
    strange += [f"domain {uuid}" for uuid in domains if uuid not in alive]
    guests = [line for line in box.run("ps", "-eo", "args").stdout.splitlines() if line.startswith("/usr/bin/qemu-sys")]
    strange += [f"process {line[:120]}" for line in guests if not any(f"guest={uuid}" in line for uuid in alive)]
    plugged = {v["uuid"] for v in vifs.values() if v["currently_attached"]}
    ports = [r for r in rows(box, "Interface", "name,external_ids") if "xs-vif-uuid" in str(r)]
    strange += [f"OVS port {r['name']}" for r in ports if not any(uuid in str(r) for uuid in plugged)]
    named = {r["name"] for r in ports}
    strange += [f"tap {name}" for name in box.interfaces() if _TAP.fullmatch(name) and name not in named]
    strange += _strange_files(cloud, number, {v["uuid"] for v in vdis.values()}, set(alive.values()))
    return f"{dom0(number)}: {'; '.join(sorted(strange))}" if strange else None


def _explained(vdi: dict[str, Any]) -> bool:
    """A disk of a VM, a cached image, or a guest's memory."""
    own = vdi["other_config"].get("image-vdi") == vdi["uuid"]
    return bool(vdi["VBDs"]) or own or vdi["type"] in ("suspend", "metadata")


def _strange_files(cloud: Deployment, number: int, vdis: set[str], domids: set[str]) -> list[str]:
    """Files of the SR that belong to no VDI, bases without a child, console logs of nobody."""
    state = cloud.layout.data(dom0(number)) / "host"
    files = [f for f in (state / "sr").rglob("*") if f.is_file() and f.name != ".lock"]
    backings = {_backing(f) for f in files if f.suffix == ".qcow2"}
    strange = []
    for file in files:
        uuid = file.name.partition(".")[0]
        known = file.name in backings if ".base." in file.name else uuid in vdis
        if not known:
            strange.append(f"file {file.name}")
    return strange + [f"console log {f.name}" for f in _logs(state) if f.suffix.removeprefix(".") not in domids]


def _logs(state: Path) -> list[Path]:
    return [f for f in (state / "consoles").iterdir() if f.is_file()]


def _backing(file: Path) -> str:
    """The name of the backing file in a qcow2 header, "" without one."""
    with file.open("rb") as image:
        head = image.read(20)
        at, length = int.from_bytes(head[8:16], "big"), int.from_bytes(head[16:20], "big")
        image.seek(at)
        return Path(image.read(min(length, 1024)).decode(errors="replace")).name if at else ""
