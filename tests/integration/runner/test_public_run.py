"""A run over a public address: opened for it at a real edge, ended by the kernel, proved closed at its end (ACC-1)."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from access_hosts import Host, forwards_only, target
from hyops.adapters.access_grants import FileGrants
from hyops.adapters.access_nft import NftGrants
from hyops.adapters.access_outside import SshOutside
from hyops.errors import HyopsError, NotVerifiedError, PrerequisiteError
from hyops.model.access import AccessGrant, PublicAccess
from hyops.model.plan import Plan
from hyops.model.run import RunResult, RunSpec
from hyops.model.vocabulary import ExecutionPlane, Outcome
from hyops.runner.folders import job_pidfd
from hyops.testing.runs import approval_of, plan_of, reissued, spec_of, step
from loopback import missing, own_network
from waiting import until

if TYPE_CHECKING:
    from tests.integration.runner.conftest import Runner

LACKS = missing("sshd", "ip", "nft") or (None if os.geteuid() == 0 else "needs root")
pytestmark = [pytest.mark.skipif(LACKS is not None, reason=str(LACKS)), pytest.mark.req("ACC-1")]
OUTSIDE, PORT, DOOR, EDGE_PORT = "10.50.0.1", 22022, 22023, 22024
FACTS = {
    "source": "onprem-db",
    "target": "cloud-db",
    "members": [
        {"host": "onprem-db", "site": "onprem", "address": "127.0.0.2"},
        {"host": "cloud-db", "site": "cloud", "address": OUTSIDE},
    ],
}


@dataclass
class Public:
    """A runner, the edge that opens for it, the host outside that looks, and the target, in a network of their own."""

    runner: Runner
    folder: Path
    edge: Host
    vantage: Host
    db: Host

    def configure(self, *, job: dict[str, Any] | None = None, **access: Any) -> None:
        """The runner's own definition of access; `job` are more options of the test's job."""
        login = {
            "user": "root", "port": PORT,
            "key_file": str(self.db.folder / "client"), "known_hosts": str(self.db.folder / "known_hosts"),
        }  # fmt: skip
        known = {"edge": _place(self.edge), "drill_envs": ["lab"], "ready_wait_s": 3.0} | access
        self.runner.configure(options={"access": known, "targets": login, **(job or {})})

    def gets_in(self) -> bool:
        """Ask the host outside."""
        return asyncio.run(SshOutside(self.vantage.place).gets_in(OUTSIDE, PORT))

    @property
    def at_the_edge(self) -> list[AccessGrant]:
        """The records of the edge."""
        return FileGrants(self.folder / "grants").all()

    @property
    def at_the_runner(self) -> list[AccessGrant]:
        """What the runner still has to see closed."""
        return FileGrants(self.runner.folder / "root" / "access").all()


def _place(host: Host) -> dict[str, Any]:
    return {
        "address": host.address, "port": host.port, "user": "root", "site": "elsewhere",
        "key_file": str(host.folder / "client"), "known_hosts": str(host.folder / "known_hosts"),
    }  # fmt: skip


@pytest.fixture
def network() -> Iterator[None]:
    """Of this test alone; what it starts is in it."""
    with own_network():
        subprocess.run(["ip", "addr", "add", f"{OUTSIDE}/32", "dev", "lo"], check=True)
        yield


@pytest.fixture
def public(network: None, runner: Runner, tmp_path: Path) -> Iterator[Public]:
    """All of them, up; the edge guards, and nothing is granted."""
    folder = tmp_path / "public"
    config = folder / "access.json"
    serve = f"{sys.executable} -m hyops access serve --config {config}"
    db = target(folder / "db", address=OUTSIDE, port=PORT)
    vantage = Host(folder / "outside", "outside", forwards_only(PORT).replace("127.0.0.1", OUTSIDE), DOOR, OUTSIDE)
    edge = Host(folder / "edge", "edge", f'restrict,command="{serve}"', EDGE_PORT)
    body = {"api_version": "hybridops/v1", "kind": "AccessDesk", "grants_dir": str(folder / "grants")}
    guarded = [{"address": OUTSIDE, "port": PORT}]
    config.write_text(json.dumps({**body, "guarded": guarded, "vantage": _place(vantage)}))
    made = Public(runner, folder, edge, vantage, db)
    made.configure()
    asyncio.run(NftGrants([(OUTSIDE, PORT)]).install())
    try:
        for host in (db, vantage, edge):
            host.start()
        assert not made.gets_in()
        yield made
    finally:
        for host in (edge, vantage, db):
            host.stop()


def plan(occasion: str = "drill", expires_after_s: float = 60.0, **more: Any) -> Plan:
    """One step, over the public address."""
    access = {"occasion": occasion, "source_ranges": [f"{OUTSIDE}/32"], "expires_after_s": expires_after_s}
    change = {"execution_plane": ExecutionPlane.PUBLIC_EPHEMERAL, "access": PublicAccess.of(access), **more}
    return plan_of([step("a")], inputs=FACTS).model_copy(update=change)


async def ran(public: Public, spec: RunSpec) -> RunResult:
    """Start it, or go on with it, and follow it to its end."""
    async with public.runner.transport().connect("cloud-runner") as session:
        await session.start(spec, {})
        async for _ in session.attach(spec.run_id, 0):
            pass
        return (await session.collect(spec.run_id)).result


def children(pid: int) -> list[int]:
    """The processes that this one has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def notes(public: Public, run_id: str) -> list[dict[str, Any]]:
    """What the journal says of ways, in order; the closing record is the last of all."""
    lines = (public.runner.folders.run(run_id) / "journal.jsonl").read_bytes().splitlines()
    entries = [json.loads(line) for line in lines]
    assert entries[-1]["kind"] == "run-closed"
    return [entry["body"] for entry in entries if {"access_removed", "access_left"} & entry["body"].keys()]


