"""Two versions of hyops on the two sides of a dispatch, or one after the other on a runner (RUN-11, fault 33).

The runner's server is a process of its own, with its own version and range of protocols.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.runner.conftest import Runner

from hyops.adapters.runner_session import FramedSession
from hyops.errors import PrerequisiteError, ProtocolError
from hyops.model import protocol, wire
from hyops.model.vocabulary import Outcome
from hyops.runner import versions
from hyops.runner.serve import VERBS
from hyops.testing.runs import noop_plan, plan_of, spec_of, step
from local_runner import SPOKEN, LocalLink, session
from waiting import PATIENCE_S

CHAIN = [step("a"), step("b", "a")]


def run(body: Coroutine[Any, Any, Any]) -> Any:
    """Run within a hard limit."""
    return asyncio.run(asyncio.wait_for(body, PATIENCE_S))


@contextlib.contextmanager
def dispatcher(low: int, high: int) -> Iterator[None]:
    """This process speaks these protocols; the runner's is another process and keeps its own."""
    before = protocol.PROTOCOL_MIN, protocol.PROTOCOL_MAX
    protocol.PROTOCOL_MIN, protocol.PROTOCOL_MAX = low, high
    try:
        yield
    finally:
        protocol.PROTOCOL_MIN, protocol.PROTOCOL_MAX = before


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.req("RUN-11")
@pytest.mark.fault(33)
@pytest.mark.parametrize(
    ("ours", "theirs", "spoken"),
    [((1, 1), (1, 3), 1), ((2, 4), (1, 3), 3), ((1, 3), (3, 5), 3)],
    ids=["newer-runner", "newer-dispatcher", "just-meeting"],
)
def test_ranges_that_meet_are_served_in_the_highest_common_protocol(
    runner: Runner, ours: tuple[int, int], theirs: tuple[int, int], spoken: int
) -> None:
    """Whichever side is newer, the run is staged, runs and comes home."""
    spec = spec_of(plan_of(CHAIN))

    async def body() -> None:
        link = LocalLink(runner.config, "9.9.9", theirs)
        try:
            found = session(link)
            assert (await found.hello()).hyops_version == "9.9.9"
            assert found._spoken["protocol"] == spoken
            assert await found.start(spec, {}) == "started"
            assert [e.stream async for e in found.attach(spec.run_id)][-1] == "end"
            assert (await found.collect(spec.run_id)).result.outcome is Outcome.SUCCEEDED
        finally:
            await link.drop()

    with dispatcher(*ours):
        run(body())
    assert runner.effects == ["a", "b"]


@pytest.mark.req("RUN-11")
@pytest.mark.fault(33)
@pytest.mark.parametrize(
    ("ours", "theirs", "older"),
    [((1, 2), (3, 4), "this host"), ((5, 6), (1, 4), "cloud-runner")],
    ids=["older-dispatcher", "older-runner"],
)
def test_ranges_that_do_not_meet_are_refused_before_staging(
    runner: Runner, ours: tuple[int, int], theirs: tuple[int, int], older: str
) -> None:
    """Exit 12; both versions and the side to upgrade are named; nothing is there afterwards."""
    spec = spec_of(noop_plan())

    async def body() -> None:
        link = LocalLink(runner.config, "9.9.9", theirs)
        try:
            for act in ("stage", "start", "resume", "gc"):
                with pytest.raises(ProtocolError) as refused:
                    await _act(session(link), act, spec)
                assert refused.value.exit_code == 12
                assert "hyops 9.9.9" in refused.value.message
                assert "hyops 0.1.0" in refused.value.message
                assert f"upgrade hyops on {older} to " in refused.value.hint
        finally:
            await link.drop()

    with dispatcher(*ours):
        run(body())
    assert runner.folders.run_ids() == []
    assert list(runner.folders.cas.iterdir()) == []


async def _act(found: FramedSession, act: str, spec: Any) -> None:
    if act == "stage":
        await found.stage(spec.run_id, {"a": b"x"})
    elif act == "start":
        await found.start(spec, {})
    elif act == "resume":
        await found.resume(spec.run_id, 1)
    else:
        await found.gc(dry_run=False)


