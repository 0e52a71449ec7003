"""The capture of a takeover drill: what it counts, what it holds against a trial, and what the sum says; no root."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from hyops.cli.drill import faults, line
from hyops_lab.capture import ETH_P_ARP, ETH_P_IP, Capture, Packets, Try
from hyops_lab.drill import Trial
from hyops_lab.takeover import WAITED_MAX_S, summed

pytestmark = [pytest.mark.req("INV-9"), pytest.mark.fault(30)]
OUT, IN = socket.PACKET_OUTGOING, socket.PACKET_HOST
DEAD, CONTROL, ALIVE, RUNNER = "10.77.1.10", "10.77.3.10", "10.77.2.10", "10.77.2.20"
SYN, SYN_ACK, ACK, RESET = 0x02, 0x12, 0x10, 0x14
OWN = [Try("tcp 2379 to 10.77.3.10", 1.5, 0.0), Try("tcp 22 to 10.77.1.10", 6.5, 1.0)]
CLEAN = Packets(towards=9, came=0, missed=0, frames=900, tried={}, own=OWN)


def _tcp(source: str, target: str, flags: int, *, ports: tuple[int, int] = (40000, 22)) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, _raw(source), _raw(target))
    return head + struct.pack("!HHIIBBHHH", *ports, 0, 0, 0x50, flags, 0, 0, 0)


def _raw(address: str) -> bytes:
    return IPv4Address(address).packed


def _sum(seen: Capture) -> Packets:
    return Packets.of({"cloud-runner": seen, "witness": seen}, runner="cloud-runner", ports={22}, since_s=98.0)


def _watch() -> Capture:
    return Capture([IPv4Network("10.77.1.0/24"), IPv4Network(CONTROL)])


@pytest.mark.parametrize("flags", [SYN_ACK, ACK, RESET])
@pytest.mark.parametrize("source", [DEAD, CONTROL])
def test_whatever_comes_from_the_dead_side_is_counted(source: str, flags: int) -> None:
    """An answer, a word of an old connection, a refusal: none of them may come from a host that is off."""
    seen = _watch()
    seen.take(_tcp(source, RUNNER, flags, ports=(22, 40000)), ETH_P_IP, IN)
    seen.take(_tcp(ALIVE, RUNNER, flags), ETH_P_IP, IN)
    seen.take(_tcp(RUNNER, ALIVE, SYN), ETH_P_IP, OUT)

    assert (seen.came, seen.sent, seen.frames) == ([f"tcp from {source}"], [], 3)
    assert _sum(seen).faults()[0] == "2 packets came from the dead side"


def test_what_is_tried_is_told_apart_from_what_broke_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Openings by port and host, the last words of old connections, ARP; a repeated opening tells for how long."""
    now = [100.0]
    monkeypatch.setattr("hyops_lab.capture.time.monotonic", lambda: now[0])
    seen = _watch()
    for at in (100.0, 101.0, 103.0):
        now[0] = at
        seen.take(_tcp(RUNNER, DEAD, SYN), ETH_P_IP, OUT)
    seen.take(_tcp(RUNNER, CONTROL, SYN, ports=(40001, 2379)), ETH_P_IP, OUT)
    seen.take(_tcp(RUNNER, CONTROL, SYN, ports=(40002, 2379)), ETH_P_IP, OUT)
    seen.take(_tcp(RUNNER, DEAD, ACK), ETH_P_IP, OUT)
    seen.take(bytes(24) + _raw(DEAD), ETH_P_ARP, OUT)
    seen.take(_tcp(RUNNER, DEAD, SYN)[:10], ETH_P_IP, OUT)

    packets = _sum(seen)
    assert packets.tried["cloud-runner"] == {
        f"tcp 22 to {DEAD}": 3, f"tcp 2379 to {CONTROL}": 2, f"arp for {DEAD}": 1,
    }  # fmt: skip
    assert (packets.towards, packets.faults()) == (14, [])  # of both hosts
    assert packets.own == [Try(f"tcp 22 to {DEAD}", 2.0, 3.0)]
    assert [packets.waited_s(until_s=5.0), packets.waited_s(until_s=2.0), packets.waited_s(since_s=3.0)] == [3.0, 0, 0]


def _trial(packets: Packets | None = CLEAN, *, first_ack_s: float | None = 6.0) -> Trial:
    return Trial(
        kind="takeover", decision_id="d", run_id="run-1", outcome="succeeded", source="onprem-db", target="cloud-db",
        generation=2, receipt_class="lease-expired", gap_s=6.0, first_ack_s=first_ack_s, acknowledged=10, surviving=8,
        lost=2, lost_here=2, claimed_lost=2, phases_s={}, rta_s=None, evidence=Path("e"), verified=True,
        packets=packets,
    )  # fmt: skip


BAD = {
    "an answer": (replace(CLEAN, came=1), "1 packets came from the dead side"),
    "a gap in the capture": (replace(CLEAN, missed=3), "missed 3 packets"),
    "a capture of nothing": (replace(CLEAN, towards=0), "watched the wrong thing"),
    "a connection that was waited for": (
        replace(CLEAN, own=[Try("tcp 22 to 10.77.1.10", 2.0, WAITED_MAX_S + 3)]), "waited for, 7.0 s"
    ),
    "no capture": (None, "has no capture"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_takeover_whose_capture_shows_something_is_bad(name: str) -> None:
    """However well it went otherwise; daemons that try their peers for ever are held against nobody."""
    packets, why = BAD[name]
    assert faults(_trial()) == []
    assert [why in fault for fault in faults(_trial(packets))] == [True]
    assert summed([_trial(), _trial(packets)], 2)[0].startswith("takeovers: 1 of 2 ")


def test_the_sum_says_what_all_trials_came_to() -> None:
    """Of those that were asked for, also when the drill ended before; a switch back is none of them."""
    made = [_trial(first_ack_s=s) for s in (5.0, 6.0, 9.0)]
    text = "\n".join(summed([*made, replace(made[0], kind="switchover", packets=None)], 20))

    assert "takeovers: 3 of 20 succeeded" in text
    assert "p50 6.00 s, p95 9.00 s, worst 9.00 s" in text
    assert "rows lost 6; 3 of 3 runs claimed what was lost" in text
    assert "captures 3, each of every survivor: 27 packets towards the dead side, 0 from it, 0 missed" in text
    assert "0 of 2" in summed([], 2)[0]
    assert "worst inf" in summed([_trial(first_ack_s=None)], 1)[1]


def test_a_line_says_what_the_capture_shows() -> None:
    """Of a takeover; other drills have none."""
    shown = line(1, 2, _trial())
    assert "towards the dead side 9, from it 0; the run's own most patient try to reach it" in shown
    assert "lasted 0.0 s before the first write, 1.0 s after it" in shown
    assert "dead side" not in line(1, 2, replace(_trial(None), kind="switchover"))
