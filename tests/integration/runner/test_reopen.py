"""A run that failed after its promotion goes on where it failed, and no other one does (fault 27)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.runner.conftest import Runner

from hyops.adapters.runner_session import FramedSession
from hyops.errors import PrerequisiteError, StaleGenerationError
from hyops.evidence import journal
from hyops.model.dsse import verify_record
from hyops.model.run import RunSpec
from hyops.model.vocabulary import Outcome, Phase
from hyops.ports.transport import RunReturn
from hyops.runner import boot
from hyops.runner.config import RunnerConfig
from hyops.runner.follow import wait_until
from hyops.testing.evidence import VERIFIER
from hyops.testing.runs import plan_of, spec_of, step
from waiting import PATIENCE_S

pytestmark = [pytest.mark.req("RUN-5", "RUN-6"), pytest.mark.fault(27)]
SWITCH = [step("promote"), step("cutover", "promote", phase=Phase.DATA), step("verify", "cutover", phase=Phase.DATA)]
PROMOTED = {"promote": {"primary_after": "cloud-db", "generation_after": 2}}
LIMIT_S = PATIENCE_S


def run(body: Coroutine[Any, Any, Any]) -> Any:
    """Run within a hard limit, so that a lost event fails a test instead of hanging it."""
    return asyncio.run(asyncio.wait_for(body, LIMIT_S))


async def to_the_end(session: FramedSession, run_id: str) -> RunReturn:
    """Follow the run, then take what it returns."""
    assert [e async for e in session.attach(run_id)][-1].body["state"] == "finished"
    return await session.collect(run_id)


async def failed(runner: Runner, session: FramedSession, **options: Any) -> tuple[RunSpec, RunReturn]:
    """A switch that promoted and could not be cut over."""
    (runner.folder / "broken").touch()
    runner.configure(options={"outputs": PROMOTED, "broken": "cutover", **options})
    spec = spec_of(plan_of(SWITCH), epoch=3, generation=1)
    await session.start(spec, {})
    home = await to_the_end(session, spec.run_id)
    assert (home.result.outcome, home.result.primary_after) == (Outcome.FAILED, "cloud-db")
    return spec, home


def kinds(home: RunReturn) -> list[str]:
    """The journal, by kinds."""
    return [json.loads(line)["kind"] for line in journal.lines_of(home.journal)]


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a run's folder, without locks and logs."""
    return {p.name: p.read_bytes() for p in folder.glob("*") if p.name in ("result.json", "journal.jsonl")}


def test_a_run_that_promoted_goes_on_where_it_failed(runner: Runner) -> None:
    """Mended and resumed: only what is left is done; a second signed result; the first one and its journal are kept."""

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            spec, first = await failed(runner, session)
            (runner.folder / "broken").unlink()
            with pytest.raises(StaleGenerationError, match="epoch 2"):
                await session.resume(spec.run_id, 2)
            await session.resume(spec.run_id, 3, by="ada", reason="the authority is mended")
            home = await to_the_end(session, spec.run_id)
            assert verify_record(home.result, VERIFIER)
            assert (home.result.outcome, home.result.primary_after) == (Outcome.SUCCEEDED, "cloud-db")
            assert journal.head_of(journal.lines_of(home.journal)) == home.result.journal_head
            assert home.journal.startswith(first.journal)
            reopened = json.loads(journal.lines_of(home.journal)[len(kinds(first))])
            assert reopened["kind"] == "reopened"
            assert (reopened["body"]["by"], reopened["body"]["reason"]) == ("ada", "the authority is mended")
            kept = runner.folders.run(spec.run_id) / "result.1.json"
            assert kept.read_bytes() == first.result.encoded()
            with pytest.raises(PrerequisiteError, match=r"finished .succeeded.*nothing to resume"):
                await session.resume(spec.run_id, 3)

    run(body())
    assert runner.effects == ["promote", "cutover", "verify"]


