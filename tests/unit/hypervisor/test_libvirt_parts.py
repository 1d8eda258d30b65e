"""The libvirt adapter's parts that need no libvirtd: errors, news, machine facts, tidying, configuration."""

import uuid as uuids
from pathlib import Path

import libvirt
import pytest

from xenstack.host.hypervisor.libvirt import errors, instance, machine, tidy
from xenstack.host.hypervisor.libvirt.adapter import LibvirtHypervisor
from xenstack.host.hypervisor.libvirt.news import News
from xenstack.host.hypervisor.libvirt.settings import Settings
from xenstack.host.hypervisor.port import (
    DeviceExists,
    DeviceMissing,
    DomainEvent,
    DomainExists,
    DomainMissing,
    EventKind,
    FileUnusable,
    HypervisorError,
    InvalidSpec,
    NotEnoughMemory,
    StopReason,
    TimedOut,
    Unavailable,
    Unsupported,
)

INTERNAL = libvirt.VIR_ERR_INTERNAL_ERROR

# sentences that libvirt 9 and QEMU 7.2 really said
SENTENCES = [
    (libvirt.VIR_ERR_NO_DOMAIN, "Domain not found: no domain with matching uuid 'u'", DomainMissing("u")),
    (libvirt.VIR_ERR_OPERATION_INVALID, "Requested operation is not valid: domain is not running", DomainMissing("u")),
    (
        libvirt.VIR_ERR_OPERATION_FAILED,
        "operation failed: domain 'u' is already being started",
        DomainExists("u"),
    ),
    (
        INTERNAL,
        'process exited while connecting to monitor: -blockdev {"node-name":"x"}: Failed to get "write" lock\n'
        "Is another process using the image [/sr/a.raw]?",
        FileUnusable("/sr/a.raw", "in use by another disk"),
    ),
    (INTERNAL, "qemu: Could not open '/sr/x': Permission denied", FileUnusable("/sr/x", "Permission denied")),
    (
        INTERNAL,
        "qemu unexpectedly closed the monitor: cannot set up guest memory 'pc.ram': Cannot allocate memory",
        NotEnoughMemory(0, 0),
    ),
    (INTERNAL, "Image is not in qcow2 format", FileUnusable("", "Image is not in qcow2 format")),
    (libvirt.VIR_ERR_OPERATION_TIMEOUT, "cannot acquire state change lock", TimedOut("v", "u")),
    (libvirt.VIR_ERR_NO_CONNECT, "nobody there", Unavailable("nobody there")),
    (INTERNAL, "client socket is closed", Unavailable("client socket is closed")),
    (libvirt.VIR_ERR_DEVICE_MISSING, "device not found", DeviceMissing("u", "device not found")),
    (libvirt.VIR_ERR_OPERATION_FAILED, "operation failed: target vda already exists", DeviceExists("u", "vda")),
    (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, "not that", Unsupported("not that")),
]


@pytest.mark.parametrize(("code", "sentence", "expected"), SENTENCES, ids=[s[1][:40] for s in SENTENCES])
def test_errors(code: int, sentence: str, expected: HypervisorError) -> None:
    found = errors.translate_words(code, sentence, "v", "u")
    assert type(found) is type(expected)
    assert vars(found) == vars(expected)


def test_an_unknown_error_keeps_every_word() -> None:
    found = errors.translate_words(INTERNAL, "what nobody has seen", "pause", "u")
    assert type(found) is HypervisorError
    for word in ("what nobody has seen", "pause", "u", str(INTERNAL)):
        assert word in str(found)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def heard(*happened: object) -> list[tuple[EventKind, StopReason | None]]:
    """What listeners hear when libvirt tells a sequence: (event, detail), "reset", "qemu-reset", "asked", seconds."""
    told: list[DomainEvent] = []
    clock = Clock()
    news = News(told.append, clock)
    for what in happened:
        if isinstance(what, tuple):
            news.lifecycle("u", *what)
        elif what == "reset":
            news.rebooted("u")
        elif what == "asked":
            news.reboot_requested("u")
        elif what == "qemu-reset":
            news.qemu_shutdown("u", '{"guest":true,"reason":"guest-reset"}')
        elif what == "qemu-shutdown":
            news.qemu_shutdown("u", '{"guest":true,"reason":"guest-shutdown"}')
        elif isinstance(what, float):
            clock.now += what
    assert {event.uuid for event in told} <= {"u"}
    return [(event.kind, event.reason) for event in told]


STARTED, PAUSED = (libvirt.VIR_DOMAIN_EVENT_STARTED, 0), (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, 0)
RESUMED, SHUTDOWN = (libvirt.VIR_DOMAIN_EVENT_RESUMED, 0), (libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, 1)
STOPPED = libvirt.VIR_DOMAIN_EVENT_STOPPED


