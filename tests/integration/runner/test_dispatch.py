"""Dispatches over a real sshd: once, resumable, refused clearly, whatever is killed on the way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.runner.conftest import Runner

from hyops.adapters.runner_session import FramedSession
from hyops.errors import (
    HostKeyError,
    NotApprovedError,
    PrerequisiteError,
    RecordError,
    RunnerUnreachableError,
    SecretsError,
    StaleGenerationError,
    UnsafePlanError,
)
from hyops.model import canonical
from hyops.model.dsse import verify_record
from hyops.model.run import RunSpec
from hyops.model.vocabulary import Outcome, Phase, SecretOrigin
from hyops.ports.transport import RunEvent
from hyops.runner import boot
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import EPOCH_STEP_MAX, Seen
from hyops.runner.killing import family
from hyops.runner.launch import ask_to_stop
from hyops.testing.evidence import STAGES, VERIFIER
from hyops.testing.runs import bundle_of, noop_plan, plan_of, spec_of, step
from waiting import PATIENCE_S, until

CHAIN = [step("a"), step("b", "a"), step("c", "b", phase=Phase.DATA)]
LIMIT_S = PATIENCE_S


def run(body: Coroutine[Any, Any, Any]) -> Any:
    """Run within a hard limit, so that a lost event fails a test instead of hanging it."""
    return asyncio.run(asyncio.wait_for(body, LIMIT_S))


async def events(session: FramedSession, run_id: str, offset: int = 0) -> list[RunEvent]:
    """Everything up to the end."""
    return [event async for event in session.attach(run_id, offset)]


@pytest.mark.req("RUN-1", "RUN-5", "RUN-6", "INV-7")
def test_a_dispatch_runs_once_and_comes_home_signed(runner: Runner) -> None:
    """Connect, hello, start, attach, collect: one effect per step, a verified result, a second start is no run."""
    spec = spec_of(plan_of(CHAIN))

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            assert (await session.hello()).site == "cloud"
            assert await session.start(spec, {}) == "started"
            seen = await events(session, spec.run_id)
            assert [e.body["kind"] for e in seen if e.stream == "journal"][-1] == "run-closed"
            assert seen[-1].stream == "end"
            assert await session.start(spec, {}) == "existing"
            home = await session.collect(spec.run_id)
            assert verify_record(home.result, VERIFIER) == STAGES["runner:cloud-runner"].keyid
            assert (home.result.outcome, [s.step_id for s in home.result.steps]) == (Outcome.SUCCEEDED, ["a", "b", "c"])
            assert (await session.status(spec.run_id)).outcome == "succeeded"

    run(body())
    assert runner.effects == ["a", "b", "c"]


@pytest.mark.req("RUN-1")
def test_staging_ships_each_file_once(runner: Runner) -> None:
    """A second staging of the same bytes ships nothing; the job gets exactly the files that the plan names."""
    files = {"play.yml": b"- hosts: all\n", "roles/main.yml": os.urandom(300_000)}
    plan = noop_plan().model_copy(update={"bundle": {n: canonical.digest_bytes(d) for n, d in files.items()}})
    spec = spec_of(plan)

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            with pytest.raises(PrerequisiteError, match="is not staged"):
                await session.start(spec, {})
            first = await session.stage(spec.run_id, bundle_of(files))
            again = await session.stage(spec.run_id, bundle_of(files))
            assert (first.shipped_files, again.shipped_files, again.shipped_bytes) == (2, 0, 0)
            assert await session.start(spec, {}) == "started"
            await events(session, spec.run_id)
            assert (await session.collect(spec.run_id)).result.outcome is Outcome.SUCCEEDED

    run(body())
    assert not (runner.folders.run(spec.run_id) / "bundle").exists()


@pytest.mark.req("RUN-5", "LOOP-1")
@pytest.mark.fault(12)
def test_twenty_starts_at_once_run_once(runner: Runner) -> None:
    """Twenty simultaneous starts of one run: every effect once, no start fails."""
    spec = spec_of(plan_of(CHAIN))

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            await session.hello()
            answers = await asyncio.gather(*(session.start(spec, {}) for _ in range(20)))
            assert answers.count("started") == 1
            await events(session, spec.run_id)

    run(body())
    assert runner.effects == ["a", "b", "c"]


@pytest.mark.req("RUN-5", "INV-3")
def test_an_older_epoch_or_generation_is_refused(runner: Runner) -> None:
    """What this runner has seen of a service refuses a stale dispatcher, and nothing of its run is left."""

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            newer = spec_of(noop_plan(), epoch=5, generation=9)
            await session.start(newer, {})
            await events(session, newer.run_id)
            with pytest.raises(StaleGenerationError, match="epoch 4"):
                await session.start(spec_of(noop_plan(), epoch=4, generation=9, token="x"), {})
            with pytest.raises(StaleGenerationError, match="epoch 4"):
                await session.start(newer.model_copy(update={"epoch": 4}), {})
            old = spec_of(noop_plan(), epoch=5, generation=8, token="y")
            with pytest.raises(StaleGenerationError, match="generation 8"):
                await session.start(old, {})
            assert (await session.status(old.run_id)).state == "absent"

    run(body())


@pytest.mark.req("INV-8", "INV-3", "RUN-1")
def test_an_epoch_that_nobody_signed_for_shuts_nobody_out(runner: Runner) -> None:
    """Who has only the dispatcher's SSH key can have a forged start refused, with any epoch: the genuine one goes."""
    genuine, forged = spec_of(noop_plan()), spec_of(noop_plan(), epoch=EPOCH_STEP_MAX, token="x")
    assert forged.execution.signature is not None
    torn = forged.execution.signature.model_copy(update={"sig": genuine.execution.signature.sig})  # type: ignore[union-attr]
    forged = forged.model_copy(update={"execution": forged.execution.model_copy(update={"signature": torn})})

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            with pytest.raises(RecordError):
                await session.start(forged, {})
            assert runner.folders.seen("pg") == Seen(0, 0)
            assert await session.start(genuine, {}) == "started"
            await events(session, genuine.run_id)
            assert (await session.collect(genuine.run_id)).result.outcome is Outcome.SUCCEEDED
            assert runner.folders.seen("pg") == Seen(genuine.generation, 1)

    run(body())


