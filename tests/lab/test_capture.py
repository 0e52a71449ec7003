"""The capture of a takeover drill: what it counts, what it holds against a trial, and what the sum says; no root."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from hyops.cli.drill import faults, line
from hyops_lab.capture import DATAGRAM_S, ETH_P_ARP, ETH_P_IP, Capture, Try
from hyops_lab.drill import Trial
from hyops_lab.owner import NETLINK_SOCK_DIAG, Address, asked, named, users
from hyops_lab.packets import RUNNER as RUNS
from hyops_lab.packets import STANDING, TARGET, Packets
from hyops_lab.takeover import FENCE_S, SURVIVORS, WAITED_MAX_S, summed

pytestmark = [pytest.mark.req("INV-9"), pytest.mark.fault(30)]
OUT, IN = socket.PACKET_OUTGOING, socket.PACKET_HOST
DEAD, CONTROL, ALIVE, RUNNER = "10.77.1.10", "10.77.3.10", "10.77.2.10", "10.77.2.20"
SYN, SYN_ACK, ACK, RESET = 0x02, 0x12, 0x10, 0x14
OWN = {RUNS: [Try("tcp 2379 to 10.77.3.10", 1.5, 1.0), Try("tcp 22 to 10.77.1.10", 6.5, 3.0)], TARGET: []}
FRAMES = dict.fromkeys(SURVIVORS, 900)
CLEAN = Packets(towards=9, came=0, missed=dict.fromkeys(SURVIVORS, 0), frames=FRAMES, tried={}, own=OWN)


def _tcp(source: str, target: str, flags: int, *, ports: tuple[int, int] = (40000, 22), begins_at: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, _raw(source), _raw(target))
    return head + struct.pack("!HHIIBBHHH", *ports, begins_at, 0, 0x50, flags, 0, 0, 0)


def _udp(source: str, target: str, *, ports: tuple[int, int] = (40000, 53)) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, _raw(source), _raw(target))
    return head + struct.pack("!HHHH", *ports, 8, 0)


def _raw(address: str) -> bytes:
    return IPv4Address(address).packed


def _sum(seen: Capture) -> Packets:
    return Packets.of(dict.fromkeys(SURVIVORS, seen), survivors=SURVIVORS, since_s=98.0)


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
    assert _sum(seen).faults()[0] == "5 packets came from the dead side"  # the same on each of five hosts


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
    assert packets.towards == 35  # of five hosts
    assert packets.own[RUNS][0] == Try(f"tcp 22 to {DEAD}", 2.0, 7.0)  # with one more opening 7 s after the first
    assert [one.what for one in packets.own[RUNS][1:]] == [f"tcp 2379 to {CONTROL}"] * 2 + [f"arp for {DEAD}"]


@pytest.mark.parametrize(("openings", "lasted_s"), [((0,), 1.0), ((0, 1), 3.0), ((0, 1, 3), 7.0), ((0, 1, 2), 4.0)])
def test_a_try_lasts_until_its_next_opening_is_due(
    monkeypatch: pytest.MonkeyPatch, openings: tuple[float, ...], lasted_s: float
) -> None:
    """Whoever gave up just before the next repetition had waited until then; also where the first gaps are equal."""
    now = [0.0]
    monkeypatch.setattr("hyops_lab.capture.time.monotonic", lambda: now[0])
    seen = _watch()
    for at in openings:
        now[0] = 100.0 + at
        seen.take(_tcp(RUNNER, DEAD, SYN), ETH_P_IP, OUT)

    assert [one.lasted_s for one in seen.tries.values()] == [lasted_s]


@pytest.mark.parametrize("host", [RUNS, TARGET])
@pytest.mark.parametrize(
    ("frame", "what"),
    [
        (_udp(RUNNER, CONTROL), f"udp 53 to {CONTROL}"),
        (_tcp(RUNNER, DEAD, SYN, ports=(40000, 5432)), f"tcp 5432 to {DEAD}"),
        (_tcp(RUNNER, DEAD, SYN, ports=(40000, 8443)), f"tcp 8443 to {DEAD}"),
        (_tcp(RUNNER, CONTROL, SYN, ports=(40000, 2380)), f"tcp 2380 to {CONTROL}"),
    ],
)
def test_whatever_the_runner_and_the_new_primary_send_is_a_try_of_the_run(host: str, frame: bytes, what: str) -> None:
    """Any port and protocol, and a port of daemons' too where the socket is not theirs; not so on other hosts."""
    seen = _watch()
    seen.user_of = lambda source, target: "hyops"
    seen.take(frame, ETH_P_IP, OUT)
    own = Packets.of({host: seen, "witness": seen}, survivors=SURVIVORS, since_s=0.0).own

    assert {where: [one.what for one in tries] for where, tries in own.items() if tries} == {host: [what]}


