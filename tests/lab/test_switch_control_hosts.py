"""Three control hosts over etcd: one is killed and one frozen while a switch runs, and the third one ends it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from fault_size import FULL
from hyops_lab.drill import Drills
from hyops_lab.hosts import ENDPOINT, HOSTS
from hyops_lab.loop import EVIDENCE, Json
from hyops_lab.loop_watched import DIAL, SERVING, Event, WatchedLoop
from hyops_lab.roles import postgres
from hyops_lab.waiting import until
from hyops_lab.wiring import control_hosts, everything, loop_etcd
from hyops_lab.wiring.control import OPERATOR, UNITS
from hyops_lab.wiring.service import MEMBERS, SERVICE
from lab.switch_lab import CLOUD, LIMIT_S, ONPREM, SwitchLab, steps_of

pytestmark = [pytest.mark.lab, pytest.mark.req("LOOP-3", "EXE-1", "INV-7")]

FIRST, SECOND, THIRD = control_hosts.HOSTS
EXECUTOR = f"{UNITS['execution']}.service"


class SeveralDrills(Drills):
    """Drills on a loop of several hosts: the evidence lies on the one that a record names."""

    loop: WatchedLoop

    def evidence_of(self, run_id: str) -> Path:
        """The bundle of a run, from the host whose bundle counts."""
        made = self.loop.wait("evidence", lambda e: e["run_id"] == run_id, LIMIT_S)
        target = self._keep / run_id
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.lab.machine(made["host"]).path(f"{EVIDENCE}/{run_id}"), target)
        return target


@dataclass
class Several:
    """The service at rest on-prem, its loop on three hosts, and what the test does to them."""

    wired: SwitchLab
    loop: WatchedLoop

    def __post_init__(self) -> None:
        self.lab = self.wired.lab
        self.drills = SeveralDrills(self.lab)
        self.drills.loop = self.loop

    def signal(self, host: str, name: str, *units: str) -> None:
        """To every process of these units."""
        self.lab.exec(host, ["systemctl", "kill", "-s", name, *units])

    @contextmanager
    def job_stopped(self, host: str, attempt: Json) -> Iterator[None]:
        """Its job stands still for the block: on a busy machine it would end before all that is done to the loop."""
        job = f"hyops-run@{attempt['run_id']}.service"
        self.signal(host, "STOP", job)
        yield
        self.signal(host, "CONT", job)

    def attempt(self, decision: Json) -> Json:
        """The attempt that a decision led to."""
        dispatch = self.loop.wait("request", lambda r: r["source_decision_id"] == decision["decision_id"], LIMIT_S)
        return self.loop.wait("attempt", lambda a: a["source_dispatch_id"] == dispatch["dispatch_id"], LIMIT_S)

    def owner(self, attempt: Json) -> str:
        """The host that has the right to dial for an attempt now: one whose dial broke has given it back."""
        key = f"{DIAL}{attempt['attempt_id']}"
        last = self.loop.wait_event(key, lambda e: e is self.loop.events(key)[-1] and e.value is not None, LIMIT_S)
        return str(last.said()["host"])

    def taken(self, attempt: Json, since_ns: int) -> Event:
        """Who got the right to dial for an attempt, the first after that moment."""
        key = f"{DIAL}{attempt['attempt_id']}"
        return self.loop.wait_event(key, lambda e: e.value is not None and e.at_ns > since_ns, LIMIT_S)

    def back(self, host: str, since_ns: int) -> None:
        """Return when all four stages of a host that was booted show themselves again."""
        for stage in UNITS:
            self.loop.wait_event(
                f"{SERVING}{stage}/{host}-", lambda e: e.value is not None and e.at_ns > since_ns, LIMIT_S
            )

    def unwatched(self, host: str) -> dict[str, str]:
        """Unit -> main process of the stages of a host, whose systemd ends none of them for being silent until `thaw`.

        Else it would abort those that were frozen for longer than their watchdog as soon as they go on, and what
        passes the test would be new processes that were never frozen.
        """
        self.lab.exec(host, ["systemctl", "service-watchdogs", "no"])
        return self._processes(host)

    def thaw(self, host: str, frozen: Mapping[str, str], *more: str) -> None:
        """Let the stages of a host go on; returns when each of the processes that were frozen has made a pass since."""
        show = ["systemctl", "show", "-P", "WatchdogTimestampMonotonic"]
        since_us = time.monotonic_ns() // 1000
        self.signal(host, "CONT", *control_hosts.STAGE_UNITS, *more)
        for unit in control_hosts.STAGE_UNITS:
            until(
                lambda: int(self.lab.exec(host, [*show, unit]).stdout) > since_us,  # noqa: B023
                what=f"a pass of {unit} on {host}", where=f"journalctl -u {unit}", timeout_s=LIMIT_S,
            )  # fmt: skip
        assert self._processes(host) == frozen, "a stage was started anew: not what was frozen went on"
        self.lab.exec(host, ["systemctl", "service-watchdogs", "yes"])

    def _processes(self, host: str) -> dict[str, str]:
        argv = ["systemctl", "show", "-P", "MainPID", *control_hosts.STAGE_UNITS]
        return dict(zip(control_hosts.STAGE_UNITS, self.lab.exec(host, argv).stdout.split(), strict=True))

    def assert_done_once(self, decision: Json, attempt: Json) -> Json:
        """One request, one execution, one attempt, one outcome; one job, and each of its effects once."""
        requests = [r for r in self.loop.records("request") if r["source_decision_id"] == decision["decision_id"]]
        dispatch_id = attempt["source_dispatch_id"]
        executions = [x for x in self.loop.records("execution") if x["source_dispatch_id"] == dispatch_id]
        attempts = [a for a in self.loop.records("attempt") if a["source_dispatch_id"] == dispatch_id]
        outcomes = [o for o in self.loop.records("outcome") if o["attempt_id"] == attempt["attempt_id"]]
        evidence = [e for e in self.loop.records("evidence") if e["run_id"] == attempt["run_id"]]
        assert [len(found) for found in (requests, executions, attempts, outcomes, evidence)] == [1] * 5
        assert self.loop.written_again() == []
        journal = self.wired.journal(self.runner(attempt), attempt["run_id"])
        assert [entry["kind"] for entry in journal].count("run-opened") == 1
        assert [entry["kind"] for entry in journal].count("resumed") == 0
        assert set(Counter(steps_of(journal)).values()) == {1}
        return outcomes[0]

    def at_rest(self) -> str:
        """Return the primary when its standby streams, whatever a test before has left."""
        self.lab.power_on_site(HOSTS[ONPREM].site)
        self.wired.rejoin()
        return self.wired.primary()

    def status(self, host: str) -> subprocess.CompletedProcess[str]:
        """What a person on `host` is told of the loop."""
        return self.lab.exec(host, ["hyops", "control", "status", "--config", loop_etcd.PERSON], check=False)

    def says(self, host: str, stage: str) -> str:
        """What a stage tells systemd."""
        return self.lab.exec(host, ["systemctl", "show", "-P", "StatusText", UNITS[stage]]).stdout

    def runner(self, attempt: Json) -> str:
        """The host that has an attempt's run."""
        return next(host for host in MEMBERS.values() if attempt["run_id"] in self.wired.runs(host))