@pytest.mark.req("RUN-11")
@pytest.mark.fault(33)
def test_a_runner_upgraded_after_the_greeting_refuses_the_old_protocol(runner: Runner) -> None:
    """Each channel is a new process: what was agreed on with the old one is not taken by the new one."""
    spec = spec_of(noop_plan())

    async def body() -> None:
        link = LocalLink(runner.config, "1.0.0", SPOKEN)
        try:
            found = session(link)
            following = found.attach(spec.run_id, follow=False)
            await found.hello()
            async for _ in following:  # holds no channel afterwards
                pass
            found._idle.clear()
            link.version, link.protocols = "2.0.0", (SPOKEN[1] + 1, SPOKEN[1] + 1)
            with pytest.raises(ProtocolError, match=r"hyops 2\.0\.0") as refused:
                await found.start(spec, {})
            assert "the dispatcher has hyops 0.1.0" in refused.value.message
            assert (await found.status(spec.run_id)).state == "absent"
        finally:
            await link.drop()

    run(body())


@pytest.mark.req("RUN-11", "RUN-5")
@pytest.mark.fault(33)
def test_a_run_under_way_is_finished_by_the_code_it_started_with(runner: Runner) -> None:
    """The runner is upgraded past the dispatcher while a step runs: followed and collected, though nothing is served.

    The job that was started goes on; the new server only reads what it writes.
    """
    runner.configure(options={"hold": "a"})
    spec = spec_of(plan_of(CHAIN))

    async def body() -> None:
        old = LocalLink(runner.config, "1.0.0", SPOKEN)
        await session(old).start(spec, {})
        await old.drop()
        new = LocalLink(runner.config, "2.0.0", (7, 9))
        try:
            found = session(new)
            with pytest.raises(ProtocolError):
                await found.hello()
            following = found.attach(spec.run_id)
            async for event in following:
                if event.body.get("kind") == "intent":
                    break
            os.close(os.open(runner.folder / "held", os.O_WRONLY))
            assert [e.stream async for e in following][-1] == "end"
            home = await found.collect(spec.run_id)
            assert home.result.outcome is Outcome.SUCCEEDED
            assert json.loads(home.journal.splitlines()[0])["body"]["journal_format"] == versions.JOURNAL_FORMAT
        finally:
            await new.drop()

    run(body())
    assert runner.effects == ["a", "b"]


def begun(runner: Runner, crash_at: int = 9) -> Any:
    """A run whose job was killed in its middle."""
    runner.configure(options={"crash_at": crash_at})
    spec = spec_of(plan_of(CHAIN))

    async def body() -> None:
        link = LocalLink(runner.config)
        found = session(link)
        await found.start(spec, {})
        assert [e async for e in found.attach(spec.run_id)][-1].body["state"] == "interrupted"
        await link.drop()

    run(body())
    return spec


def rewrite(runner: Runner, run_id: str, fmt: object) -> None:
    """Make the journal one of another version's format, with a torn end as after a crash."""
    path = runner.folders.run(run_id) / "journal.jsonl"
    first, _, _ = path.read_bytes().partition(b"\n")
    value = json.loads(first)
    value["body"] |= {"journal_format": fmt, "hyops_version": "3.1.4"}
    path.write_bytes(json.dumps(value).encode() + b'\n{"torn')


