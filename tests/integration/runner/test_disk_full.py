"""A runner's disk that fills between the offer and the end of a run: told as a full disk, and nothing is done twice.

A real server and a real job on a small file system of their own, with the executor's own dialling on the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest

if TYPE_CHECKING:
    from tests.integration.runner.conftest import Runner

    from hyops.adapters.runner_session import FramedSession

from hyops.control.execution import attempt_of
from hyops.engine import journal
from hyops.errors import DiskFullError, Effect
from hyops.model import canonical
from hyops.model.execution import AttemptOutcome
from hyops.model.run import RunSpec
from hyops.model.vocabulary import Outcome
from hyops.ports.starts import Hindrance
from hyops.runner import room
from hyops.services.dialling import Dialler
from hyops.services.execution_parts import Bundles
from hyops.testing.clock import FakeClock
from hyops.testing.evidence import VERIFIER
from hyops.testing.runs import bundle_of, plan_of, spec_of, step
from hyops.testing.starts import MemoryStarts
from local_runner import LocalLink, session
from waiting import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounting a file system of its own")
PAGE = 4096
SIZE = 512 * PAGE
FILES = {"play.yml": b"- hosts: all\n" * 2000}
STAGES = [
    ("offer", "dial", 3, Outcome.REFUSED),
    ("stream", "ship", 3, Outcome.REFUSED),
    ("epoch", "start", 0, Outcome.REFUSED),
    ("spec", "start", 1, Outcome.REFUSED),
    ("journal", "start", 10, None),
    ("reserve", "start", 60, None),
]
"""What finds no room; when somebody fills the disk, and how many pages are left; how the attempt stands then."""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Runner]:
    """A runner whose root is a file system of 2 MiB; nothing of it listens."""
    from tests.integration.runner.conftest import Runner

    place = tmp_path / "root"
    place.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", str(place)], check=True)
    try:
        made = Runner(tmp_path)
        made.configure(disk_free_min_bytes=1)
        made.folders.make()
        try:
            yield made
        finally:
            made.end()
    finally:
        command = ["umount", str(place)]
        wait_for(lambda: subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0, "the end of the last job")


def fill(runner: Runner, pages: int) -> Path:
    """Somebody else takes all but so many pages; returns the file that holds them."""
    filler = runner.folders.root / "filler"
    stat = os.statvfs(runner.folders.root)
    with filler.open("wb") as out:
        os.posix_fallocate(out.fileno(), 0, (stat.f_bavail - pages) * stat.f_frsize)
    return filler


class Executor:
    """What an executor does with one attempt; `strike` is called `at` its dial, its shipping or its start."""

    def __init__(self, runner: Runner, spec: RunSpec, at: str, strike: Callable[[], object]) -> None:
        self._runner, self._at, self._strike = runner, at, strike
        self.clock, self.starts = FakeClock(datetime.now(UTC)), MemoryStarts()
        self.execution, self.spec = spec.execution, spec
        self.attempt = attempt_of(spec.execution, "dispatch", self.clock.now())
        files = {name: replace(file, open=self._opening(file.open)) for name, file in bundle_of(FILES).items()}
        bundles = Bundles(files=lambda plan: files if plan.bundle else {})
        self._dialler = Dialler(
            self,
            self.starts,
            self._spec_of,
            lambda _execution: None,
            verifier=VERIFIER,
            clock=self.clock,
            bundles=bundles,
        )

    def _spec_of(self, execution: Any, *, epoch: int, run_id: str) -> RunSpec:
        return self.spec.model_copy(update={"epoch": epoch})

    def _struck(self, at: str) -> None:
        if at == self._at:
            self._strike()

    def _opening(self, opened: Callable[[], BinaryIO]) -> Callable[[], BinaryIO]:
        def struck() -> BinaryIO:
            self._struck("ship")
            return opened()

        return struck

    @contextlib.asynccontextmanager
    async def connect(self, runner_ref: str) -> AsyncIterator[FramedSession]:
        """A server of its own; no link in between."""
        link = LocalLink(self._runner.config)
        made = session(link)
        start = made.start

        async def started(spec: RunSpec, secrets: Any) -> Any:
            self._struck("start")
            return await start(spec, secrets)

        made.start = started  # type: ignore[method-assign]
        try:
            yield made
        finally:
            await link.drop()

    def dial(self) -> AttemptOutcome | None:
        """One try."""
        self._struck("dial")
        ended = asyncio.run(asyncio.wait_for(self._dialler.dial(self.attempt, self.execution), 60.0))
        return None if ended is None else ended[0]

    @property
    def hindrance(self) -> Hindrance:
        """What people are told."""
        found = self.starts.hindrance(self.attempt.attempt_id)
        assert found is not None
        return found


def spec(*, bundle: bool = True) -> RunSpec:
    """Two steps, with a file or without."""
    plan = plan_of([step("a"), step("b", "a")])
    named = {name: canonical.digest_bytes(data) for name, data in FILES.items()} if bundle else {}
    return spec_of(plan.model_copy(update={"bundle": named}))


@pytest.mark.req("RUN-11", "EXE-1", "UX-1", "EVD-4")
@pytest.mark.fault(17, 32)
@pytest.mark.parametrize(("at", "pages", "ends"), [case[1:] for case in STAGES], ids=[case[0] for case in STAGES])
def test_wherever_the_disk_fills_it_is_said_and_nothing_is_done_twice(
    small: Runner, at: str, pages: int, ends: Outcome | None
) -> None:
    """Refused with nothing there, or open and tried again: either way runner, folder and mend are named."""
    found: list[Path] = []
    executor = Executor(small, spec(), at, lambda: found or found.append(fill(small, pages)))

    outcome = executor.dial()

    (filler,) = found
    assert (outcome and outcome.outcome) is ends
    if outcome is None:
        told = executor.hindrance
        assert (told.error, str(small.folders.root) in told.message) == ("DiskFullError", True)
        assert (told.message.startswith("cloud-runner: "), "hyops runner gc" in told.hint) == (True, True)
        filler.unlink()
        outcome = executor.dial()
        assert outcome is not None
        assert outcome.outcome is Outcome.SUCCEEDED
        assert executor.starts.hindrance(executor.attempt.attempt_id) is None
    if outcome.outcome is Outcome.SUCCEEDED:
        assert small.effects == ["a", "b"]
    else:
        assert outcome.outcome is Outcome.REFUSED
        assert str(outcome.reason).startswith("DiskFullError: ")
        assert str(small.folders.root) in str(outcome.reason)
        assert small.effects == []
        assert not small.folders.run(executor.spec.run_id).exists()


@pytest.mark.req("RUN-11", "RUN-5", "EXE-1", "UX-1")
@pytest.mark.fault(17)
def test_a_disk_that_fills_before_the_first_record_is_no_runner_that_is_away(
    small: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    """The spec lies there and no journal does: told at each try, by the runner too; with room it runs, once."""
    found: list[Path] = []
    executor = Executor(small, spec(bundle=False), "start", lambda: found or found.append(fill(small, 20)))

    for _ in range(2):
        assert executor.dial() is None
        assert executor.hindrance.error == "DiskFullError"
        assert "disk full" in executor.hindrance.message
    said = capsys.readouterr().err
    assert ("runner's disk is full" in said, "runner not reached" in said) == (True, False)
    folder = small.folders.run(executor.spec.run_id)
    assert ((folder / "spec.json").exists(), small.effects) == (True, [])

    async def seen() -> dict[str, Any]:
        link = LocalLink(small.config)
        try:
            (status,) = await session(link).jobs()
            with pytest.raises(DiskFullError, match=r"cloud-runner: .*disk full") as refused:
                await session(link).resume(executor.spec.run_id, executor.starts.next_epoch())
            assert refused.value.effect is Effect.NONE
            return status.facts
        finally:
            await link.drop()

    facts = asyncio.run(seen())
    assert f"{folder}: disk full" in facts["fault"]
    assert "hyops runner gc" in facts["hint"]

    found[0].unlink()
    outcome = executor.dial()
    assert outcome is not None
    assert (outcome.outcome, small.effects) == (Outcome.SUCCEEDED, ["a", "b"])


@pytest.mark.req("RUN-11")
def test_without_the_look_at_the_disk_the_runner_seems_away(
    small: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Take it out of the server: the executor hears of a job that did not open its run (the guard's guard)."""
    small.configure(disk_free_min_bytes=1, start_wait_s=1.0)
    blind = "from hyops.runner import room; room.lacking = room.refused = lambda folder: None\n"
    monkeypatch.setattr("local_runner.SERVE", blind + __import__("local_runner").SERVE)
    found: list[Path] = []
    executor = Executor(small, spec(bundle=False), "start", lambda: found or found.append(fill(small, 20)))

    assert executor.dial() is None

    assert executor.hindrance.error == "RunnerUnreachableError"
    assert "runner not reached" in capsys.readouterr().err


