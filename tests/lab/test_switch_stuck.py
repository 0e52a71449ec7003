"""A job that stands still and a runner that is dead, by the commands of their pages, in a real switch (RUN-5)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fault_size import FULL
from hyops_lab.approver import grant
from hyops_lab.loop import CONTROL
from hyops_lab.wiring import common, everything
from hyops_lab.wiring import runner as wiring
from hyops_lab.wiring.control import UNITS
from hyops_lab.wiring.service import MEMBERS
from lab.switch_lab import CLOUD, LIMIT_S, ONPREM, SwitchLab

pytestmark = [pytest.mark.lab, pytest.mark.req("RUN-5")]

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
CONFIG = f"{common.STAGE_USERS['execution'].home}/config/config.json"
DISPATCHER = common.STAGE_USERS["dispatch"]


def block(page: str, title: str) -> str:
    """The commands of a page under this title."""
    found = re.search(rf'```sh title="{title}"\n(.*?)```', (PAGES / page).read_text(), re.DOTALL)
    assert found is not None
    return "\n".join(line.strip() for line in found[1].splitlines())


class Operator:
    """Types what stands on one page."""

    def __init__(self, wired: SwitchLab, page: str, **words: str) -> None:
        self.lab, self.page, self.words = wired.lab, page, words

    def types(self, title: str, host: str = CONTROL, code: int | None = 0) -> str:
        """One block; it must end so. Returns all that was said."""
        known = [f"{key}={value}" for key, value in self.words.items()]
        argv = ["env", "-C", "/tmp", *known, "sh", "-ec", block(self.page, title)]  # in a lab host
        done = self.lab.exec(host, argv, check=False, timeout_s=LIMIT_S)
        said = done.stdout + done.stderr
        assert code in (None, done.returncode), f"{title} ended {done.returncode}: {said}"
        return said


@pytest.fixture
def impatient(service: SwitchLab) -> Iterator[SwitchLab]:
    """The next runner waits a second for a job that is to stop, not thirty."""
    lab, host = service.lab, service.next_runner()
    config = lab.read(host, wiring.CONFIG)
    lab.write(host, wiring.CONFIG, json.dumps({**json.loads(config), "cancel_wait_s": 1.0}).encode())
    try:
        yield service
    finally:
        lab.write(host, wiring.CONFIG, config)


@pytest.mark.fault(13)
@pytest.mark.skipif(
    not FULL, reason="`make faults` runs it; a job that stands still is ended without hosts in every run"
)
def test_a_job_that_stands_still_is_seen_and_ended(impatient: SwitchLab) -> None:
    """Stopped by a signal it runs and writes nothing; asked in vain, then killed, the run is closed by probes."""
    service, lab = impatient, impatient.lab
    primary = service.primary()
    switch = service.ask()
    run_id = service.attempt(switch)["run_id"]
    service.wait_journal(switch.runner, run_id, 1)
    lab.exec(switch.runner, ["systemctl", "kill", "--signal=SIGSTOP", f"hyops-run@{run_id}.service"])
    page = Operator(service, "a-stuck-job.md", RUN_ID=run_id, RUNNER=switch.runner, DIR=f"/tmp/{run_id}")

    assert f"{run_id}  running" in page.types("look")
    page.types("doctor", code=None)  # a host of the lab has a small disk, and that is a fault
    assert re.search(r"^ *\d+ T", page.types("process", switch.runner), re.MULTILINE)
    assert "cancel requested" in page.types("cancel")
    page.types("kill")
    outcome = service.outcome(switch)
    assert (outcome["outcome"], service.primary()) == ("cancelled", primary)
    said = page.types("after")
    assert f"{run_id}: cancelled; signature and journal verified" in said
    assert "settled" in said


@pytest.mark.req("VOC-5", "RUN-2")
@pytest.mark.fault(15)
@pytest.mark.skipif(not FULL, reason="it waits out dead links: `make faults` runs it")
def test_a_dead_runner_is_closed_by_a_word_and_another_one_switches(wired: SwitchLab) -> None:
    """Dead before its run: nothing happens until somebody says that it is lost; then the other runner does the same."""
    wired.settle(ONPREM)
    lab, dead, other = wired.lab, wired.next_runner(), MEMBERS[ONPREM]
    config = f"{DISPATCHER.home}/config/config.json"
    before, key = lab.read(CONTROL, config), "/root/approver"
    lab.kill(dead)
    try:
        attempt = wired.attempt(wired.ask())
        words = {"RUN_ID": attempt["run_id"], "KEY": key, "REASON": "its host burnt", "SAW": "onprem-db: primary"}
        page = Operator(wired, "a-dead-runner.md", EXECUTOR=CONFIG, **words)
        assert f"run open: {attempt['attempt_id']}" in page.types("look", code=22)
        assert "it is unreachable" in page.types("ask", code=40)
        lab.write(CONTROL, key, everything.keyring(lab).private("approver"), 0o600)
        lab.write(CONTROL, f"{key}.pub", everything.keyring(lab).public("approver").encode())
        page.types("word")
        page.types("start")
        assert "settled" in page.types("verify")

        changed = json.loads(before)
        changed["routes"]["dispatcher_routes"]["failover"]["runner_ref"] = other
        lab.write(CONTROL, config, json.dumps(changed).encode(), 0o640, DISPATCHER.name)
        page.types("another")
        switch = wired.ask()
        grant(lab, switch.request)
        assert wired.outcome(switch)["outcome"] == "succeeded"
        assert wired.attempt(switch)["runner_ref"] == other
        assert wired.primary() == CLOUD
    finally:
        lab.power_on(dead)
        lab.exec(CONTROL, ["rm", "-f", key, f"{key}.pub"])
        lab.write(CONTROL, config, before, 0o640, DISPATCHER.name)
        lab.exec(CONTROL, ["systemctl", "restart", UNITS["dispatch"]])
