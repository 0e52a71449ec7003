"""A secret on its way from control to a runner leaves no trace on either host, whoever is killed wherever (fault 21).

The command and the job stand still at each named place, so that the hosts are searched while the process that has the
secret lives, after it was killed there, and after the run has come to its end. The secret travels sealed: it may be in
the memory of the two processes and nowhere else. Where the seal is not used is tested on loopback.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator

import pytest

from fault_size import FULL, SEED
from hyops_lab.loop import CONTROL, Json
from hyops_lab.waiting import until
from hyops_lab.wiring.runner import ROOT
from lab.canary_site import HOME, KEY, RUNNER, CanarySite, Deploying
from lab.guests.places import EFFECT, JOB_PLACES, PLACES, STARTED
from lab.switch_lab import LIMIT_S, SwitchLab
from lab.traces import CANARY, Traces, needles

pytestmark = [pytest.mark.lab, pytest.mark.req("SEC-2", "SEC-3", "RUN-8", "INV-10"), pytest.mark.fault(21)]


def chosen() -> list[str]:
    """All places, or a seeded one of those before a start, of the staging and of those after it."""
    thirds = [PLACES[:4], PLACES[4:6], PLACES[6:]]
    choose = random.Random(SEED)
    return PLACES if FULL else [choose.choice(third) for third in thirds]


def stops() -> list[str]:
    """All boundaries of the job, or its effect with a seeded one before and after."""
    at = JOB_PLACES.index(EFFECT)
    choose = random.Random(SEED)
    return JOB_PLACES if FULL else [choose.choice(JOB_PLACES[:at]), EFFECT, choose.choice(JOB_PLACES[at + 1 :])]


@pytest.fixture(scope="module")
def site(wired: SwitchLab) -> Iterator[CanarySite]:
    """The lab's control host and cloud runner, with a blueprint that gets a secret."""
    wired.settle()
    names = ["ok", "fails", "job", *PLACES]
    with CanarySite(wired.lab, names).up() as up:
        yield up


@pytest.fixture(scope="module")
def traces(site: CanarySite) -> Traces:
    """The search of both hosts; what does not change is searched once."""
    return Traces(site.lab, (CONTROL, RUNNER))


def jobs(site: CanarySite) -> dict[str, Json]:
    """What `hyops runner jobs` says, by run."""
    return {job["run_id"]: job for job in site.hyops("jobs")}


def left(site: CanarySite, run_id: str | None) -> list[str]:
    """What is left of a run on the runner after `hyops runner gc`, but for the stone that says that it ran.

    The digests that a bundle was offered with stay for an hour, should its start still come; here that hour is over.
    """
    site.lab.exec(
        RUNNER, ["find", f"{ROOT}/staging", "-name", "*.offer", "-exec", "touch", "-d", "-2 hours", "{}", "+"]
    )
    site.hyops("gc")
    found = site.lab.exec(RUNNER, ["find", ROOT, "/run/hyops/secrets", "-mindepth", "2"]).stdout.split()
    ours = [path for path in found if run_id is not None and run_id in path and path != f"{ROOT}/reaped/{run_id}"]
    return ours + [path for path in found if path.startswith((f"{ROOT}/staging/", f"{ROOT}/trash/"))]


def closed(site: CanarySite, run_id: str) -> Json:
    """The outcome that the executor's own service records, once its evidence is there too."""
    outcome = site.wait_record("execution", "outcomes", lambda outcome: outcome["run_id"] == run_id)
    bundle = site.lab.machine(CONTROL).path(f"{HOME}/execution/state/evidence/{run_id}")
    until(bundle.exists, what="evidence", where=str(bundle), timeout_s=LIMIT_S)
    return outcome


def clean(deploying: Deploying, traces: Traces) -> None:
    """Nothing was printed, and nothing is anywhere."""
    assert not any(needle in deploying.said for needle in traces.needles)
    assert traces.finds() == []


@pytest.mark.req("RUN-7")
def test_nothing_is_left_of_a_secret_after_a_success(site: CanarySite, traces: Traces) -> None:
    """A step that talks in every way that there is: it is heard, and without the secret."""
    with site.deploying("ok", end="ok") as deploying:
        assert deploying.end() == 0
    clean(deploying, traces)

    run_id = deploying.run_id
    assert run_id is not None
    assert jobs(site)[run_id]["outcome"] == "succeeded"
    log = ["journalctl", "-q", "-o", "cat", "-u", f"hyops-run@{run_id}.service"]
    until(  # the journal takes what a process has said when it gets a turn
        lambda: site.lab.exec(RUNNER, log).stdout.count("child: ***") >= 2,
        what="what the step said, without the secret", where=f"{log} on {RUNNER}", timeout_s=LIMIT_S,
    )  # fmt: skip
    assert left(site, run_id) == []
    clean(deploying, traces)


