"""The runner under kill -9, loss of power, a cut link, a changed host key and a full disk, during a real switch."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from fault_size import FULL, SEED
from hyops_lab import LabError, ledger
from hyops_lab.hosts import ENDPOINT
from hyops_lab.loop import CONTROL, Json
from lab.switch_lab import CLOUD, LIMIT_S, ONPREM, Switch, SwitchLab, steps_of

pytestmark = [pytest.mark.lab, pytest.mark.req("RUN-5", "BP-4")]

LOOK_S = 0.01
STEPS = ("fence", "promote", "verify-target", "cutover", "verify-traffic", "rejoin", "count-loss")
WORDS = [(kind, step) for step in STEPS for kind in ("intent", "outcome")]
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"


def some(moments: list[tuple[str, str]], count: int, salt: int) -> list[tuple[str, str]]:
    """All of them in a full run, else a seeded sample."""
    return moments if FULL else sorted(random.Random(SEED + salt).sample(moments, count), key=WORDS.index)


def begun(service: SwitchLab) -> tuple[Switch, Json, int]:
    """A switch under way, its attempt, and the timeline that it starts from."""
    timeline = int(service.told(service.primary())["timeline"])
    switch = service.ask()
    return switch, service.attempt(switch), timeline


def paused_in_its_fence(wired: SwitchLab) -> tuple[Switch, Json, int]:
    """A switch from on-prem whose runner stands still while it proves the fence: a disk takes longer to fill than that.

    On a busy machine the fence may be over before the runner is stopped; then that switch ends, and it is another one.
    """
    for _ in range(5):
        wired.settle(ONPREM)
        made = switch, attempt, _ = begun(wired)
        wired.wait_step(switch.runner, attempt["run_id"], "intent", "fence")
        wired.lab.pause(switch.runner)
        if ("outcome", "fence") not in steps_of(wired.journal(switch.runner, attempt["run_id"])):
            return made
        wired.lab.resume(switch.runner)
        wired.outcome(switch)
    raise AssertionError("no runner could be stopped before its fence was over")


@contextmanager
def kept_full(service: SwitchLab, host: str) -> Iterator[None]:
    """No room for the whole block: what somebody on the host gives back, as the end of a staging does, is taken too."""
    disk, over = service.lab.machine(host).disk, threading.Event()
    service.lab.fill_disk(host)

    def take() -> None:
        while not over.wait(LOOK_S):
            if os.statvfs(disk).f_bfree:
                with suppress(LabError):  # somebody was faster: then it is full
                    service.lab.fill_disk(host)

    taking = threading.Thread(target=take)
    taking.start()
    try:
        yield
    finally:
        over.set()
        taking.join()


def assert_one_effect_each(service: SwitchLab, switch: Switch, attempt: Json, timeline: int) -> None:
    """Succeeded; every step has one outcome; promoted once, one generation further, in DNS too."""
    outcome = service.collected_once(attempt)
    assert outcome["outcome"] == "succeeded", outcome.get("reason")
    words = steps_of(service.journal(switch.runner, attempt["run_id"]))
    assert [word for word in words if word[0] == "outcome"] == [("outcome", step) for step in STEPS]
    status = service.told(switch.target)
    assert (status["role"], status["edge"], int(status["timeline"])) == ("primary", "open", timeline + 1)
    assert status["generation"] == attempt["generation"] + 1 == outcome["generation_after"]
    assert service.answer("client", f"_gen.{ENDPOINT}", "TXT") == str(attempt["generation"] + 1)
    ledger.wait_ack(service.lab, time.monotonic_ns(), service.lab.address(switch.target))


@pytest.mark.req("INV-7")
@pytest.mark.fault(13, 15)
@pytest.mark.parametrize("moment", some(WORDS[:-1], 1, 1), ids=" ".join)
def test_a_job_killed_in_a_step_resumes_with_one_effect_per_step(service: SwitchLab, moment: tuple[str, str]) -> None:
    """kill -9 after this journal record: systemd starts it again, and it goes on from what the journal says."""
    before = service.lost()
    switch, attempt, timeline = begun(service)
    service.wait_step(switch.runner, attempt["run_id"], *moment)

    killed = service.kill_job(switch.runner, attempt["run_id"])

    service.wait_result(switch.runner, attempt["run_id"])
    assert_one_effect_each(service, switch, attempt, timeline)
    kinds = [entry["kind"] for entry in service.journal(switch.runner, attempt["run_id"])]
    assert kinds.count("resumed") == int(killed)
    assert service.lost() == before


@pytest.mark.req("INV-7")
@pytest.mark.fault(15)
@pytest.mark.parametrize("moment", some(WORDS[1:-1], 1, 2), ids=" ".join)
def test_a_runner_that_loses_power_in_a_run_finishes_it_after_boot(service: SwitchLab, moment: tuple[str, str]) -> None:
    """Power cut after this journal record: the boot unit resumes the run, and control collects it once."""
    before = service.lost()
    switch, attempt, timeline = begun(service)
    service.wait_step(switch.runner, attempt["run_id"], *moment)

    service.lab.kill(switch.runner)
    service.lab.power_on(switch.runner)

    assert_one_effect_each(service, switch, attempt, timeline)
    assert service.lost() == before


@pytest.mark.req("INV-7", "EXE-1")
@pytest.mark.fault(14)
def test_a_link_that_dies_in_a_run_costs_nothing(service: SwitchLab) -> None:
    """Control and runner lose each other until after the run has ended; healed, its result arrives once."""
    lab, before = service.lab, service.lost()
    switch, attempt, timeline = begun(service)
    service.wait_journal(switch.runner, attempt["run_id"], 2)

    lab.cut_pair(CONTROL, switch.runner)
    result = service.wait_result(switch.runner, attempt["run_id"])
    assert not [o for o in service.loop.records("outcome") if o["attempt_id"] == attempt["attempt_id"]]
    lab.heal()

    assert result["outcome"] == "succeeded"
    assert_one_effect_each(service, switch, attempt, timeline)
    assert service.lost() == before


@pytest.mark.req("RUN-3")
@pytest.mark.fault(16)
def test_a_changed_host_key_refuses_before_anything_is_staged(service: SwitchLab) -> None:
    """The runner shows another key than the pinned one: attempt refused, nothing on the runner, primary undisturbed."""
    lab, source = service.lab, service.primary()
    runner = service.next_runner()
    staged, key = service.runs(runner), lab.read(runner, HOST_KEY)
    lab.exec(runner, ["sh", "-c", f"rm {HOST_KEY}* && ssh-keygen -q -t ed25519 -N '' -f {HOST_KEY}"])
    lab.exec(runner, ["systemctl", "restart", "ssh"])
    try:
        switch = service.ask()
        outcome = service.outcome(switch)
    finally:
        lab.write(runner, HOST_KEY, key, 0o600)
        lab.exec(runner, ["sh", "-c", f"ssh-keygen -y -f {HOST_KEY} > {HOST_KEY}.pub; systemctl restart ssh"])

    assert (outcome["outcome"], outcome["exit_code"]) == ("refused", 12)
    assert "HostKeyError" in outcome["reason"]
    assert service.runs(runner) == staged
    assert service.primary() == source


@pytest.mark.req("RUN-11", "EVD-4")
@pytest.mark.fault(17)
def test_a_runner_without_room_refuses_and_nothing_is_staged(service: SwitchLab) -> None:
    """The runner's disk is full before the run: a clear refusal, no run folder, primary undisturbed."""
    lab, source = service.lab, service.primary()
    runner = service.next_runner()
    staged = service.runs(runner)
    lab.fill_disk(runner)

    switch = service.ask()
    outcome = service.outcome(switch)

    lab.heal()
    assert outcome["outcome"] == "refused"
    assert "free" in outcome["reason"] or "No space" in outcome["reason"]
    assert {run for run in service.runs(runner) - staged if service.journal(runner, run)} == set()
    assert service.primary() == source
    assert lab.exec(runner, ["df", "/"]).returncode == 0