@pytest.mark.req("EVD-1")
def test_a_drill_opens_its_way_and_shows_that_it_is_closed(public: Public) -> None:
    """Opened when the mode is resolved, used, removed; the journal says what proved it, before the run is closed."""
    spec = spec_of(plan())

    result = asyncio.run(ran(public, spec))

    assert (result.outcome, public.runner.effects) == (Outcome.SUCCEEDED, ["a"])
    assert result.access is not None
    assert [check.prerequisite for check in result.access.checks] == [
        "occasion-allowed",
        "grant-open",
        "target-answers",
    ]
    (note,) = notes(public, spec.run_id)
    assert "no connection from outside" in note["access_removed"]["proof"]
    assert not public.gets_in()
    assert [(grant.state, grant.occasion) for grant in public.at_the_edge] == [("removed", "drill")]
    assert public.at_the_runner == []


def test_a_broken_glass_opens_it_where_no_drills_are(public: Public) -> None:
    """With a break-glass among the approvals, and without one it is refused though a drill would be allowed here."""
    plain = spec_of(plan("break-glass"))
    glass = approval_of(
        plain.request, plain.decision.timestamp_utc or plain.execution.timestamp_utc, verdict="break-glass",
        note="site lost", accepted_loss="unknown",
    )  # fmt: skip

    with pytest.raises(PrerequisiteError, match=r"occasion-allowed .*nobody broke it"):
        asyncio.run(ran(public, plain))
    assert public.at_the_edge == []

    public.configure(job={"glass": True}, drill_envs=[])
    broken = reissued(plain, request=plain.request, approvals=[glass], summary=_summary(plain, glass.approval_id))
    result = asyncio.run(ran(public, broken))

    assert result.outcome is Outcome.SUCCEEDED
    assert [(grant.state, grant.occasion) for grant in public.at_the_edge] == [("removed", "break-glass")]


def _summary(spec: RunSpec, approval_id: str) -> Any:
    change = {"approval_ids": [approval_id], "mode": "break-glass"}
    return spec.execution.approval.model_copy(update=change)


@pytest.mark.parametrize(
    ("access", "why"),
    [
        ({"drill_envs": ["another"]}, "occasion-allowed .*no environment for drills"),
        ({"edge": None}, "grant-open .*no open grant leads to"),
    ],
)
def test_a_runner_that_does_not_allow_it_opens_nothing(public: Public, access: dict[str, Any], why: str) -> None:
    """Its own list of environments decides, whatever the plan says; without an edge nobody is asked."""
    public.configure(**access)

    with pytest.raises(PrerequisiteError, match=why):
        asyncio.run(ran(public, spec_of(plan())))

    assert (public.at_the_edge, public.runner.effects) == ([], [])


def test_a_run_that_is_refused_after_its_way_was_opened_closes_it(public: Public) -> None:
    """The target does not answer over it: refused, and the way is proved closed all the same."""
    public.configure(ready_wait_s=0.3)
    public.db.stop()
    spec = spec_of(plan())

    with pytest.raises(PrerequisiteError, match="target-answers"):
        asyncio.run(ran(public, spec))

    assert ["access_removed" in note for note in notes(public, spec.run_id)] == [True]
    assert [grant.state for grant in public.at_the_edge] == ["removed"]


def test_a_way_that_is_not_proved_closed_is_no_success(public: Public) -> None:
    """Another rule lets somebody in: the steps succeeded, the run ends 40 with the mend, and gc looks again."""
    public.configure(job={"hold": "a"})
    spec = spec_of(plan())

    async def body() -> RunResult:
        following = asyncio.create_task(ran(public, spec))
        await until((public.runner.folder / "held").is_fifo, "the step", 120.0)
        subprocess.run(["nft", "flush", "chain", "inet", "hyops_access", "input"], check=True)
        os.close(os.open(public.runner.folder / "held", os.O_WRONLY))
        return await following

    result = asyncio.run(body())

    assert (result.outcome, result.exit_code) == (Outcome.FAILED, NotVerifiedError.exit_code)
    assert "every step succeeded" in str(result.reason)
    assert "lets somebody in" in str(result.reason)
    assert ["access_left" in note for note in notes(public, spec.run_id)] == [True]

    assert len(public.at_the_runner) == 1
    asyncio.run(NftGrants([(OUTSIDE, PORT)]).install())
    asyncio.run(gc(public))
    assert (public.at_the_runner, [grant.state for grant in public.at_the_edge]) == ([], ["removed"])