def test_a_domain_made_paused_is_started_once() -> None:
    assert heard(STARTED, PAUSED, RESUMED, PAUSED, PAUSED, RESUMED) == [
        (EventKind.STARTED, None),
        (EventKind.RESUMED, None),
        (EventKind.PAUSED, None),
        (EventKind.RESUMED, None),
    ]


def test_resets_close_together_are_one() -> None:
    assert heard("reset", 0.1, "reset", 0.1, "reset") == [(EventKind.REBOOTED, None)]
    assert len(heard("reset", 5.0, "reset")) == 2


@pytest.mark.parametrize(
    ("before", "detail", "reason"),
    [
        (["qemu-shutdown", SHUTDOWN], libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN, StopReason.SHUTDOWN),
        (["qemu-reset", SHUTDOWN], libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN, StopReason.REBOOT),
        (["asked", 20.0, "qemu-shutdown"], libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN, StopReason.REBOOT),
        (["asked", 2000.0, "qemu-shutdown"], libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN, StopReason.SHUTDOWN),
        (["asked"], libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED, StopReason.DESTROYED),
        ([], libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED, StopReason.CRASH),
        ([], libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED, StopReason.CRASH),
        ([], libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED, StopReason.SUSPENDED),
        ([], 99, StopReason.CRASH),
    ],
)
def test_why_a_domain_stopped(before: list[object], detail: int, reason: StopReason) -> None:
    assert heard(*before, (STOPPED, detail)) == [(EventKind.STOPPED, reason)]


def test_an_old_reset_does_not_colour_the_next_domain() -> None:
    stopped = (STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN)
    assert heard("qemu-reset", stopped, STARTED, stopped)[-1] == (EventKind.STOPPED, StopReason.SHUTDOWN)
    assert heard("asked", stopped, STARTED, stopped)[-1] == (EventKind.STOPPED, StopReason.SHUTDOWN)


CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 23
model\t\t: 49
model name\t: AMD EPYC 7R32
stepping\t: 0
cpu MHz\t\t: 2799.998
physical id\t: 0
siblings\t: 4
cpu cores\t: 2
flags\t\t: fpu sse2 avx2
"""


def test_processor() -> None:
    text = "\n".join(CPUINFO.replace("physical id\t: 0", f"physical id\t: {n // 4}") for n in range(8))
    cpu = machine.processor(text, 8)
    assert (cpu.sockets, cpu.cores_per_socket, cpu.threads_per_core, cpu.cpus) == (2, 2, 2, 8)
    assert (cpu.vendor, cpu.family, cpu.model_number, cpu.mhz) == ("AuthenticAMD", 23, 49, 2799)
    assert cpu.flags == ("fpu", "sse2", "avx2")


def test_a_processor_that_tells_nothing() -> None:
    cpu = machine.processor("processor : 0\nBogoMIPS : 50\n", 3)
    assert (cpu.sockets, cpu.cores_per_socket, cpu.threads_per_core) == (1, 3, 1)
    assert cpu.flags == ()


def test_logs_are_cut_to_their_newest_half(tmp_path: Path) -> None:
    log, small = tmp_path / "console.1", tmp_path / "console.2"
    log.write_bytes(b"old" * 400 + b"new")
    small.write_bytes(b"x" * 1000)
    tidy.cut_logs([log, small, tmp_path / "absent"], limit=1000)
    assert len(log.read_bytes()) == 500
    assert log.read_bytes().endswith(b"new")
    assert small.read_bytes() == b"x" * 1000


def test_a_log_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"x" * 5000)
    (tmp_path / "console.1").symlink_to(target)
    tidy.cut_logs([tmp_path / "console.1"], limit=1000)
    assert target.stat().st_size == 5000


def test_configuration(tmp_path: Path) -> None:
    instance.write_configuration(tmp_path)
    first = (tmp_path / "libvirtd.conf").read_text()
    instance.write_configuration(tmp_path)
    assert (tmp_path / "libvirtd.conf").read_text() == first, "the host keeps its uuid"
    assert "listen_tcp = 0" in first
    with pytest.raises(ValueError, match="badly formed"):
        instance.libvirtd_conf('x"\nlisten_tcp = 1')
    assert "namespaces = []" in (tmp_path / "qemu.conf").read_text()
    other = str(uuids.uuid4())
    assert f'host_uuid = "{other}"' in instance.libvirtd_conf(other)


def test_a_run_directory_that_sockets_do_not_fit_in(tmp_path: Path) -> None:
    run_directory = tmp_path / ("x" * 80)
    with pytest.raises(InvalidSpec, match="longer than"):
        LibvirtHypervisor(Settings(uri="test:///default", run_directory=run_directory))
    assert not run_directory.exists()