@pytest.mark.req("EVD-4", "INV-1", "INV-2")
@pytest.mark.fault(27, 32)
def test_a_disk_that_fills_in_a_run_stops_it_before_its_next_effect(wired: SwitchLab) -> None:
    """Full while the fence is proved: nobody is promoted; with room again the run is closed and the loop goes on."""
    wired.settle(ONPREM)
    lab, before = wired.lab, wired.lost()
    switch, attempt, timeline = paused_in_its_fence(wired)
    known = {d["decision_id"] for d in wired.loop.records("decision")}
    with kept_full(wired, switch.runner):
        lab.resume(switch.runner)
        wired.wait_job_ended(switch.runner, attempt["run_id"])
    words = steps_of(wired.journal(switch.runner, attempt["run_id"]))
    assert words == [("intent", "fence"), ("outcome", "fence")]
    assert [wired.told(host)["edge"] for host in (ONPREM, CLOUD)] == ["closed", "closed"]

    lab.heal()
    outcome = wired.collected_once(attempt)
    assert outcome["outcome"] == "failed"
    assert "stopped before the next effect" in outcome["reason"]
    decision = wired.loop.wait(
        "decision", lambda d: d["decision_id"] not in known and d["decision_type"] == "failover", LIMIT_S
    )
    assert decision["generation"] == attempt["generation"] + 1
    assert wired.loop.after(decision["decision_id"], LIMIT_S)["outcome"] == "succeeded"
    ledger.wait_ack(lab, time.monotonic_ns(), lab.address(CLOUD))
    assert int(wired.told(CLOUD)["timeline"]) == timeline + 1
    assert wired.lost() == before