def test_it_may_fail_and_go_on_again(runner: Runner) -> None:
    """Still broken: it fails again under its own name, keeps both results, and goes on a second time."""

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            spec, _ = await failed(runner, session)
            await session.resume(spec.run_id, 3)
            again = await to_the_end(session, spec.run_id)
            assert (again.result.outcome, kinds(again).count("run-closed")) == (Outcome.FAILED, 2)
            (runner.folder / "broken").unlink()
            await session.resume(spec.run_id, 3)
            assert (await to_the_end(session, spec.run_id)).result.outcome is Outcome.SUCCEEDED
            folder = runner.folders.run(spec.run_id)
            assert sorted(p.name for p in folder.glob("result*")) == ["result.1.json", "result.2.json", "result.json"]

    run(body())
    assert runner.effects == ["promote", "cutover", "verify"]


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("broken", {"refuses": True}, PrerequisiteError),
        ("moved", {"moved": "promote"}, StaleGenerationError),
    ],
)
def test_it_stays_as_it_ended_where_a_preflight_refuses(
    runner: Runner, name: str, options: dict[str, Any], error: type[Exception]
) -> None:
    """What is left cannot be done: 12. What was done does not stand any more: 15. Nothing is touched, by either."""

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            spec, _ = await failed(runner, session)
            runner.configure(options={"outputs": PROMOTED, "broken": "cutover", **options})
            (runner.folder / name).touch()
            before = files(runner.folders.run(spec.run_id))
            with pytest.raises(error, match=f"it is {name}"):
                await session.resume(spec.run_id, 3)
            assert files(runner.folders.run(spec.run_id)) == before
            assert (await session.status(spec.run_id)).state == "finished"
            (runner.folder / name).unlink(missing_ok=True)
            (runner.folder / "broken").unlink(missing_ok=True)
            await session.resume(spec.run_id, 3)
            assert (await to_the_end(session, spec.run_id)).result.outcome is Outcome.SUCCEEDED

    run(body())


@pytest.mark.req("GEN-1", "EXE-3")
def test_it_never_goes_on_behind_a_later_generation_or_beside_another_run(runner: Runner) -> None:
    """The runner knows of a later generation: 15. Another run of the service is open there: 12."""

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            spec, _ = await failed(runner, session)
            runner.configure(options={"crash_at": 5})
            other = spec_of(plan_of(SWITCH), epoch=3, generation=2, token="x")
            await session.start(other, {})
            assert [e async for e in session.attach(other.run_id)][-1].body["state"] == "interrupted"
            with pytest.raises(PrerequisiteError, match=rf"run {other.run_id} of .* is open here"):
                await session.resume(spec.run_id, 3)
            await session.resume(other.run_id, 3)
            await to_the_end(session, other.run_id)
            runner.folders.raise_seen(spec.service, generation=3)
            with pytest.raises(StaleGenerationError, match="is at 3 by now"):
                await session.resume(spec.run_id, 3)

    run(body())


def test_a_finished_run_that_cannot_go_on_or_be_cancelled_says_so(runner: Runner) -> None:
    """Succeeded, or failed before any promotion: exit 12 from both verbs, and nothing is written."""

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            (runner.folder / "broken").touch()
            runner.configure(options={"broken": "promote"})
            spec = spec_of(plan_of(SWITCH), epoch=3)
            await session.start(spec, {})
            assert (await to_the_end(session, spec.run_id)).result.outcome is Outcome.FAILED
            before = files(runner.folders.run(spec.run_id))
            with pytest.raises(PrerequisiteError, match=r"finished .failed.*nothing to resume"):
                await session.resume(spec.run_id, 3)
            with pytest.raises(PrerequisiteError, match=r"finished .failed.*nothing to cancel"):
                await session.cancel(spec.run_id, 3, "too late")
            assert files(runner.folders.run(spec.run_id)) == before

    run(body())


@pytest.mark.fault(15)
@pytest.mark.parametrize("crash_at", range(1, 10))
def test_a_job_killed_while_it_goes_on_is_resumed_like_every_other(runner: Runner, crash_at: int) -> None:
    """kill -9 at each boundary of the continued run, the first three around the reopening: the boot unit ends it."""

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            spec, first = await failed(runner, session)
            (runner.folder / "broken").unlink()
            runner.configure(options={"outputs": PROMOTED, "broken": "cutover", "crash_at": crash_at})
            asking = asyncio.create_task(session.resume(spec.run_id, 3))
            folder = runner.folders.run(spec.run_id)
            await asyncio.to_thread(wait_until, runner.folder, (runner.folder / "crashed").exists, LIMIT_S)
            ended = lambda: runner.folders.state(spec.run_id) != "running"  # noqa: E731
            await asyncio.to_thread(wait_until, folder, ended, LIMIT_S)
            assert runner.folders.state(spec.run_id) == "interrupted"
            assert boot.resume_all(RunnerConfig.load(runner.config)) == [spec.run_id]
            await asking
            ended = lambda: runner.folders.state(spec.run_id) == "finished"  # noqa: E731
            await asyncio.to_thread(wait_until, folder, ended, LIMIT_S)
            home = await to_the_end(session, spec.run_id)
            assert (home.result.outcome, kinds(home).count("reopened")) == (Outcome.SUCCEEDED, 1)
            assert (folder / "result.1.json").read_bytes() == first.result.encoded()
            assert boot.resume_all(RunnerConfig.load(runner.config)) == []

    run(body())
    assert runner.effects == ["promote", "cutover", "verify"]
