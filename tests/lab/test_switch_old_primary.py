"""The old primary after a switch: paused and woken, cut off and healed, it acknowledges nothing (INV-1).

The last test is the control: without the fence the same wake-up loses acknowledged rows. If it ever loses none, the
tests before it prove nothing.
"""

from __future__ import annotations

import json
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fault_size import FULL
from hyops_lab import Lab, ledger
from hyops_lab.drill import Drills
from hyops_lab.hosts import HOSTS
from hyops_lab.roles import client, postgres
from hyops_lab.waiting import until
from lab.switch_lab import AGENT, CLOUD, LIMIT_S, ONPREM, TABLE, SwitchLab, psql_argv, whole
from waiting import stand_still

pytestmark = [pytest.mark.lab, pytest.mark.req("INV-1", "FEN-2")]

OLD, NEW = HOSTS[ONPREM].address, HOSTS[CLOUD].address
INSIDE = "onprem-runner"  # a machine of the lost site: it reaches the old primary although nobody else does
AWAKE_S = 3.0  # how long a woken primary is watched: longer than its lease lasts


@pytest.mark.skipif(not FULL, reason="`make faults` runs it; one behind a cut comes back in every run")
@pytest.mark.fault(24, 28)
def test_a_paused_primary_that_wakes_after_the_switch_acknowledges_nothing(wired: SwitchLab) -> None:
    """Frozen, replaced, thawed: neither a kept connection, nor an open session, nor a new one gets a row in."""
    wired.settle(ONPREM)
    lab = wired.lab
    ledger.start(lab, old=True)
    with session(lab) as kept:
        assert kept.insert(1), "the session must work before the pause"
        switched_ns = pause_and_switch(wired)
        lost_at_switch = wired.lost(CLOUD)

        lab.resume(ONPREM)
        woken_ns = time.monotonic_ns()
        assert not kept.insert(2)
        assert lab.exec("client", psql_argv(lab, OLD, "SELECT 1", 2), check=False).returncode != 0
        watch_until(woken_ns + int(AWAKE_S * 1e9))

    acks = [e for e in ledger.entries(lab, old=True) if e.at_ns > switched_ns]
    assert acks == []
    assert {e.address for e in ledger.entries(lab) if e.at_ns > switched_ns} == {NEW}
    assert wired.lost(CLOUD) == lost_at_switch
    woken = wired.told(ONPREM, lambda said: whole(said) and said["role"] == "stopped")
    assert woken["edge"] == "closed"


@pytest.mark.req("INV-2", "FEN-1")
@pytest.mark.fault(23, 28)
def test_a_primary_behind_a_cut_fences_itself_before_the_other_one_is_promoted(wired: SwitchLab) -> None:
    """Unreachable and alive: its last acknowledgement inside its own site comes before the first one elsewhere."""
    wired.settle(ONPREM)
    lab = wired.lab
    before = wired.lost()
    with inside_writer(lab):
        known = {d["decision_id"] for d in wired.loop.records("decision")}
        cut_ns = time.monotonic_ns()
        lab.cut_site("onprem")
        decision = wired.loop.wait(
            "decision", lambda d: d["decision_id"] not in known and d["decision_type"] == "failover", LIMIT_S
        )
        outcome = wired.loop.after(decision["decision_id"], LIMIT_S)
        first = ledger.wait_ack(lab, cut_ns, NEW)
        watch_until(time.monotonic_ns() + int(AWAKE_S * 1e9))
        inside = [e for e in entries_inside(lab) if e.at_ns > cut_ns]

        assert outcome["outcome"] == "succeeded"
        receipt = next(s for s in outcome["result"]["steps"] if s["step_id"] == "fence")["outputs"]["receipt"]
        assert receipt["receipt_class"] == "lease-expired"
        assert inside, "the old side took no write at all after the cut: this test would prove nothing"
        assert inside[-1].at_ns < first.at_ns
        last_s, first_s = (inside[-1].at_ns - cut_ns) / 1e9, (first.at_ns - cut_ns) / 1e9
        print(f"after the cut: last write inside {last_s:.2f} s, first one elsewhere {first_s:.2f} s")

        lab.heal()
        healed_ns = time.monotonic_ns()
        watch_until(healed_ns + int(AWAKE_S * 1e9))
        assert [e for e in entries_inside(lab) if e.at_ns > healed_ns] == []
    status = wired.told(ONPREM, lambda said: whole(said) and said["facts"]["primary"] == CLOUD)
    assert (status["edge"], status["role"]) == ("closed", "stopped")
    claimed = next(s for s in outcome["result"]["steps"] if s["step_id"] == "count-loss")["outputs"]["loss"]["lost"]
    assert claimed == len(wired.lost()) >= len(before)