@pytest.mark.parametrize("standing", STANDING)
def test_what_standing_daemons_send_is_no_try_of_the_run(standing: tuple[str, str, str]) -> None:
    """By their user, their port and their host, each with a reason; another user's there is one."""
    host, user, port = standing
    for has_it, count in ((user, 0), ("hyops", 1), ("", 1)):
        seen = _watch()
        seen.user_of = lambda source, target, has_it=has_it: has_it
        seen.take(_tcp(RUNNER, DEAD, SYN, ports=(40000, int(port.split()[1]))), ETH_P_IP, OUT)
        own = Packets.of({host: seen}, survivors=SURVIVORS, since_s=0.0).own[host]
        assert [one.user for one in own] == [has_it] * count
    assert STANDING[standing]


def test_a_real_opening_is_given_to_who_made_it() -> None:
    """By the kernel's answer for a connection that is open; one that nobody has is nobody's."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as made,
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as diag,
    ):
        assert asked(diag, made.getsockname(), server.getsockname()) == os.getuid()
        assert asked(diag, made.getsockname(), ("127.0.0.2", 9)) is None


def test_a_user_is_told_by_name() -> None:
    """As the host has it, else by number; nobody is no user of the list."""
    names = users("root:x:0:0:root:/root:/bin/sh\nhyops-probe:x:7102:7102::/:/bin/sh\n\n")
    assert [named(uid, names) for uid in (0, 7102, 9999, None)] == ["root", "hyops-probe", "9999", ""]


def test_ports_that_are_used_again_are_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection begins at a number of its own, which its repetitions keep."""
    now = [100.0]
    monkeypatch.setattr("hyops_lab.capture.time.monotonic", lambda: now[0])
    seen = _watch()
    asked_for: list[tuple[Address, Address]] = []

    def user_of(source: Address, target: Address) -> str:
        asked_for.append((source, target))
        return "hyops"

    seen.user_of = user_of
    for at, begins_at in ((100.0, 1), (106.8, 2), (107.8, 2)):
        now[0] = at
        seen.take(_tcp(RUNNER, DEAD, SYN, begins_at=begins_at), ETH_P_IP, OUT)

    assert [one.lasted_s for one in seen.tries.values()] == [1.0, 3.0]
    assert asked_for == [((RUNNER, 40000), (DEAD, 22))] * 2


def test_waiting_is_the_time_in_which_some_try_was_open() -> None:
    """Tries one after another add up, tries at once do not; what began before the first write ends there."""
    tries = [Try("tcp 22 to a", 1.0, 3.0), Try("tcp 5432 to a", 2.0, 1.0), Try("tcp 2379 to b", 6.0, 4.0)]
    packets = replace(CLEAN, own={RUNS: tries[:2], TARGET: tries[2:]})

    assert [packets.waited_s(), packets.waited_s(until_s=7.0), packets.waited_s(since_s=7.0)] == [7.0, 4.0, 3.0]
    assert packets.waited_s(since_s=4.0, until_s=6.0) == 0.0
    assert packets.longest_s() == 4.0


def test_a_datagram_may_be_waited_for_as_long_as_a_resolver_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sender's repetitions prolong it."""
    now = [0.0]
    monkeypatch.setattr("hyops_lab.capture.time.monotonic", lambda: now[0])
    seen = _watch()
    for at in (0.0, 2.0):
        now[0] = at
        seen.take(_udp(RUNNER, CONTROL), ETH_P_IP, OUT)

    assert [one.lasted_s for one in seen.tries.values()] == [2.0 + DATAGRAM_S]


def _trial(packets: Packets | None = CLEAN, *, first_ack_s: float | None = 6.0) -> Trial:
    return Trial(
        kind="takeover", decision_id="d", run_id="run-1", outcome="succeeded", source="onprem-db", target="cloud-db",
        generation=2, receipt_class="lease-expired", gap_s=6.0, first_ack_s=first_ack_s, acknowledged=10, surviving=8,
        lost=2, lost_here=2, claimed_lost=2, phases_s={}, rta_s=None, evidence=Path("e"), verified=True,
        packets=packets,
    )  # fmt: skip


def _in_turn(count: int, each_s: float) -> dict[str, list[Try]]:
    return {RUNS: [Try("tcp 2379 to 10.77.3.10", 1 + n * each_s, each_s) for n in range(count)]}


