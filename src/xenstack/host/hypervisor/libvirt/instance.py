"""How to run a libvirtd of one's own, or libvirt's QEMU driver inside the process: the values that matter, and why.

One libvirtd for each host, in its own mount, network, PID and UTS namespace with a private /run (a "box"):

    1. private folders over /etc/libvirt, /var/lib/libvirt, /var/log/libvirt and /var/cache/libvirt (bind mounts; the
       first two on disk, so that domains are found again after a restart of libvirtd: it keeps their state in
       /run/libvirt/qemu, which must live exactly as long as the QEMU processes: in the box's /run);
    2. `python -m xenstack.host.hypervisor.libvirt.instance /etc/libvirt` writes libvirtd.conf and qemu.conf there;
    3. `tini -s -- libvirtd --config /etc/libvirt/libvirtd.conf` in the foreground, restarted when it ends. tini -s is a
       child subreaper: QEMU daemonizes, and libvirt takes 2 s instead of 0.2 s to destroy a domain whose process stays
       a zombie. Whoever supervises must kill and restart libvirtd alone, not its process group: guests outlive it.
       Killing tini with libvirtd leaves the QEMUs to the box's PID 1, which is as good if that reaps at once;
    4. wait until `virsh -c qemu:///system version` answers: the first start asks QEMU what it can do (some seconds;
       kept in /var/cache/libvirt);
    5. the host daemon, in the same namespaces, with uri `qemu:///system`.

Below the box, domains end with the box's PID namespace. `down` stops the daemon, destroys domains or lets the PID
namespace take them; nothing is left outside, because taps live in the box's network namespace.

For tests `embedded(DIRECTORY)` gives the uri of a driver inside the process: no libvirtd; guests outlive the process.
"""

import sys
import uuid
from pathlib import Path

QEMU_CONF = {
    # The box is the fence: QEMU runs as its root. Files then belong to whom they belonged: libvirt changes no owner.
    "user": '"root"',
    "group": '"root"',
    "dynamic_ownership": "0",
    "remember_owner": "0",
    "security_driver": '"none"',
    "security_default_confined": "0",
    # No mount namespace and no cgroup per domain: neither is to be had in every container.
    "namespaces": "[]",
    "cgroup_controllers": "[]",
    # QEMU writes its own log and console files: no virtlogd. The host daemon bounds console logs.
    "stdio_handler": '"file"',
    # VNC is on unix sockets that each domain names itself.
    "vnc_listen": '"127.0.0.1"',
    "max_files": "4096",
}

LIBVIRTD_CONF = {
    # Only root of the box reaches the socket; no TCP, no TLS.
    "unix_sock_group": '"root"',
    "unix_sock_ro_perms": '"0700"',
    "unix_sock_rw_perms": '"0700"',
    "auth_unix_ro": '"none"',
    "auth_unix_rw": '"none"',
    "listen_tls": "0",
    "listen_tcp": "0",
    # The host daemon sends at most some dozen calls at once.
    "min_workers": "2",
    "max_workers": "20",
    "admin_min_workers": "1",
    "keepalive_interval": "5",
    "keepalive_count": "3",
    "log_outputs": '"2:stderr"',  # warnings and errors, to whoever supervises
}


def qemu_conf() -> str:
    """The text of qemu.conf."""
    return _text(QEMU_CONF)


def libvirtd_conf(host_uuid: str) -> str:
    """The text of libvirtd.conf. `host_uuid` must differ between hosts: libvirt would think they are one machine."""
    return _text({"host_uuid": f'"{uuid.UUID(host_uuid)}"', **LIBVIRTD_CONF})


def write_configuration(directory: Path) -> None:
    """Write both files into libvirt's configuration folder. The host uuid stays what it was when there is one."""
    directory.mkdir(parents=True, exist_ok=True)
    for folder in ("qemu/networks/autostart", "qemu/autostart", "nwfilter", "secrets", "storage", "hooks"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    kept = directory / "host_uuid"
    if not kept.exists():
        kept.write_text(str(uuid.uuid4()))
    (directory / "qemu.conf").write_text(qemu_conf())
    (directory / "libvirtd.conf").write_text(libvirtd_conf(kept.read_text().strip()))


def embedded(directory: Path) -> str:
    """Prepare `directory` (a short path: sockets lie below it) for a driver in this process; its uri.

    One directory per process, for its whole life. Run the process as a child subreaper (`tini -s`, or prctl), or
    `destroy` may take 2 s where PID 1 is slow.
    """
    (directory / "etc").mkdir(parents=True, exist_ok=True)
    (directory / "etc" / "qemu.conf").write_text(qemu_conf())
    return f"qemu:///embed?root={directory}"


def _text(values: dict[str, str]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in values.items())


if __name__ == "__main__":
    write_configuration(Path(sys.argv[1]))