@pytest.mark.req("RUN-5")
def test_a_dispatcher_that_is_gone_leaves_no_way_open(public: Public) -> None:
    """Its connection was cut while the way stood, and nobody comes back: the job closes it at its end all the same."""
    public.configure(job={"hold": "a"})
    spec = spec_of(plan())

    async def gone() -> None:
        async with public.runner.transport().connect("cloud-runner") as session:
            await session.start(spec, {})
            await until((public.runner.folder / "held").is_fifo, "the step", 120.0)
            assert public.runner.sshd is not None
            for child in children(public.runner.sshd.pid):
                os.kill(child, signal.SIGKILL)
            with pytest.raises(HyopsError):
                await session.status(spec.run_id)

    asyncio.run(gone())
    assert [grant.state for grant in public.at_the_edge] == ["open"]
    ended = job_pidfd(public.runner.folders.run(spec.run_id))
    assert ended is not None
    os.close(os.open(public.runner.folder / "held", os.O_WRONLY))
    assert select.select([ended], [], [], 60.0)[0]
    os.close(ended)

    assert ["access_removed" in note for note in notes(public, spec.run_id)] == [True]
    assert (public.at_the_runner, [grant.state for grant in public.at_the_edge]) == ([], ["removed"])


async def gc(public: Public) -> None:
    """`hyops runner gc`."""
    async with public.runner.transport().connect("cloud-runner") as session:
        await session.gc(dry_run=False)


@pytest.fixture
def killed(public: Public) -> RunSpec:
    """A run whose job was killed between open and close; its way stands, with the kernel's end."""
    public.configure(job={"hold": "a"})
    spec = spec_of(plan(expires_after_s=600.0))

    async def body() -> None:
        async with public.runner.transport().connect("cloud-runner") as session:
            await session.start(spec, {})
            await until((public.runner.folder / "held").is_fifo, "the step", 120.0)

    asyncio.run(body())
    public.runner.kill_job(spec.run_id)
    told = subprocess.run(["nft", "list", "set", "inet", "hyops_access", "grants"], capture_output=True, check=True)
    assert b"expires" in told.stdout
    assert public.gets_in()
    assert [grant.state for grant in public.at_the_runner] == ["open"]
    (public.runner.folder / "held").unlink()
    public.configure()
    return spec


@pytest.mark.parametrize("by", ["gc", "the next dispatch"])
def test_what_a_killed_job_left_open_is_closed_by_whoever_comes_next(public: Public, killed: RunSpec, by: str) -> None:
    """The next run on this runner, over whatever way, or its gc: removed at the edge, and seen from outside."""
    if by == "gc":
        asyncio.run(gc(public))
    else:
        private = plan(execution_plane=ExecutionPlane.RUNNER_LOCAL, access=None, inputs={}, service="other")
        assert asyncio.run(ran(public, spec_of(private))).outcome is Outcome.SUCCEEDED

    assert not public.gets_in()
    assert (public.at_the_runner, [grant.state for grant in public.at_the_edge]) == ([], ["removed"])


@pytest.mark.req("RUN-5")
def test_a_killed_run_that_goes_on_opens_its_way_anew_and_closes_it(public: Public, killed: RunSpec) -> None:
    """Its way ended meanwhile: the same grant is opened again, and the end is proved as ever."""
    subprocess.run(["nft", "flush", "set", "inet", "hyops_access", "grants"], check=True)
    assert not public.gets_in()

    result = asyncio.run(ran(public, killed.model_copy(update={"epoch": 2})))

    assert result.outcome in (Outcome.SUCCEEDED, Outcome.UNKNOWN)  # the step that was under way is asked for
    assert [list(note) for note in notes(public, killed.run_id)] == [["access_removed"]]
    assert not public.gets_in()
    assert (public.at_the_runner, [grant.state for grant in public.at_the_edge]) == ([], ["removed"])


def test_a_way_that_is_left_and_cannot_be_closed_keeps_another_from_being_opened(
    public: Public, killed: RunSpec
) -> None:
    """The edge does not answer: refused by the mode's name; the record stays, and so does the kernel's end."""
    public.edge.stop()

    with pytest.raises(PrerequisiteError, match=f"public-ephemeral: the way {killed.run_id}-0 is not proved closed"):
        asyncio.run(ran(public, spec_of(plan(service="other"))))

    assert [grant.state for grant in public.at_the_runner] == ["open"]