BAD = {
    "an answer": (replace(CLEAN, came=1), 60.0, "1 packets came from the dead side"),
    "a gap in one capture": (replace(CLEAN, missed={RUNS: 3}), 60.0, f"{RUNS} missed 3 packets"),
    "a capture of nothing on one host": (replace(CLEAN, frames={**FRAMES, "dns": 0}), 60.0, "dns saw nothing at all"),
    "no try of the runner": (replace(CLEAN, own={RUNS: [], TARGET: OWN[RUNS]}), 60.0, "watched the wrong thing"),
    "a try that was waited for": (
        replace(CLEAN, own={RUNS: [Try("tcp 5432 to 10.77.1.10", 2.0, FENCE_S + 0.1)]}), 60.0, "waited for, 4.6 s"
    ),
    "one after the first write": (
        replace(CLEAN, own={RUNS: [Try("tcp 22 to 10.77.1.10", 7.0, FENCE_S + 0.1)]}), 6.0, "waited for, 4.6 s"
    ),
    "a port that no step tries": (
        replace(CLEAN, own={**OWN, TARGET: [Try("udp 53 to 10.77.3.10", 2.0, 0.5)]}), 60.0, "udp 53 of the dead side"
    ),
    "one dial too many": (replace(CLEAN, own=_in_turn(6, 1.0)), None, "tcp 2379 of the dead side was waited for"),
    "fences one after another": (
        replace(CLEAN, own={RUNS: [Try("tcp 22 to 10.77.1.10", at, 3.0) for at in (2.0, 5.0)]}), 60.0, "gives it 4.5 s"
    ),
    "all of them one after another": (
        replace(CLEAN, own={RUNS: [
            *(Try("tcp 2379 to 10.77.3.10", 1.0 + n, 1.0) for n in range(5)), Try("tcp 22 to 10.77.1.10", 6.0, 3.0),
            Try("tcp 5432 to 10.77.1.10", 9.0, 3.0),
        ]}), 60.0, "11.0 s of 10.5 s",
    ),
    "no capture": (None, 60.0, "has no capture"),
}  # fmt: skip


def test_tries_one_after_another_are_waited_for_together() -> None:
    """None of them is long by itself."""
    found = faults(_trial(replace(CLEAN, own=_in_turn(10, 3.9)), first_ack_s=60.0))
    assert "tcp 2379 of the dead side was waited for before the first write, 39.0 s" in found[0]
    assert "39.0 s of 10.5 s" in found[1]


@pytest.mark.parametrize("name", BAD)
def test_a_takeover_whose_capture_shows_something_is_bad(name: str) -> None:
    """However well it went otherwise; daemons that try their peers for ever are held against nobody."""
    packets, first_ack_s, why = BAD[name]
    assert faults(_trial()) == []
    assert [why in fault for fault in faults(_trial(packets, first_ack_s=first_ack_s))] == [True]
    assert summed([_trial(), _trial(packets, first_ack_s=first_ack_s)], 2)[0].startswith("takeovers: 1 of 2 ")


@pytest.mark.parametrize("host", SURVIVORS)
def test_a_host_that_nobody_watched_is_a_fault(host: str) -> None:
    """Each survivor has to be seen: the sum over the others says nothing of it, least of all of the runner."""
    busy, idle = _watch(), _watch()
    busy.take(_tcp(RUNNER, DEAD, SYN), ETH_P_IP, OUT)
    seen = dict.fromkeys(SURVIVORS, busy)
    missing = {name: one for name, one in seen.items() if name != host}

    assert Packets.of(seen, survivors=SURVIVORS, since_s=0.0).faults() == []
    for less in (missing, {**missing, host: idle}):
        found = Packets.of(less, survivors=SURVIVORS, since_s=0.0).faults()
        assert found[0] == f"the capture of {host} saw nothing at all"
        assert len(found) == (2 if host == RUNS else 1)


def test_tries_at_their_limit_are_no_fault() -> None:
    """What the blueprint itself tries, each as long as it may, in turn: nothing of that was needed."""
    tries = [Try("tcp 2379 to b", n, 1.0) for n in range(5)]
    tries += [Try("tcp 22 to a", 5.0, FENCE_S), Try("tcp 5432 to a", 10.0, 1.0)]
    packets = replace(CLEAN, own={RUNS: tries, TARGET: []})

    assert packets.waited_s(until_s=20.0) == WAITED_MAX_S
    assert faults(_trial(packets, first_ack_s=20.0)) == []


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
    shown = line(1, 2, _trial(first_ack_s=6.4))
    assert "towards the dead side 9, from it 0; the run's own tries to reach it took at most 1.0 s" in shown
    assert "1.0 s of the 10.5 s that its blueprint gives them before the first write, 3.0 s after it" in shown
    assert "dead side" not in line(1, 2, replace(_trial(None), kind="switchover"))
