"""What an installation may choose about its libvirt: one frozen record."""

from dataclasses import dataclass
from pathlib import Path

SOCKET_PATH_LIMIT = 107  # characters of a unix socket's path (sun_path without its final zero)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """See the comment above each field."""

    # qemu:///embed?root=DIR runs the driver inside this process (tests); qemu:///system talks to the libvirtd whose
    # socket is under /run/libvirt. For another socket: qemu+unix:///system?socket=PATH.
    uri: str

    # Folder of the console sockets, made when absent. At most 58 characters: a socket's path has little room.
    run_directory: Path

    # Folder where libvirt keeps one <name>.log of QEMU's own words per domain, for ever: those of domains that are gone
    # are removed. None: they stay.
    qemu_log_directory: Path | None = Path("/var/log/libvirt/qemu")

    # qemu (TCG, everywhere) or kvm. Never guessed: /dev/kvm can open and still boot nothing.
    domain_type: str = "qemu"

    # pc, not q35: its IDE CD drives work with Debian's cloud kernel (which has no AHCI driver), and every slot of its
    # one PCI bus can be hot-plugged, where q35 needs a root port per device.
    machine: str = "pc"

    # Guest CPU model; "" is the machine type's own (qemu64 under TCG).
    cpu_model: str = ""

    # MiB of translated code QEMU keeps per CPU of a domain all of whose CPUs are on line (TCG only); 0 is QEMU's own
    # choice, up to 1 GiB. A 96 MiB guest that has booted: 166 MiB RSS with 16, 186 with 32, 203 with 0; same boot time.
    tb_cache_MiB: int = 16

    # Offload checksums and segmentation from guest to switch. Off, because a userspace Open vSwitch drops packets whose
    # checksum is still to be filled in.
    offload: bool = False

    # Seconds a call may take, seconds a domain may take to start, seconds to write or read a suspend image.
    call_timeout_s: float = 30.0
    create_timeout_s: float = 90.0
    image_timeout_s: float = 600.0

    # Seconds a call waits for a libvirtd that is just being restarted.
    reconnect_wait_s: float = 10.0
