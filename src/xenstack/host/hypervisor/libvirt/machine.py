"""Facts about this machine, as its kernel tells them (/proc): QEMU's guests live on the same kernel."""

import os
from dataclasses import dataclass
from pathlib import Path

CPUINFO, MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Processor:
    """The first CPU, and how many there are."""

    cpus: int
    sockets: int
    cores_per_socket: int
    threads_per_core: int
    vendor: str
    model: str
    family: int
    model_number: int
    stepping: int
    mhz: int
    flags: tuple[str, ...]


def processor(cpuinfo: str, cpus: int) -> Processor:
    """Read the text of /proc/cpuinfo. `cpus` is how many may be used (a container may have fewer than there are)."""
    blocks = [_block(text) for text in cpuinfo.strip().split("\n\n")]
    first = blocks[0] if blocks else {}
    sockets = max(1, len({block.get("physical id", "0") for block in blocks}))
    cores = max(1, _number(first, "cpu cores"))
    threads = max(1, _number(first, "siblings") // cores)
    if cpus > sockets * cores * threads:  # what the machine tells does not add up: count CPUs as cores
        sockets, cores, threads = 1, cpus, 1
    return Processor(
        cpus=cpus,
        sockets=sockets,
        cores_per_socket=cores,
        threads_per_core=threads,
        vendor=first.get("vendor_id", "unknown"),
        model=first.get("model name", "unknown"),
        family=_number(first, "cpu family"),
        model_number=_number(first, "model"),
        stepping=_number(first, "stepping"),
        mhz=_number(first, "cpu MHz"),
        flags=tuple(first.get("flags", "").split()),
    )


def this_processor() -> Processor:
    """This machine's."""
    return processor(CPUINFO.read_text(), len(os.sched_getaffinity(0)))


def memory() -> tuple[int, int]:
    """Bytes of memory: all of it, and what is available (free, or given back at once by caches)."""
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in MEMINFO.read_text().splitlines()}
    return values["MemTotal"], values.get("MemAvailable", values["MemFree"])


def _block(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _number(block: dict[str, str], key: str) -> int:
    try:
        return int(float(block.get(key, "0")))
    except ValueError:
        return 0