@pytest.mark.req("INV-8", "INV-3", "RUN-5")
@pytest.mark.parametrize("crash_at", [0, 4])
def test_who_started_a_run_again_shuts_older_dispatchers_out(runner: Runner, crash_at: int) -> None:
    """A job that died before or after its admission is started again under a higher epoch, which counts from then."""
    runner.configure(options={"crash_at": crash_at})
    spec = spec_of(plan_of(CHAIN), epoch=3)

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            if crash_at:
                await session.start(spec, {})
                assert (await events(session, spec.run_id))[-1].body["state"] == "interrupted"
            else:
                stage(runner, spec)
            runner.configure()
            assert runner.folders.seen("pg").epoch == (3 if crash_at else 0)
            assert await session.start(spec.model_copy(update={"epoch": 9}), {}) == "existing"
            await events(session, spec.run_id)
            with pytest.raises(StaleGenerationError, match="epoch 8 of pg is older than 9") as told:
                await session.start(spec_of(noop_plan(), epoch=8, token="late"), {})
            assert "write 9 or more into this executor's state/starts/epoch" in told.value.hint

    run(body())
    assert runner.effects == ["a", "b", "c"]


def stage(runner: Runner, spec: RunSpec) -> None:
    """A run whose job was killed before it said anything."""
    runner.folders.make()
    runner.folders.run(spec.run_id).mkdir(mode=0o700)
    (runner.folders.run(spec.run_id) / "spec.json").write_bytes(canonical.encode(spec.body()))
    runner.folders.generations.joinpath("pg").write_text('{"generation": 0, "epoch": 0}')


@pytest.mark.req("EXE-3")
@pytest.mark.fault(29)
def test_one_open_run_per_service(runner: Runner) -> None:
    """While a run of a service is open a second one is refused, naming it; another service is free."""
    runner.configure(options={"hold": "a"})
    first, second = spec_of(plan_of([step("a")])), spec_of(plan_of([step("b")]), epoch=2)
    other = spec_of(plan_of([step("b")], service="mail"))

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            await session.start(first, {})
            with pytest.raises(PrerequisiteError, match=first.run_id):
                await session.start(second, {})
            assert await session.start(other, {}) == "started"
            await release(runner)
            await events(session, first.run_id)
            assert await session.start(second, {}) == "started"
            await events(session, second.run_id)

    run(body())


