"""A module that is applied from here: what its state says, whatever became of it (ROOT-3, VOC-5, LOOP-4)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.owned_lock import owned_lock
from hyops.adapters.states_files import FileStates
from hyops.errors import (
    ConfigError,
    HostKeyError,
    HyopsError,
    NotVerifiedError,
    PrerequisiteError,
    RunnerUnreachableError,
    TargetError,
)
from hyops.model.module_spec import ModuleSpec
from hyops.ports.plays import Play, PlayHost, PlayResult, PlayStatus
from hyops.services.module_desk import ModuleDesk
from hyops.services.module_state import ModuleBook
from hyops.testing.clock import FakeClock

pytestmark = pytest.mark.req("ROOT-3", "LOOP-4")

REF = "platform/test/thing"
ITEM = {"what": "file /x", "state": "made"}


class FakeDriver:
    """Ends as the test says; while it runs, `during` looks."""

    def __init__(self, result: PlayResult | BaseException, during: Callable[[], None] = lambda: None) -> None:
        self.result, self.during = result, during
        self.plays: list[Play] = []

    async def version(self) -> str:
        """Of nothing."""
        return "2.16.1"

    async def run(self, play: Play, tell: Callable[[str], None]) -> PlayResult:
        """Once."""
        self.plays.append(play)
        self.during()
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def good(status: PlayStatus = PlayStatus.CHANGED, **answer: Any) -> PlayResult:
    """All went well."""
    return PlayResult(status, "", {"ok": True, "wanting": 1, "items": [ITEM], **answer}, [], reached=True)


def bad(status: PlayStatus, *, reached: bool = True, **answer: Any) -> PlayResult:
    """It did not."""
    return PlayResult(status, "why", {"ok": False, **answer} if answer else {}, [], reached)


class Site:
    """An environment with one module in it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.root.mkdir(mode=0o700)
        self.states = FileStates(self.root)
        self.spec = ModuleSpec.of(
            {
                "api_version": "hybridops/v1",
                "kind": "ModuleSpec",
                "module_ref": REF,
                "title": "a thing",
                "driver": "config/ansible",
                "profile": "p@v1",
                "pack": "p@v1",
                "inputs": {},
                "outputs": ["cap.test.thing"],
            }
        )

    @property
    def seen(self) -> list[str]:
        """The status of every generation, oldest first."""
        return [kept.state.status for kept in self.states.history(REF)]

    @contextlib.contextmanager
    def lock(self) -> Iterator[int]:
        """The module's."""
        with owned_lock(self.root / "lock", "test", wait_s=0.0) as fd:
            yield fd

    def desk(self, driver: FakeDriver, outputs: Mapping[str, Any] | None = None) -> ModuleDesk:
        """A desk for one command."""
        host = PlayHost("h", "127.0.0.1", 22, "root", Path("/k"), Path("/h"))
        return ModuleDesk(
            spec=self.spec,
            driver=driver,
            book=ModuleBook(self.states, FakeClock(), REF, "apply-20260101T000000Z-00000000"),
            play=lambda action, check, held: Play(Path("/p"), f"{action}.yml", host, {}, str, check, {}, held),
            published=lambda answer: dict(outputs if outputs is not None else {"cap.test.thing": "ready"}),
            lock=self.lock,
            contract={"host": "h"},
            facts={"driver": "config/ansible"},
        )

    def apply(self, driver: FakeDriver, **more: Any) -> Any:
        """One `hyops apply`."""
        return asyncio.run(self.desk(driver, **more).apply())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Nothing was applied yet."""
    return Site(tmp_path)


def test_the_state_is_running_before_the_effect_and_ok_after_it(site: Site) -> None:
    """Intent on disk before the driver begins; outputs only when it ended well; the lock is handed on."""
    driver = FakeDriver(good(), lambda: statuses.append(site.seen[-1]))
    statuses: list[str] = []

    done = site.apply(driver)

    assert (statuses, site.seen) == (["running"], ["running", "ok"])
    assert (done.changed, done.items, done.state.outputs) == (True, [ITEM], {"cap.test.thing": "ready"})
    assert done.state.execution["tool_version"] == "2.16.1"
    assert len(driver.plays[0].held) == 1


def test_a_look_writes_nothing(site: Site) -> None:
    """Not even that it looked; its play is a check."""
    driver = FakeDriver(good())
    asyncio.run(site.desk(driver).look("apply"))
    assert (site.seen, driver.plays[0].check) == ([], True)


@pytest.mark.req("VOC-5", "UX-1")
@pytest.mark.parametrize(
    ("result", "error", "status"),
    [
        (bad(PlayStatus.FAILED, touched=True, message="x"), TargetError, "error"),
        (bad(PlayStatus.FAILED), TargetError, "error"),
        (bad(PlayStatus.UNREACHABLE), RunnerUnreachableError, "unknown"),
        (bad(PlayStatus.UNKNOWN), TargetError, "unknown"),
        (ValueError("a bug"), HyopsError, "unknown"),
        (asyncio.CancelledError(), asyncio.CancelledError, "unknown"),
    ],
)
def test_an_end_that_touched_something_is_never_ok(
    site: Site, result: Any, error: type[BaseException], status: str
) -> None:
    """Failed is `error`; what nobody saw the end of is `unknown`; the next one goes on from there."""
    site.apply(FakeDriver(good()))
    with pytest.raises(error):
        site.apply(FakeDriver(result))
    assert site.seen == ["running", "ok", "running", status]
    site.apply(FakeDriver(good(PlayStatus.OK)))
    assert site.seen[-2:] == ["running", "ok"]


@pytest.mark.req("UX-1")
@pytest.mark.parametrize(
    ("result", "error", "code"),
    [
        (bad(PlayStatus.FAILED, touched=False, config=True), ConfigError, 11),
        (bad(PlayStatus.FAILED, touched=False, config=False), PrerequisiteError, 12),
        (bad(PlayStatus.UNREACHABLE, reached=False), RunnerUnreachableError, 22),
        (HostKeyError("another key"), HostKeyError, 12),
    ],
)
def test_a_refusal_that_touched_nothing_leaves_what_stood(
    site: Site, result: Any, error: type[HyopsError], code: int
) -> None:
    """What was `ok` still is, with its outputs, and says what was refused; the first of all is an `error`."""
    with pytest.raises(error):
        site.apply(FakeDriver(result))
    assert site.seen == ["running", "error"]
    site.apply(FakeDriver(good()))
    with pytest.raises(error) as caught:
        site.apply(FakeDriver(result))
    assert (caught.value.exit_code, str(caught.value.effect)) == (code, "none")
    kept = site.states.read(REF)
    assert kept is not None
    assert (kept.state.status, kept.state.outputs) == ("ok", {"cap.test.thing": "ready"})
    assert kept.state.execution["exit_code"] == code


@pytest.mark.req("VOC-5")
def test_a_running_that_nobody_runs_becomes_unknown_before_the_next_begins(site: Site) -> None:
    """Whoever was killed wrote no end: the history says so, and the next one does not take it for its own."""
    book = site.desk(FakeDriver(good())).book
    book.write("running", None, outputs={}, execution={"action": "apply"})

    site.apply(FakeDriver(good()))

    assert site.seen == ["running", "unknown", "running", "ok"]


@pytest.mark.req("ROOT-5")
def test_a_second_one_at_the_same_time_is_refused_and_writes_nothing(site: Site) -> None:
    """While one holds the module's lock nobody else touches its state."""
    driver = FakeDriver(good())
    with site.lock(), pytest.raises(PrerequisiteError, match="held for more than"):
        site.apply(driver)
    assert (site.seen, driver.plays) == ([], [])


