"""A dispatch to the cloud while the on-prem site is a black hole: not one packet towards it, on the wire of both ends.

The decision stage probes that site, from several hosts, and is stopped here: whatever else there is on the two hosts
is watched, whoever it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from hyops_lab.capture import captured
from hyops_lab.hosts import HOSTS
from hyops_lab.loop import CONTROL
from hyops_lab.waiting import until
from hyops_lab.wiring.control import UNITS
from lab.canary_site import RUNNER, CanarySite
from lab.switch_lab import LIMIT_S, SwitchLab

pytestmark = [pytest.mark.lab, pytest.mark.req("RUN-2", "EVD-1", "SEC-1"), pytest.mark.fault(30)]

SITE, THERE = "10.77.1.0/24", HOSTS["onprem-runner"].address


@pytest.fixture(scope="module")
def blackholed(wired: SwitchLab) -> Iterator[CanarySite]:
    """Everything of a dispatch but the decision stage, and a site that takes packets and answers none."""
    wired.settle()
    with CanarySite(wired.lab, ["dark"]).up() as site:
        try:
            wired.lab.exec(CONTROL, ["systemctl", "stop", UNITS["decision"]])
            wired.lab.cut_site("onprem")
            yield site
        finally:
            wired.lab.heal()
            wired.lab.exec(CONTROL, ["systemctl", "start", UNITS["decision"]])


def test_a_dispatch_to_the_cloud_sends_nothing_to_a_dead_site(blackholed: CanarySite) -> None:
    """Secrets, request, approval, staging, run and collection; then the same capture sees what one try would send."""
    lab = blackholed.lab
    with ExitStack() as watching:
        seen = {host: watching.enter_context(captured(lab, host, SITE)) for host in (CONTROL, RUNNER)}
        with blackholed.deploying("dark", end="ok") as deploying:
            code = deploying.end()
        jobs = blackholed.hyops("jobs")

    assert code == 0, deploying.said
    assert deploying.run_id in {job["run_id"] for job in jobs}
    assert {host: one.sent for host, one in seen.items()} == {CONTROL: [], RUNNER: []}
    assert [one.dropped for one in seen.values()] == [0, 0]
    assert min(one.frames for one in seen.values()) > 20  # the dispatch itself went over the same wires


@pytest.mark.parametrize("host", [CONTROL, RUNNER])
def test_the_capture_sees_one_try_to_reach_the_dead_site(blackholed: CanarySite, host: str) -> None:
    """Held against a connection that a program on that host does try: it is seen, and who it was for."""
    with captured(blackholed.lab, host, SITE) as seen:

        def tried() -> bool:  # on a busy machine a second may be over before the program has begun
            argv = ["timeout", "1", "bash", "-c", f"exec 3<>/dev/tcp/{THERE}/22"]
            assert blackholed.lab.exec(host, argv, check=False).returncode != 0
            return f"tcp 22 to {THERE}" in seen.sent

        until(tried, what="a try to be seen", where=blackholed.lab.log(host), timeout_s=LIMIT_S)