async def release(runner: Runner) -> None:
    """Let the step on hold go on: opening the pipe for writing waits until the step reads it."""
    held = runner.folder / "held"

    def go() -> None:
        while not held.exists():
            os.sched_yield()
        held.open("wb").close()

    await asyncio.to_thread(go)


@pytest.mark.req("RUN-5")
@pytest.mark.fault(14)
def test_the_job_outlives_its_connection(runner: Runner) -> None:
    """The link dies while the run is followed: the job goes on, and attaching again leaves no gap and no line twice."""
    runner.configure(options={"hold": "b"})
    spec = spec_of(plan_of(CHAIN))

    async def body() -> None:
        first: list[RunEvent] = []
        async with runner.transport().connect("cloud-runner") as session:
            await session.start(spec, {})
            async for event in session.attach(spec.run_id):
                first.append(event)
                if event.stream == "journal" and event.body["body"].get("step") == "b":
                    break
        async with runner.transport().connect("cloud-runner") as session:
            assert (await session.status(spec.run_id)).state == "running"
            await release(runner)
            rest = await events(session, spec.run_id, first[-1].offset)
            seqs = [e.body["seq"] for e in [*first, *rest] if e.stream == "journal"]
            assert seqs == list(range(len(seqs)))
            lines = [e.body["line"] for e in [*first, *rest] if e.stream == "log"]
            assert lines == (await session.collect(spec.run_id)).log.decode().splitlines()

    run(body())
    assert runner.effects == ["a", "b", "c"]


@pytest.mark.req("RUN-5", "RUN-11")
@pytest.mark.fault(14)
def test_a_killed_session_is_a_lost_link_and_no_outcome(runner: Runner) -> None:
    """sshd's session is killed while a run is followed: the follower hears that the link is lost, nothing else."""
    runner.configure(options={"hold": "a"})
    spec = spec_of(plan_of(CHAIN))

    async def until_killed() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            await session.start(spec, {})
            async for event in session.attach(spec.run_id):
                if event.stream == "log" and "a:" in event.body["line"]:
                    assert runner.sshd is not None
                    for pid in _children(runner.sshd.pid):
                        os.kill(pid, signal.SIGKILL)

    async def body() -> None:
        with pytest.raises(RunnerUnreachableError, match="link is lost"):
            await until_killed()
        async with runner.transport().connect("cloud-runner") as session:
            assert (await session.status(spec.run_id)).state == "running"
            await release(runner)
            await events(session, spec.run_id)
            assert (await session.collect(spec.run_id)).result.outcome is Outcome.SUCCEEDED

    run(body())


@pytest.mark.req("RUN-5", "RUN-11")
@pytest.mark.fault(14)
def test_a_half_open_link_is_noticed(runner: Runner) -> None:
    """The peer is frozen in mid-follow, so TCP stays up and silent: keepalives tell that the link is lost."""
    runner.configure(options={"hold": "a"})
    spec = spec_of(plan_of(CHAIN))
    frozen: list[int] = []

    async def until_frozen() -> None:
        async with runner.transport(keepalive_s=0.2).connect("cloud-runner") as session:
            await session.start(spec, {})
            async for event in session.attach(spec.run_id):
                if event.stream == "log" and "a:" in event.body["line"]:
                    assert runner.sshd is not None
                    for pid in _children(runner.sshd.pid):
                        os.kill(pid, signal.SIGSTOP)
                        frozen.append(pid)

    async def body() -> None:
        with pytest.raises(RunnerUnreachableError, match="link is lost"):
            await until_frozen()
        for pid in frozen:
            os.kill(pid, signal.SIGKILL)
        async with runner.transport().connect("cloud-runner") as session:
            assert (await session.status(spec.run_id)).state == "running"
            await release(runner)
            await events(session, spec.run_id)

    run(body())
    assert runner.effects == ["a", "b", "c"]