@pytest.mark.req("MOD-1")
@pytest.mark.parametrize("outputs", [{}, {"cap.test.thing": "ready", "password": "x"}])
def test_only_the_outputs_of_the_spec_are_published(site: Site, outputs: dict[str, str]) -> None:
    """One that is lacking or unknown: it is done, not proven, and nothing of it goes into the state."""
    with pytest.raises(NotVerifiedError, match="not those of its spec"):
        site.apply(FakeDriver(good()), outputs=outputs)
    kept = site.states.read(REF)
    assert kept is not None
    assert (kept.state.status, kept.state.outputs) == ("error", {})


def test_a_destroyed_module_publishes_nothing(site: Site) -> None:
    """Its state stays, as `destroyed`."""
    site.apply(FakeDriver(good()))
    done = asyncio.run(site.desk(FakeDriver(good())).destroy())
    assert done.state is not None
    assert (done.state.status, done.state.outputs) == ("destroyed", {})


@pytest.mark.fault(32)
def test_a_disk_that_fills_up_under_way_is_told_as_done_and_not_written(site: Site) -> None:
    """The host was changed: nobody may read of it that nothing was touched, and the state stays `running`."""

    def full() -> None:
        def refused(why: str) -> Any:
            raise PrerequisiteError("no room")

        site.states.writing = refused  # type: ignore[method-assign]

    with pytest.raises(NotVerifiedError, match="not written down"):
        site.apply(FakeDriver(good(), full))
    assert site.seen == ["running"]