@pytest.mark.req("RUN-11", "RUN-5", "EVD-4")
@pytest.mark.fault(33, 12)
@pytest.mark.parametrize("fmt", [2, "x"])
def test_a_run_in_an_unknown_journal_format_is_refused_and_left_untouched(runner: Runner, fmt: object) -> None:
    """Resume, start again, cancel, forced cancel, boot, the job itself: exit 12 with both versions; no byte changes."""
    spec = begun(runner)
    rewrite(runner, spec.run_id, fmt)
    folder = runner.folders.run(spec.run_id)
    before = everything(folder)
    epochs = everything(runner.folders.generations)

    async def body() -> None:
        link = LocalLink(runner.config)
        try:
            found = session(link)
            asked = [
                lambda: found.resume(spec.run_id, 2),
                lambda: found.start(spec.model_copy(update={"epoch": 2}), {}),
                lambda: found.cancel(spec.run_id, 2, "why"),
                lambda: found.cancel(spec.run_id, 2, "why", force=True),
            ]
            for ask in asked:
                with pytest.raises(PrerequisiteError, match=r"hyops 3\.1\.4 .* hyops 0\.1\.0") as refused:
                    await ask()
                assert "install hyops 3.1.4" in refused.value.hint
            assert (await found.status(spec.run_id)).state == "interrupted"
        finally:
            await link.drop()

    run(body())
    words = [sys.executable, "-m", "hyops", "runner-serve", "--config", str(runner.config), "--resume-all"]
    booted = subprocess.run(words, capture_output=True, text=True)
    assert (booted.stdout, "not resumed" in booted.stderr, booted.returncode) == ("", True, 12)
    entry = Path(__file__).with_name("job_entry.py")
    job = subprocess.run(
        [sys.executable, str(entry), "--config", str(runner.config), spec.run_id], capture_output=True, text=True
    )
    assert (job.returncode, "hyops 3.1.4" in job.stderr) == (12, True)
    after = everything(folder)
    assert {k: v for k, v in after.items() if k != "alive"} == {k: v for k, v in before.items() if k != "alive"}
    assert everything(runner.folders.generations) == epochs


@pytest.mark.req("RUN-11")
@pytest.mark.fault(33)
def test_without_the_look_at_the_format_the_run_is_written_on(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the guard out of the job: it mends the torn end of a journal that it cannot read (the guard's guard)."""
    spec = begun(runner)
    rewrite(runner, spec.run_id, 2)
    path = runner.folders.run(spec.run_id) / "journal.jsonl"
    before = path.read_bytes()
    taken_out = (
        "import sys; from hyops.runner import versions; versions.refuse_journal = lambda folder: None;"
        "sys.argv[0] = sys.argv.pop(1); import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    entry = str(Path(__file__).with_name("job_entry.py"))
    words = [sys.executable, "-c", taken_out, entry, "--config", str(runner.config), spec.run_id]
    subprocess.run(words, capture_output=True, check=False)
    assert path.read_bytes() != before


@pytest.mark.req("RUN-11", "RUN-5")
@pytest.mark.fault(33)
def test_a_run_in_a_known_format_is_resumed_by_another_version(runner: Runner) -> None:
    """Its job was killed and hyops replaced by one that knows the format: it goes on where it was."""
    spec = begun(runner)

    async def body() -> None:
        link = LocalLink(runner.config, "2.0.0", (1, 2))
        try:
            found = session(link)
            await found.resume(spec.run_id, 2)
            assert [e.stream async for e in found.attach(spec.run_id)][-1] == "end"
            assert (await found.collect(spec.run_id)).result.outcome is Outcome.SUCCEEDED
        finally:
            await link.drop()

    run(body())
    assert sorted(set(runner.effects)) == ["a", "b"]


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize("number", [0, -1, "1", True, 2**40, None])
def test_a_protocol_that_is_no_number_is_a_usage_error(runner: Runner, number: object) -> None:
    """Said by the runner itself, for every verb."""
    frame = wire.encode({"verb": "status", "run_id": "run-x", "protocol": number})
    words = [sys.executable, "-m", "hyops", "runner-serve", "--config", str(runner.config)]
    done = subprocess.run(words, input=frame, capture_output=True, check=True)
    assert json.loads(done.stdout)["error"]["error"] == "UsageError"


@pytest.mark.req("RUN-11")
def test_what_makes_something_is_a_verb_that_the_server_knows() -> None:
    """A verb that was renamed would slip past the check of the protocol."""
    assert set(VERBS) > versions.MAKING
    looks = {"hello", "attach", "status", "jobs", "cancel", "collect", "collected", "orders", "taken"}
    assert set(VERBS) - versions.MAKING == looks