@pytest.mark.req("RUN-5")
def test_an_operator_resumes_an_interrupted_run(runner: Runner) -> None:
    """`resume` needs no spec and no control host: what lies on the runner goes on; an older epoch may not."""
    runner.configure(options={"crash_at": 9})
    spec = spec_of(plan_of(CHAIN), epoch=3)

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            await session.start(spec, {})
            await events(session, spec.run_id)
            with pytest.raises(StaleGenerationError):
                await session.resume(spec.run_id, 2)
            await session.resume(spec.run_id, 3)
            await events(session, spec.run_id)
            assert (await session.collect(spec.run_id)).result.outcome is Outcome.SUCCEEDED

    run(body())
    assert runner.effects == ["a", "b", "c"]


@pytest.mark.req("RUN-5")
@pytest.mark.fault(15)
def test_a_host_going_down_leaves_the_run_open(runner: Runner) -> None:
    """SIGTERM without a cancellation is a shutdown: the effect under way ends, nothing more starts, it resumes."""
    runner.configure(options={"hold": "a"})
    spec = spec_of(plan_of(CHAIN))

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            await session.start(spec, {})
            while not (runner.folder / "held").exists():
                await session.status(spec.run_id)
            ask_to_stop(runner.folders.run(spec.run_id))
            await release(runner)
            assert (await events(session, spec.run_id))[-1].body["state"] == "interrupted"
            assert runner.effects == ["a"]
            await session.resume(spec.run_id, 1)
            await events(session, spec.run_id)
            assert (await session.collect(spec.run_id)).result.outcome is Outcome.SUCCEEDED

    run(body())
    assert runner.effects == ["a", "b", "c"]


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


@pytest.mark.req("RUN-5", "BP-4")
@pytest.mark.fault(13, 15)
@pytest.mark.parametrize("crash_at", [1, 4, 9, 17])
def test_a_killed_job_resumes_where_it_was(runner: Runner, crash_at: int) -> None:
    """kill -9 of the real job process: the follower sees `interrupted`; a new start resumes; one effect per step."""
    runner.configure(options={"crash_at": crash_at})
    spec = spec_of(plan_of(CHAIN))

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            await session.start(spec, {})
            assert (await events(session, spec.run_id))[-1].body["state"] == "interrupted"
            with pytest.raises(PrerequisiteError, match="is interrupted"):
                await session.collect(spec.run_id)
            assert await session.start(spec, {}) == "existing"
            await events(session, spec.run_id)
            assert (await session.collect(spec.run_id)).result.outcome is Outcome.SUCCEEDED

    run(body())
    assert runner.effects == ["a", "b", "c"]


@pytest.mark.req("RUN-5")
@pytest.mark.fault(15)
def test_the_boot_unit_resumes_open_runs(runner: Runner) -> None:
    """After a reboot (job gone) `--resume-all` brings the open run to its end, and only that."""
    runner.configure(options={"crash_at": 9})
    spec = spec_of(plan_of(CHAIN))

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            await session.start(spec, {})
            await events(session, spec.run_id)
            assert boot.resume_all(RunnerConfig.load(runner.config)) == [spec.run_id]
            while (await session.status(spec.run_id)).state != "finished":
                await events(session, spec.run_id)
            assert boot.resume_all(RunnerConfig.load(runner.config)) == []

    run(body())
    assert runner.effects == ["a", "b", "c"]


@pytest.mark.req("RUN-5", "RUN-8")
@pytest.mark.fault(15)
def test_a_run_whose_secrets_went_with_the_reboot_waits_for_them(runner: Runner) -> None:
    """Without them it makes no effect and stays open; started again with them it goes on where it was."""
    runner.configure(options={"crash_at": 9})
    spec = spec_of(plan_of(CHAIN).model_copy(update={"sync_env": {"PGPASSWORD": SecretOrigin.VAULT}}))

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            await session.start(spec, {"PGPASSWORD": "canary-7f3a"})
            await events(session, spec.run_id)
            before = runner.effects
            runner.folders.drop_secrets(spec.run_id)
            with pytest.raises(UnsafePlanError, match="PGPASSWORD"):
                await session.start(spec, {})
            job = [*RunnerConfig.load(runner.config).job_command, "--config", str(runner.config), spec.run_id]
            assert subprocess.run(job, capture_output=True, check=False).returncode == SecretsError.exit_code
            assert ((await session.status(spec.run_id)).state, runner.effects) == ("interrupted", before)
            await session.start(spec, {"PGPASSWORD": "canary-7f3a"})
            await events(session, spec.run_id)
            assert (await session.status(spec.run_id)).outcome == "succeeded"

    run(body())
    assert runner.effects == ["a", "b", "c"]


