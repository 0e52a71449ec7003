"""A job that stands still and a runner that is dead, by the commands of their pages, in a real switch (RUN-5)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyops_lab.loop import CONTROL
from hyops_lab.wiring import runner as wiring
from lab.switch_lab import LIMIT_S, SwitchLab, steps_of

pytestmark = [pytest.mark.lab, pytest.mark.req("RUN-5")]

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
EXECUTOR = "hyops-executor"


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
        user = EXECUTOR if host == CONTROL else "root"
        argv = ["env", "-C", "/tmp", *known, "sh", "-ec", block(self.page, title)]  # in a lab host
        done = self.lab.exec(host, argv, user=user, check=False, timeout_s=LIMIT_S)
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
def test_a_job_that_stands_still_is_seen_and_ended(impatient: SwitchLab) -> None:
    """Stopped by a signal, it is running and writes nothing; asked in vain, then killed, the run is closed by probes."""
    service, lab = impatient, impatient.lab
    primary = service.primary()
    switch = service.ask()
    run_id = service.attempt(switch)["run_id"]
    service.wait_journal(switch.runner, run_id, 1)
    lab.exec(switch.runner, ["systemctl", "kill", "--signal=SIGSTOP", f"hyops-run@{run_id}.service"])
    told = steps_of(service.journal(switch.runner, run_id))
    page = Operator(service, "a-stuck-job.md", RUN_ID=run_id, RUNNER=switch.runner, DIR=f"/tmp/{run_id}")

    print(told)
    assert f"{run_id}  running" in page.types("look")
    page.types("doctor", code=None)
    print(page.types("process", switch.runner))
    print(page.types("cancel"))
    print(page.types("kill"))
    outcome = service.outcome(switch)
    print(outcome, service.status("onprem-db"), service.status("cloud-db"))
    print(page.types("attach", code=None))
    print(page.types("after"))
    assert service.primary() == primary


@pytest.mark.fault(15)
def test_a_dead_runner_is_named_and_what_it_had_begun_goes_on(service: SwitchLab) -> None:
    """x."""
    lab, runner = service.lab, service.next_runner()
    lab.kill(runner)
    page = Operator(service, "a-dead-runner.md", RUNNER=runner)
    print(page.types("look", code=None))
    switch = service.ask()
    try:
        attempt = service.attempt(switch)
        page.words["RUN_ID"] = attempt["run_id"]
        print(attempt)
        import time
        t=time.time()
        print(page.types("ask", code=None))
        while time.time()-t<15:
            time.sleep(3)
            print(lab.exec(CONTROL, ["hyops","status"], user=EXECUTOR, check=False).stdout)
            print([o for o in service.loop.records("outcome") if o["run_id"]==attempt["run_id"]])
    finally:
        lab.power_on(runner)
    print(service.outcome(switch))
    assert 0