@pytest.fixture(scope="module")
def several(wired: SwitchLab) -> Iterator[Several]:
    """A lab with three control hosts for all tests of this module; afterwards it is built anew, with one."""
    wired.settle(ONPREM)
    try:
        control_hosts.wire(wired.lab, everything.keyring(wired.lab))
        with WatchedLoop(wired.lab, THIRD) as loop:
            yield Several(wired, loop)
    finally:
        wired.build()


@pytest.mark.req("INV-2", "INV-4", "EXE-3", "EVD-1")
@pytest.mark.fault(12, 13, 14)
def test_one_control_host_is_killed_and_one_is_frozen_and_the_third_ends_the_switch(
    several: Several, capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    """The site dies; at the fence the owner of the run loses its power and another host's stages stop: one job, one
    outcome, each effect once; who returns changes nothing."""
    lab, wired, drills = several.lab, several.wired, several.drills
    assert wired.primary() == ONPREM
    known = wired.runs("cloud-runner")
    found: dict[str, Json] = {}
    times: dict[str, float] = {}
    processes: dict[str, str] = {}
    lab.exec(THIRD, ["systemctl", "service-watchdogs", "no"])  # as in `unwatched`: stopped is what it has to stay
    several.signal(THIRD, "STOP", EXECUTOR)  # until somebody else owns the run: a third one has to be left

    def strike(decision: Json) -> None:
        attempt = several.attempt(decision)
        wired.wait_step("cloud-runner", attempt["run_id"], "intent", "fence")
        with several.job_stopped("cloud-runner", attempt):
            owner = several.owner(attempt)
            frozen = {FIRST: SECOND, SECOND: FIRST}[owner]
            led = " (it led etcd)" if loop_etcd.leads(lab, owner) else ""
            processes.update(several.unwatched(frozen))
            several.signal(frozen, "STOP", *control_hosts.STAGE_UNITS)
            several.signal(THIRD, "CONT", EXECUTOR)
            lab.exec(THIRD, ["systemctl", "service-watchdogs", "yes"])
            killed_ns = time.monotonic_ns()
            lab.kill(owner)
        taken = several.taken(attempt, killed_ns)
        times["takeover_s"] = (taken.at_ns - killed_ns) / 1e9
        found.update(decision=decision, attempt=attempt, killed={"host": owner, "led": led}, frozen={"host": frozen})
        found.update(taken=taken.said())

    trial = drills.site_loss(on_decision=strike)

    assert found["taken"]["host"] == THIRD
    assert (trial.outcome, trial.receipt_class) == ("succeeded", "lease-expired")
    assert trial.truthful
    assert trial.verified
    assert wired.answer("client", ENDPOINT, "A") == HOSTS[CLOUD].address
    outcome = several.assert_done_once(found["decision"], found["attempt"])
    assert [e["host"] for e in several.loop.records("evidence") if e["run_id"] == trial.run_id] == [THIRD]

    killed, frozen = found["killed"], found["frozen"]
    booted_ns = time.monotonic_ns()
    several.thaw(frozen["host"], processes)
    lab.power_on(killed["host"])
    loop_etcd.ready(lab, control_hosts.HOSTS)
    several.back(killed["host"], booted_ns)

    assert several.assert_done_once(found["decision"], found["attempt"]) == outcome
    assert wired.runs("cloud-runner") - known == {trial.run_id}
    record_property("takeover_s", round(times["takeover_s"], 2))
    with capsys.disabled():
        print(
            f"\n  {killed['host']} killed{killed['led']}, {frozen['host']} frozen: {THIRD} took over in "
            f"{times['takeover_s']:.2f} s; first write {trial.first_ack_s:.2f} s after the site died, "
            f"lost {trial.lost_here}, claimed {trial.claimed_lost}"
        )


@pytest.mark.skipif(not FULL, reason="HYOPS_FAULTS=full: the loop without a quorum in mid-switch")
@pytest.mark.req("EXE-3", "INV-9", "UX-1")
@pytest.mark.fault(12, 13, 14)
def test_without_a_quorum_the_runner_ends_the_job_and_the_loop_resumes(
    several: Several, capsys: pytest.CaptureFixture[str]
) -> None:
    """The owner of the run freezes with its member of etcd and another host dies: nobody decides or records anything,
    and says so; the job ends by itself; with one of them back it is collected, once."""
    lab, wired, drills = several.lab, several.wired, several.drills
    source = several.at_rest()
    target, since_ns = postgres.peer(source), time.monotonic_ns()
    before = wired.lost(source)
    decision = {"decision_id": drills.request("failover" if source == ONPREM else "failback")}
    attempt = several.attempt(decision)
    runner = MEMBERS[target]
    wired.wait_step(runner, attempt["run_id"], "intent", "promote")
    with several.job_stopped(runner, attempt):
        owner = several.owner(attempt)
        killed = next(host for host in (FIRST, SECOND) if host != owner)
        (left,) = {*control_hosts.HOSTS} - {owner, killed}

        processes = several.unwatched(owner)
        several.signal(owner, "STOP", *control_hosts.STAGE_UNITS, loop_etcd.UNIT)
        lab.kill(killed)
    assert wired.wait_result(runner, attempt["run_id"])["outcome"] == "succeeded"
    for stage in UNITS:
        until(
            lambda: "no quorum" in several.says(left, stage),  # noqa: B023
            what=f"{stage} to say so", where=f"journalctl -u {UNITS[stage]} on {left}", timeout_s=LIMIT_S,
        )  # fmt: skip
    told = several.status(left)
    assert told.returncode == 12
    assert "quorum lost" in told.stderr
    argv = ["hyops", "decision", "request", "--service", SERVICE, "--type", "failback", "--occasion", "planned"]
    argv += ["--rationale", "drill", "--by", "drill", "--config", OPERATOR]
    refused = lab.exec(left, argv, user="hyops-decision", check=False)
    assert refused.returncode == 12
    assert [o for o in several.loop.records("outcome") if o["attempt_id"] == attempt["attempt_id"]] == []

    thawed_ns = time.monotonic_ns()
    several.thaw(owner, processes, loop_etcd.UNIT)
    outcome = several.loop.wait("outcome", lambda o: o["attempt_id"] == attempt["attempt_id"], LIMIT_S)
    resumed_s = (time.monotonic_ns() - thawed_ns) / 1e9
    lab.power_on(killed)
    several.back(killed, thawed_ns)

    trial = drills.judged("switchover", decision["decision_id"], outcome, source, target, since_ns)
    assert (trial.outcome, trial.verified) == ("succeeded", True)
    assert several.assert_done_once(decision, attempt) == outcome
    assert wired.lost(target) == before
    until(
        lambda: several.status(left).returncode == 0,
        what="the loop to be whole again", where=f"`hyops control status` on {left}", timeout_s=LIMIT_S,
    )  # fmt: skip
    with capsys.disabled():
        print(f"\n  {owner} frozen with its etcd, {killed} killed: no quorum; resumed {resumed_s:.2f} s after the thaw")