@pytest.mark.req("RUN-5")
def test_cancelled_between_two_steps(runner: Runner) -> None:
    """A cancellation lets the effect under way end; the run is closed cancelled and signed."""
    runner.configure(options={"hold": "a"})
    spec = spec_of(plan_of(CHAIN), epoch=3)

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            await session.start(spec, {})
            with pytest.raises(StaleGenerationError):
                await session.cancel(spec.run_id, 2, "stale")
            cancelling = asyncio.create_task(session.cancel(spec.run_id, 3, "operator: wrong service"))
            async for event in session.attach(spec.run_id):
                if event.stream == "journal" and "cancel" in event.body["body"]:
                    break
            await release(runner)
            status = await cancelling
            assert (status.state, status.outcome, status.facts["cancel"]) == ("finished", "cancelled", "done")
            home = await session.collect(spec.run_id)
            assert (home.result.exit_code, home.result.reason) == (130, "operator: wrong service")

    run(body())
    assert runner.effects == ["a"]


@pytest.mark.req("RUN-5")
@pytest.mark.parametrize("child", ["beside", "own-session"])
def test_a_forced_cancel_kills_the_job_and_all_that_it_started(runner: Runner, child: str) -> None:
    """A job that hangs with a child, or with an orphan that has left its session, is killed with it, proved; a new
    process asks the probe and closes the run."""
    runner.configure(options={"hold": "b", "child": child})
    spec = spec_of(plan_of(CHAIN))

    async def body() -> set[int]:
        async with runner.transport().connect("cloud-runner") as session:
            await session.start(spec, {})
            while not (runner.folder / "held").exists():
                await session.status(spec.run_id)
            job = int((runner.folders.run(spec.run_id) / "alive").read_text())
            await until(lambda: _sleeps(family(job)), "the child of the job", 30.0)
            killed = family(job)
            status = await session.cancel(spec.run_id, 1, "hangs", force=True)
            assert (status.state, status.outcome) == ("finished", "cancelled")
            return killed

    killed = run(body())
    assert len(killed) == 2
    assert [pid for pid in killed if family(pid)] == []
    assert runner.effects == ["a"]


def _sleeps(pids: set[int]) -> bool:
    """One of them is the child, and its short-lived parents are gone."""
    return len(pids) == 2 and any(Path(f"/proc/{pid}/comm").read_text() == "sleep\n" for pid in pids)


@pytest.mark.req("RUN-8", "INV-10")
@pytest.mark.fault(21)
def test_secrets_live_in_memory_and_only_while_the_job_does(runner: Runner) -> None:
    """During the run the secret lies 0600 on tmpfs; afterwards it is nowhere: not on disk, not in what comes home."""
    runner.configure(options={"hold": "a"})
    named = plan_of(CHAIN).model_copy(update={"sync_env": {"PGPASSWORD": SecretOrigin.VAULT}})
    spec, canary = spec_of(named), "canary-2b91c0"

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            await session.start(spec, {"PGPASSWORD": canary})
            assert (runner.secrets / spec.run_id).stat().st_mode & 0o777 == 0o600
            for line in subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, check=True).stdout.split():
                assert canary.encode() not in line
            await release(runner)
            await events(session, spec.run_id)
            home = await session.collect(spec.run_id)
            assert canary.encode() not in home.journal + home.log + home.result.encoded()

    run(body())
    assert list(runner.secrets.iterdir()) == []
    found = subprocess.run(["grep", "-r", canary, str(runner.folder)], capture_output=True, check=False)
    assert found.stdout == b""