@pytest.mark.skipif(not FULL, reason="`make faults` runs it: it shows what the fence is for")
@pytest.mark.req("INV-1")
@pytest.mark.fault(24, 25)
def test_without_the_fence_the_same_wake_up_loses_acknowledged_rows(wired: SwitchLab) -> None:
    """The control run: edge opened by hand, agents stopped, promoted by hand; the woken primary loses rows."""
    wired.settle(ONPREM)
    lab = wired.lab
    ledger.start(lab, old=True)
    lab.exec("control", ["systemctl", "stop", "hyops-decision-service"])
    for host in postgres.SERVERS:
        lab.exec(host, ["systemctl", "stop", AGENT])
        lab.exec(host, ["nft", "delete", "table", *TABLE.split()])
    ledger.wait_ack(lab, time.monotonic_ns(), OLD, old=True)

    lab.pause(ONPREM)
    promote = ["/usr/lib/postgresql/15/bin/pg_ctl", "-D", postgres.DATA, "-w", "promote"]
    lab.exec(CLOUD, promote, user="postgres")
    promoted_ns = time.monotonic_ns()
    lab.resume(ONPREM)
    ledger.wait_ack(lab, promoted_ns, OLD, old=True)
    watch_until(promoted_ns + int(AWAKE_S * 1e9))

    lab.exec(client.HOST, ["systemctl", "stop", client.OLD_UNIT, client.UNIT])
    acked = [e for e in ledger.entries(lab, old=True) if e.at_ns > promoted_ns]
    present = {int(row) for row in postgres.sql(lab, CLOUD, "SELECT id FROM ledger").split()}
    lost = [e for e in acked if e.row_id not in present]
    print(f"unfenced: {len(acked)} rows acknowledged by the old primary after the promotion, {len(lost)} of them lost")
    assert len(lost) > 0
    # what the fence would have prevented is put right by hand: the promoted side is thrown away
    lab.exec(ONPREM, ["systemctl", "start", AGENT])
    lab.exec(CLOUD, ["systemctl", "start", AGENT])
    lab.exec("control", ["systemctl", "start", "hyops-decision-service"])


def pause_and_switch(wired: SwitchLab) -> int:
    """Freeze the primary; return the moment of the first acknowledgement by its successor."""
    drills = Drills(wired.lab)
    known = {d["decision_id"] for d in drills.loop.records("decision")}
    paused_ns = time.monotonic_ns()
    wired.lab.pause(ONPREM)
    decision = drills.loop.wait(
        "decision", lambda d: d["decision_id"] not in known and d["decision_type"] == "failover", LIMIT_S
    )
    outcome = drills.loop.after(decision["decision_id"], LIMIT_S)
    assert outcome["outcome"] == "succeeded"
    first = ledger.wait_ack(wired.lab, paused_ns, NEW)
    print(f"paused; first write elsewhere after {(first.at_ns - paused_ns) / 1e9:.2f} s")
    return first.at_ns


def watch_until(at_ns: int) -> None:
    """Let the clients try until a moment: a fault that does not show needs time in which it could have shown."""
    stand_still(max(0.0, (at_ns - time.monotonic_ns()) / 1e9), "the clients on the lab's hosts go on trying")


class Session:
    """One psql on the client host, connected to the old primary all the time, without any timeout of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def insert(self, number: int) -> bool:
        """Whether an INSERT over this connection is acknowledged within a few seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        row_id = 5_000_000_000_000 + time.time_ns() // 1_000_000 * 10 + number
        try:
            self._process.stdin.write(f"INSERT INTO ledger (id, via) VALUES ({row_id}, 'kept') RETURNING 'acked';\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return False
        ready, _, _ = select.select([self._process.stdout], [], [], AWAKE_S)
        return bool(ready) and "acked" in self._process.stdout.readline()


@contextmanager
def session(lab: Lab) -> Iterator[Session]:
    """A psql session from the client host to the old primary."""
    argv = psql_argv(lab, OLD, None)
    process = lab.popen(
        "client", argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
    )
    try:
        yield Session(process)
    finally:
        process.kill()
        process.communicate()


INSIDE_FOLDER = "/var/lib/hyops-inside"


@contextmanager
def inside_writer(lab: Lab) -> Iterator[None]:
    """The lab's writing client on a machine of the on-prem site, connected to the old primary's address."""
    config = {
        "endpoint": "", "nameserver": "", "password": lab.secret("app"), "interval_s": client.INTERVAL_S,
        "folder": INSIDE_FOLDER, "address": OLD, "first_id": 2_000_000_000_000,
    }  # fmt: skip
    lab.write(INSIDE, "/etc/hyops-lab/inside.json", json.dumps(config).encode(), 0o600)
    lab.write(INSIDE, client.SCRIPT, lab.read(client.HOST, client.SCRIPT))
    argv = ["env", "PYTHONPATH=/opt/hyops/site", "/usr/bin/python3", "-S", client.SCRIPT, "/etc/hyops-lab/inside.json"]
    unit = ["systemd-run", "--quiet", "--collect", "--unit=inside-writer", *argv]
    lab.exec(INSIDE, unit)
    try:
        until(lambda: bool(entries_inside(lab)), what="a row inside", where=lab.log(INSIDE), timeout_s=LIMIT_S)
        yield
    finally:
        lab.exec(INSIDE, ["systemctl", "stop", "inside-writer"], check=False)


def entries_inside(lab: Lab) -> list[ledger.Entry]:
    """What the writer inside the site has had acknowledged."""
    try:
        text = lab.read(INSIDE, f"{INSIDE_FOLDER}/ledger").decode()
    except FileNotFoundError:
        return []
    lines = [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]
    return [ledger.Entry(int(row), int(at), int(wall), address) for row, at, wall, address, *_ in lines]