@pytest.mark.req("RUN-7")
def test_after_a_failure_nothing_is_left_but_what_the_step_kept_itself(site: CanarySite, traces: Traces) -> None:
    """It fails with the secret in its error. The search on trial: the file in which it kept the secret is found."""
    kept = f"{ROOT}/kept"
    try:
        with site.deploying("fails", end="fail", plant=kept) as deploying:
            assert deploying.end() != 0
        seen = traces.finds()
    finally:
        site.lab.exec(RUNNER, ["rm", "-f", kept])

    assert [(find.split(":")[0], find.endswith(kept)) for find in seen] == [(RUNNER, True)]
    clean(deploying, traces)
    assert left(site, deploying.run_id) == []


@pytest.mark.req("RUN-5", "RUN-7")
@pytest.mark.parametrize("place", chosen())
def test_the_command_killed_in_a_phase_leaves_nothing(site: CanarySite, traces: Traces, place: str) -> None:
    """kill -9 there: no trace before and after, `runner jobs` tells the truth, the executor ends a run that started."""
    started = place in STARTED
    held_in_it = [EFFECT] if place in ("start", "follow") else []
    with site.deploying(place, hold_at=place, end="ok", stops=held_in_it) as deploying:
        held = deploying.wait_event("held")
        assert held["at"] == place
        job = site.held_job() if held_in_it else None
        clean(deploying, traces)
        deploying.kill(held)

    clean(deploying, traces)
    run_id, found = deploying.run_id, jobs(site)
    assert (run_id in found) == started
    if started:
        assert run_id is not None
        assert found[run_id]["state"] == ("finished" if job is None else "running")
        if job is not None:
            site.release_job()
        assert closed(site, run_id)["outcome"] == "succeeded"
        assert (jobs(site)[run_id]["state"], jobs(site)[run_id]["outcome"]) == ("finished", "succeeded")
    assert left(site, run_id) == []
    clean(deploying, traces)


@pytest.mark.req("RUN-5", "INV-7")
def test_the_job_killed_at_each_boundary_leaves_nothing(site: CanarySite, traces: Traces) -> None:
    """One run whose job is killed wherever it can be: searched while it lives and after; it goes on to its end."""
    with site.deploying("job", end="ok", stops=stops()) as deploying:
        deploying.wait_event("execution")
        killed = set()
        for _ in stops():  # a job that was killed asks its probes first, so it comes by in another order
            held = site.held_job()
            clean(deploying, traces)
            site.kill_job(held)
            assert traces.finds() == []
            killed.add(held["at"])
        assert deploying.end() == 0

    clean(deploying, traces)
    assert killed == set(stops())
    assert set(site.boundaries()) == set(JOB_PLACES)
    assert left(site, deploying.run_id) == []


@pytest.mark.req("SEC-2")
@pytest.mark.parametrize("host", [CONTROL, RUNNER])
def test_the_search_sees_every_place_that_it_is_for(site: CanarySite, host: str) -> None:
    """Another mark, put where a careless program would: each is found, in each of its forms."""
    mark = f"0ther{host[:4]}Mark55"
    search = Traces(site.lab, (host,), needles(mark))
    base64, hexed = needles(mark)[3].decode(), needles(mark)[1].decode()
    script = (
        f"echo $$; echo {mark} >/var/tmp/a; echo x{base64} >/dev/shm/b; echo {hexed} >/tmp/c; "
        f"logger {mark} {'long ' * 500}; "
        f"exec 9>/var/tmp/d; echo {mark} >&9; rm /var/tmp/d; journalctl --flush --sync >/dev/null; "
        f"LEAK={mark} exec sleep 1000"
    )
    with site.lab.popen(host, ["bash", "-c", script], stdout=subprocess.PIPE, text=True) as leaking:
        assert leaking.stdout is not None
        pid = leaking.stdout.readline().strip()
        try:
            wanted = {"upper/var/tmp/a", "dev/shm/b", "root/tmp/c", "the journal", "environ of", "(deleted) of"}
            found: set[str] = set()

            def all_found() -> bool:
                found.update(word for find in search.finds() for word in wanted if word in find)
                return found == wanted

            until(all_found, what="every leak", where=f"{found} of {wanted}", timeout_s=LIMIT_S)
        finally:
            site.lab.exec(host, ["sh", "-c", f"kill -9 {pid}; rm -f /var/tmp/a /dev/shm/b /tmp/c"])


def test_the_canary_is_what_the_run_got(site: CanarySite) -> None:
    """The authority's value is the canary, and it is what nobody printed: the searches were for the right thing."""
    assert json.dumps(CANARY) in json.dumps([version.data for version in site.vault.two["secret/canary"]])
    assert KEY in site.lab.read(CONTROL, f"{HOME}/envs/lab/config/secrets/vault/allowed.csv").decode()