@pytest.mark.req("RUN-3")
@pytest.mark.fault(16)
@pytest.mark.parametrize("pinned", ["changed", "empty"])
def test_an_unknown_or_changed_host_key_is_refused(runner: Runner, pinned: str) -> None:
    """Before a byte of ours leaves: sshd never gets as far as authentication."""
    if pinned == "changed":
        runner.pin((runner.folder / "user.pub").read_text())
    else:
        (runner.folder / "known_hosts").write_text("")

    async def body() -> None:
        with pytest.raises(HostKeyError):
            async with runner.transport().connect("cloud-runner"):
                pass

    run(body())
    log = (runner.folder / "sshd.log").read_text()
    assert "Accepted" not in log
    assert not (runner.folder / "root").exists()


@pytest.mark.req("RUN-11")
def test_a_runner_that_is_not_there_is_unreachable(runner: Runner) -> None:
    """Nobody listens: one clear error, no outcome."""
    assert runner.sshd is not None
    runner.sshd.terminate()
    runner.sshd.wait()

    async def body() -> None:
        with pytest.raises(RunnerUnreachableError, match="cloud-runner"):
            async with runner.transport().connect("cloud-runner"):
                pass

    run(body())


@pytest.mark.req("INV-4", "INV-7", "APR-1")
@pytest.mark.fault(10, 11)
def test_a_refused_run_is_closed_and_signed(runner: Runner) -> None:
    """One byte of an approval edited: refused with the runner's own error, no effect, and a signed record of it."""
    good = spec_of(plan_of(CHAIN))
    edited = good.approvals[0].model_copy(update={"ssh_signature": good.approvals[0].ssh_signature[:-1] + "x"})
    spec = good.model_copy(update={"approvals": [edited]})

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            with pytest.raises(NotApprovedError, match="not over these bytes"):
                await session.start(spec, {})
            home = await session.collect(spec.run_id)
            assert (home.result.outcome, home.result.exit_code, home.result.steps) == (Outcome.REFUSED, 13, [])

    run(body())
    assert runner.effects == []


@pytest.mark.req("INV-4", "RUN-5")
@pytest.mark.fault(11)
def test_one_byte_of_the_plan_changed_is_refused(runner: Runner) -> None:
    """A plan with another input than the approved one never starts, and cannot slip under an existing run id."""
    good = spec_of(plan_of(CHAIN))
    changed = plan_of([step("a", inputs={"word": "x"}), *CHAIN[1:]])
    forged = good.model_copy(update={"plan": changed})

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            with pytest.raises(UnsafePlanError, match="plan digest"):
                await session.start(forged, {})
            with pytest.raises(UnsafePlanError, match="exists here with another plan"):
                await session.start(good, {})

    run(body())
    assert runner.effects == []


@pytest.mark.req("INV-7")
def test_a_spec_that_nobody_can_read_is_refused_and_closed(runner: Runner) -> None:
    """A spec with an unknown key passes the cheap checks and is refused by the job, on the record."""
    spec = spec_of(noop_plan())
    body_of = {**spec.body(), "surprise": 1}

    class Odd:
        """Sends what no honest dispatcher would."""

        def body(self) -> dict[str, Any]:
            """The forged spec."""
            return body_of

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            with pytest.raises(RecordError, match="surprise"):
                await session.start(Odd(), {})  # type: ignore[arg-type]
            assert (await session.collect(spec.run_id)).result.exit_code == 11

    run(body())


def test_the_return_is_what_the_runner_signed(runner: Runner) -> None:
    """One byte of the journal changed on the runner's disk: the return is refused as evidence (fault 18, 31)."""
    spec: RunSpec = spec_of(noop_plan())

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            await session.start(spec, {})
            await events(session, spec.run_id)
            path = runner.folders.run(spec.run_id) / "journal.jsonl"
            path.write_bytes(path.read_bytes().replace(b'"changed":false', b'"changed":true '))
            with pytest.raises(Exception, match=r"does not follow|not the one that was signed"):
                await session.collect(spec.run_id)
            result = json.loads((runner.folders.run(spec.run_id) / "result.json").read_bytes())
            result["outcome"] = "failed"
            (runner.folders.run(spec.run_id) / "result.json").write_bytes(canonical.encode(result))
            with pytest.raises(Exception, match="signature is not over these bytes"):
                await session.collect(spec.run_id)

    run(body())
