"""A DomainSpec as JSON and back: what the simulator keeps on disk."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xenstack.host.hypervisor.port import (
    AfterReboot,
    DiskBoot,
    DiskFormat,
    DiskKind,
    DiskSpec,
    DomainSpec,
    Firmware,
    KernelBoot,
    VifSpec,
)


def spec_to_json(spec: DomainSpec) -> str:
    """The specification as one JSON object."""
    return json.dumps(asdict(spec), default=str)


def spec_from_json(text: str) -> DomainSpec:
    """What `spec_to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    values: dict[str, Any] = json.loads(text)
    boot = values.pop("boot")
    if "order" in boot:
        values["boot"] = DiskBoot(boot["order"])
    else:
        values["boot"] = KernelBoot(Path(boot["kernel"]), _path(boot["ramdisk"]), boot["args"])
    values["disks"] = tuple(
        DiskSpec(
            **{
                **disk,
                "path": _path(disk["path"]),
                "format": DiskFormat(disk["format"]),
                "kind": DiskKind(disk["kind"]),
            }
        )
        for disk in values["disks"]
    )
    values["vifs"] = tuple(VifSpec(**vif) for vif in values["vifs"])
    values["firmware"] = Firmware(values["firmware"])
    values["after_reboot"] = AfterReboot(values["after_reboot"])
    values["console_log"] = _path(values["console_log"])
    return DomainSpec(**values)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
