"""The parts of `bench` that could lie: verdicts, what is kept, and the count of round trips on the wire."""

import struct
from pathlib import Path

import pytest
from tests.bench import table
from tests.bench.table import Row
from tests.bench.tap import Tap


def row(key: str = "a", value: float = 1.0, **more: object) -> Row:
    return Row(**{"key": key, "section": "S", "what": f"what {key}", "value": value, "unit": "s", **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "target", "better", "verdict"),
    [
        (1.5, 1.5, "less", "pass"),
        (1.51, 1.5, "less", "**miss**"),
        (0.5, 0.5, "more", "pass"),
        (0.49, 0.5, "more", "**miss**"),
        (99.0, None, "less", ""),
    ],
)
def test_verdict(value: float, target: float | None, better: str, verdict: str) -> None:
    assert row(value=value, target=target, better=better).verdict == verdict


def test_a_run_replaces_its_sections_and_keeps_the_others(tmp_path: Path) -> None:
    store = tmp_path / "bench.json"
    table.remember(store, [row("a", 1), row("b", 2, section="T"), row("c", 2, section="T")], "here")
    table.remember(store, [row("b", 3, section="T", target=2.5)], "here")
    assert {r.key: r.value for r in table.recall(store)} == {"a": 1, "b": 3}
    page = table.markdown(table.recall(store), "here")
    assert "| what a | 1 s |" in page
    assert "≤ 2.50 s | **miss**" in page


def frame(payload: bytes, *, port: int = 80, place: int = 1, options: int = 0, padding: int = 0) -> bytes:
    """An Ethernet frame with IPv4 and TCP, as a raw socket gives it. `place` is TCP's sequence number."""
    tcp = struct.pack("!HHIIBBHHH", 40000, port, place, 1, (5 + options) << 4, 0x18, 0, 0, 0) + b"\1" * 4 * options
    ip = struct.pack("!BBHHHBBH8s", 0x45, 0, 20 + len(tcp) + len(payload), 0, 0, 64, 6, 0, b"")
    return b"\0" * 12 + b"\x08\x00" + ip + tcp + payload + b"\0" * padding


def test_tap_counts_messages_and_transfers_once_and_leaves_out_the_listener() -> None:
    tap = Tap()
    call = b"<methodCall><methodName>VM.start_on</methodName>"
    tap.packet(frame(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", options=3))
    tap.packet(frame(call, place=100))
    tap.packet(frame(b"POST...." + call, place=92))  # sent again, with more before it
    tap.packet(frame(b"POST / HTTP/1.1\r\n\r\n<methodName>event.from</methodName>", place=500))
    tap.packet(frame(b"PUT /import_raw_vdi?vdi=x HTTP/1.1\r\n", place=900))
    tap.packet(frame(b"PUT /import_raw_vdi?vdi=x HTTP/1.1\r\n", place=900))
    tap.packet(frame(b"GET / HTTP/1.1\r\n", port=6640, place=1000))
    tap.packet(frame(b"", padding=6))
    assert (tap.transfers, tap.round_trips) == (1, 2)
    assert tap.methods == {"VM.start_on": 1, "event.from": 1}