@pytest.mark.req("EVD-4")
@pytest.mark.fault(17)
def test_what_a_journal_needs_is_known_without_writing(small: Runner) -> None:
    """The look and the try agree with the journal itself: where they see no room it refuses, and the reverse."""
    assert room.RESERVE_BYTES == journal.RESERVE_BYTES
    for number, pages in enumerate((1, 40, 63, 100)):
        folder = small.folders.runs / f"run-{number}"
        folder.mkdir(mode=0o700)
        filler = fill(small, pages)
        fits = room.lacking(folder) is None
        assert (room.refused(folder) is None) is fits
        assert list(folder.iterdir()) == []
        if fits:
            journal.Journal(folder / "journal.jsonl").close()
        else:
            with pytest.raises(journal.JournalFullError):
                journal.Journal(folder / "journal.jsonl")
        filler.unlink()
        if (folder / "journal.jsonl").exists():
            (folder / "journal.jsonl").unlink()
        (folder / "journal.jsonl.reserve").unlink(missing_ok=True)
    assert fits


def test_a_read_only_file_system_is_told_as_that(small: Runner) -> None:
    """It is not full, and no clean-up helps."""
    folder = small.folders.runs
    subprocess.run(["mount", "-o", "remount,ro", str(small.folders.root)], check=True)
    try:
        assert room.lacking(folder) == "the file system is read-only"
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small.folders.root)], check=True)
